"""A file is whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from facezoo.files import atomic_path, write_atomic


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(type(error)), atomic_path(target) as temporary:  # noqa: PT012
        temporary.write_bytes(b"half of the n")
        raise error
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_rename_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr("facezoo.files.os.replace", fail)
    with pytest.raises(PermissionError):
        write_atomic(tmp_path / "file", "text")
    assert list(tmp_path.iterdir()) == []


def test_the_data_is_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr("facezoo.files.os.fsync", lambda descriptor: (order.append("sync"), fsync(descriptor)))
    monkeypatch.setattr("facezoo.files.os.replace", lambda *paths: (order.append("rename"), replace(*paths)))
    write_atomic(tmp_path / "file", b"\x00\x01")
    assert order[:2] == ["sync", "rename"]
    assert (tmp_path / "file").read_bytes() == b"\x00\x01"


def test_text_is_utf8_with_unix_line_ends_in_a_new_folder(tmp_path: Path) -> None:
    write_atomic(tmp_path / "new" / "file.md", "a\nü\n")
    assert (tmp_path / "new" / "file.md").read_bytes() == "a\nü\n".encode()


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_atomic(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a folder; name a file in it"):
        write_atomic(tmp_path, "text")
