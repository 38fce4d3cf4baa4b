"""Packing that is killed, finds the disk full, or is not alone; folders that are damaged or lie: what is said, what is kept."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from facezoo.data import DataError, PackedFolder, PackOptions, open_source, pack
from small_packs import SMALL, contents, packed, picture, write_pictures


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "faces")


# ------------------------------------------------------------------ killed, full, two at once


class _Stop(BaseException):
    pass


@pytest.mark.parametrize("at", [4, 8, 12, 14])
def test_a_run_that_stops_goes_on_and_ends_with_the_same_files(faces: Path, at: int) -> None:
    whole = contents(packed(faces, "whole"))

    def stop(done: int, total: int) -> None:
        if done >= at:
            raise _Stop

    with pytest.raises(_Stop):
        pack(open_source(faces), faces.parent / "packed", SMALL, progress=stop)
    assert not (faces.parent / "packed").exists()
    seen: list[int] = []
    pack(open_source(faces), faces.parent / "packed", SMALL, progress=lambda done, total: seen.append(done))
    assert contents(faces.parent / "packed") == whole
    assert seen == [4, 8, 12, 14]


_PACKER = """
import json, os, random, shutil, signal, sys, time
from facezoo.data import PackOptions, open_source, pack
faces, folder = sys.argv[1:]
options = PackOptions(size=(48, 40), images_per_shard=4)
draw = random.Random(0)

def begin(out):
    child = os.fork()
    if not child:
        try:
            pack(open_source(faces), out, options)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child

start = time.monotonic()
assert os.waitpid(begin(folder + "/whole"), 0)[1] == 0
seconds = time.monotonic() - start
left = []
for attempt in range(200):
    out = f"{folder}/{len(left)}"
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(out + ".partial", ignore_errors=True)
    child = begin(out)
    time.sleep(draw.uniform(0, seconds))
    os.kill(child, signal.SIGKILL)
    if os.waitpid(child, 0)[1] == 0:  # it had ended
        continue
    left.append(sorted(os.listdir(out + ".partial")) if os.path.isdir(out + ".partial") else [])
    if len(left) == 10:
        break
for number in range(10):
    pack(open_source(faces), f"{folder}/{number}", options)
print(json.dumps(left))
"""


@pytest.mark.ci
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_kill_minus_nine_at_ten_random_moments(tmp_path: Path) -> None:
    faces = write_pictures(tmp_path / "faces", 200)
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-W", "ignore", "-c", _PACKER, str(faces), str(tmp_path / "out")]
    left = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert len(left) == 10
    assert len({len(names) for names in left}) > 3  # they were killed at different places
    whole = contents(tmp_path / "out" / "whole")
    for number in range(10):
        assert contents(tmp_path / "out" / str(number)) == whole, left[number]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*map(str, range(10)), "whole"])


@pytest.mark.parametrize("left", ["shard-00001.bin", "shard-00001.note.json", "index.npz", "packed.json"])
def test_what_a_killed_writer_left_does_not_stay(faces: Path, left: str) -> None:
    whole = contents(packed(faces, "whole"))

    def stop(done: int, total: int) -> None:
        raise _Stop

    with pytest.raises(_Stop):
        pack(open_source(faces), faces.parent / "packed", SMALL, progress=stop)
    partial = faces.parent / "packed.partial"
    (partial / f".{left}.123-0a1b2c3d.tmp").write_bytes(b"half")
    (partial / left).write_bytes(b"of another run")
    pack(open_source(faces), faces.parent / "packed", SMALL)
    assert contents(faces.parent / "packed") == whole


def test_notes_without_a_plan_are_not_believed(faces: Path) -> None:
    """A run is killed after its plan has gone, and another source is packed into the same folder."""

    def stop(done: int, total: int) -> None:
        if done == total:
            raise _Stop

    with pytest.raises(_Stop):
        pack(open_source(faces), faces.parent / "packed", SMALL, progress=stop)
    (faces.parent / "packed.partial" / "plan.json").unlink()
    for path in (faces / "p0").iterdir():
        path.unlink()
    whole = contents(packed(faces, "whole"))
    pack(open_source(faces), faces.parent / "packed", SMALL)
    assert contents(faces.parent / "packed") == whole


def test_a_cut_shard_is_written_again(faces: Path) -> None:
    whole = contents(packed(faces, "whole"))

    def stop(done: int, total: int) -> None:
        if done == 8:
            raise _Stop

    with pytest.raises(_Stop):
        pack(open_source(faces), faces.parent / "packed", SMALL, progress=stop)
    shard = faces.parent / "packed.partial" / "shard-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-1])
    pack(open_source(faces), faces.parent / "packed", SMALL)
    assert contents(faces.parent / "packed") == whole


def test_a_begun_folder_of_something_else_is_refused(faces: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise _Stop

    with pytest.raises(_Stop):
        pack(open_source(faces), faces.parent / "packed", SMALL, progress=stop)
    with pytest.raises(DataError, match="begun from another source or with other options"):
        pack(open_source(faces), faces.parent / "packed", PackOptions(size=(32, 32), images_per_shard=4))
    picture(50).save(faces / "p0" / "50.png")
    with pytest.raises(DataError, match="begun from another source"):
        pack(open_source(faces), faces.parent / "packed", SMALL)


def test_two_at_once_and_what_exists(faces: Path) -> None:
    def again(done: int, total: int) -> None:
        with pytest.raises(FileExistsError, match="another process packs"):
            pack(open_source(faces), faces.parent / "packed", SMALL)

    pack(open_source(faces), faces.parent / "packed", SMALL, progress=again)
    with pytest.raises(FileExistsError, match="exists already"):
        pack(open_source(faces), faces.parent / "packed", SMALL)


@pytest.mark.ci
def test_two_processes_into_one_folder(faces: Path) -> None:
    """One stands in the middle of its work while the other, a process of its own, is told so."""
    out = faces.parent / "packed"
    said: list[subprocess.CompletedProcess[str]] = []

    def other(done: int, total: int) -> None:
        if not said:
            command = [sys.executable, "-m", "facezoo", "pack", str(faces), "--out", str(out), "--size", "48x40"]
            said.append(subprocess.run(command, capture_output=True, text=True, check=False))

    pack(open_source(faces), out, SMALL, progress=other)
    assert said[0].returncode == 2
    assert said[0].stderr.count("\n") == 1
    assert "another process packs into" in said[0].stderr
    assert contents(out) == contents(packed(faces, "whole"))


def test_a_lock_whose_file_has_gone_is_no_lock(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits with the old file open, while its holder ends and removes it, must not think that nobody else packs."""
    fcntl = pytest.importorskip("fcntl")
    real = fcntl.flock

    def flock(file: object, operation: int) -> None:
        (faces.parent / ".packed.pack-lock").unlink()
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(FileExistsError, match="another process packs"):
        pack(open_source(faces), faces.parent / "packed", SMALL)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB, where the test may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_full(faces: Path, tiny_disk: Path) -> None:
    filler = tiny_disk / "other.bin"
    filler.write_bytes(bytes(24 * 1024))  # leaves room for one shard of 23,040 bytes and not for two
    with pytest.raises(OSError, match=r"No space left on device: .*packed\.partial/shard-00001\.bin"):
        pack(open_source(faces), tiny_disk / "packed", SMALL)
    partial = tiny_disk / "packed.partial"
    assert not (tiny_disk / "packed").exists()
    assert (partial / "shard-00000.bin").stat().st_size == 4 * 48 * 40 * 3
    assert not list(partial.glob(".*.tmp"))
    filler.unlink()
    seen: list[int] = []
    with pytest.raises(OSError, match="No space left on device"):
        pack(open_source(faces), tiny_disk / "packed", SMALL, progress=lambda done, total: seen.append(done))
    assert seen[0] == 4
    shutil.copytree(partial, faces.parent / "packed.partial")  # to a larger disk, and on
    pack(open_source(faces), faces.parent / "packed", SMALL)
    assert contents(faces.parent / "packed") == contents(packed(faces, "whole"))


def test_a_full_disk_loses_nothing(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = contents(packed(faces, "whole"))
    real = os.fsync
    calls = 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        pack(open_source(faces), faces.parent / "packed", SMALL)
    monkeypatch.undo()
    assert not (faces.parent / "packed").exists()
    assert not list((faces.parent / "packed.partial").glob("*.tmp"))
    pack(open_source(faces), faces.parent / "packed", SMALL)
    assert contents(faces.parent / "packed") == whole


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files by /proc")
def test_maps_hold_no_file_open(faces: Path) -> None:
    folder = PackedFolder(packed(faces))
    before = len(os.listdir("/proc/self/fd"))
    folder.gather(np.arange(14))
    assert len(folder._maps) == 4
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.ci
@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process")
def test_a_limit_on_the_length_of_files_is_said_and_loses_nothing(faces: Path) -> None:
    """The system itself refuses to write on, as on a full disk."""
    resource = pytest.importorskip("resource")
    whole = contents(packed(faces, "whole"))

    def limited() -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # a shard has 4 * 5,760 bytes

    command = [
        sys.executable,
        "-m",
        "facezoo",
        "pack",
        str(faces),
        "--out",
        str(faces.parent / "packed"),
        "--size",
        "48x40",
    ]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "File too large" in done.stderr
    assert not (faces.parent / "packed").exists()
    assert not list((faces.parent / "packed.partial").glob("shard-*.bin"))
    shutil.rmtree(faces.parent / "packed.partial")  # the command line packs 4,096 images per shard
    pack(open_source(faces), faces.parent / "packed", SMALL)
    assert contents(faces.parent / "packed") == whole


def test_one_broken_file_in_a_hundred(faces: Path) -> None:
    for number in range(14, 300):
        picture(number).save(faces / f"p{number % 3}" / f"{number:03d}.png")
    broken = [f"p{number % 3}/{number:03d}.png" for number in (50, 150, 250)]
    for number, name in enumerate(broken):
        content = (faces / name).read_bytes()
        (faces / name).write_bytes((content[:-500], b"", b"\0" * len(content))[number])
    report = pack(open_source(faces), faces.parent / "packed", PackOptions(size=(48, 40)))
    assert (report.images, report.left_out, report.problems["corrupt"]) == (297, 3, 3)
    listed = (faces.parent / "packed" / "problems.csv").read_text()
    assert all(f"{name},corrupt," in listed for name in broken)
    assert not set(broken) & set(PackedFolder(faces.parent / "packed").names)


# ------------------------------------------------------------------ damaged folders


@pytest.mark.parametrize("file", ["shard-00001.bin", "index.npz", "names.txt", "identities.txt", "problems.csv"])
def test_cut_and_missing_files_are_named(faces: Path, file: str) -> None:
    path = packed(faces) / file
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=rf"{file}' has {len(content) - 1} bytes, packed\.json says {len(content)}"):
        PackedFolder(path.parent)
    path.unlink()
    with pytest.raises(DataError, match=rf"{file}' is missing"):
        PackedFolder(path.parent)


@pytest.mark.parametrize("file", ["shard-00001.bin", "names.txt"])
def test_verify_finds_one_changed_byte(faces: Path, file: str) -> None:
    path = packed(faces) / file
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    if file.startswith("shard"):
        folder = PackedFolder(path.parent)
        with pytest.raises(
            DataError, match=r"1 of 14 images are not what was written \(p0/12\.png; in shard-00001\.bin\)"
        ):
            folder.verify()
    else:
        with pytest.raises(DataError, match=r"names\.txt"):
            PackedFolder(path.parent).verify()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header.update(size=[4000, 4000]), "outside of its shard"),
        (lambda header: header.update(size=[10**9, 10**9]), "a field of it is missing or not allowed"),
        (lambda header: header.update(images=13), "claims 14 numbers; at most 13 fit"),
        (lambda header: header.update(images=15), "other numbers of images"),
        (lambda header: header.update(images=-1), "a field of it is missing or not allowed"),
        (lambda header: header.update(format=2), "has format 2"),
        (
            lambda header: header["files"].update({"../x": {"bytes": 1, "crc32": 1}}),
            "a field of it is missing or not allowed",
        ),
        (lambda header: header["files"].pop("shard-00000.bin"), "a field of it is missing or not allowed"),
        (lambda header: header.pop("shards"), "is damaged: KeyError"),
        (lambda header: header.update(files=[1]), "is damaged: AttributeError"),
    ],
)
def test_a_header_that_lies_is_refused(faces: Path, change: object, message: str) -> None:
    folder = packed(faces)
    header = json.loads((folder / "packed.json").read_text())
    change(header)  # type: ignore[operator]
    (folder / "packed.json").write_text(json.dumps(header))
    with pytest.raises(DataError, match=message):
        PackedFolder(folder)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, "\xff"])
def test_a_damaged_header_is_refused(faces: Path, content: str) -> None:
    folder = packed(faces)
    (folder / "packed.json").write_text(content)
    with pytest.raises(DataError, match=r"packed\.json' is damaged"):
        PackedFolder(folder)


def test_a_shard_cut_after_opening_is_said(faces: Path) -> None:
    folder = PackedFolder(packed(faces))
    shard = folder.root / "shard-00002.bin"
    os.truncate(shard, shard.stat().st_size - 1)
    assert folder.pixels(0).shape == (48, 40, 3)
    with pytest.raises(DataError, match=r"shard-00002\.bin' has 23039 bytes, packed\.json says 23040: it is truncated"):
        folder.gather(np.array([0, 9]))


def lying_index(folder: Path, shape: tuple[int, ...], content: bytes, *, compressed: bool) -> None:
    """Put an array that claims a shape before the others, with the header told of the new file."""
    with zipfile.ZipFile(folder / "index.npz") as old:
        members = {name: old.read(name) for name in old.namelist()}
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<i8", "fortran_order": False, "shape": shape})
    members["labels.npy"] = buffer.getvalue() + content
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(folder / "index.npz", "w", kind) as new:
        for name, data in members.items():
            new.writestr(name, data)
    header = json.loads((folder / "packed.json").read_text())
    header["files"]["index.npz"]["bytes"] = (folder / "index.npz").stat().st_size
    (folder / "packed.json").write_text(json.dumps(header))


@pytest.mark.parametrize(
    ("shape", "content", "compressed", "message"),
    [
        ((10**12,), b"", False, r"labels claims 1000000000000 numbers, in \d+ bytes"),
        ((10**12,), bytes(1000), True, r"labels claims 1000000000000 numbers, in \d+ bytes"),
        ((10**6,), bytes(8 * 10**6), True, r"labels claims 1000000 numbers; at most 14 fit the other files"),
    ],
)
def test_an_index_that_lies_takes_no_memory(
    faces: Path, shape: tuple[int, ...], content: bytes, compressed: bool, message: str
) -> None:
    folder = packed(faces)
    lying_index(folder, shape, content, compressed=compressed)
    del content
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message):
            PackedFolder(folder)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_more_images_than_names_can_be_are_refused(faces: Path) -> None:
    folder = packed(faces)
    header = json.loads((folder / "packed.json").read_text())
    header["images"] = 10**9
    (folder / "packed.json").write_text(json.dumps(header))
    with pytest.raises(DataError, match=r"says 1000000000 images, for which names\.txt is too short"):
        PackedFolder(folder)


@pytest.mark.parametrize("line", [b'"p1/00.pn', b"17", b"[" * 9, b'"\xff"'])
def test_a_damaged_name_is_said_when_it_is_read(faces: Path, line: bytes) -> None:
    folder = PackedFolder(packed(faces))
    names = tuple(folder.names)
    assert folder.names == names
    assert (folder.names[-1], folder.names[2:4]) == (names[-1], names[2:4])
    content = (folder.root / "names.txt").read_bytes().split(b"\n")
    content[1] = line.ljust(len(content[1]))
    (folder.root / "names.txt").write_bytes(b"\n".join(content))
    again = PackedFolder(folder.root)
    assert again.names[0] == names[0]
    with pytest.raises(DataError, match=r"names\.txt', line 2, is damaged"):
        again.names[1]
    with pytest.raises(IndexError):
        again.names[14]


@pytest.mark.parametrize("value", [-1, 2**31, 2**40])
def test_a_place_out_of_range_is_refused(faces: Path, value: int) -> None:
    folder = packed(faces)
    with np.load(folder / "index.npz") as content:
        arrays = dict(content)
    for name in ("rows", "shards"):
        changed = arrays[name].copy()
        changed[3] = value
        np.savez(folder / "index.npz", **{**arrays, name: changed})
        header = json.loads((folder / "packed.json").read_text())
        header["files"]["index.npz"]["bytes"] = (folder / "index.npz").stat().st_size
        (folder / "packed.json").write_text(json.dumps(header))
        with pytest.raises(DataError, match="the place of an image is out of range"):
            PackedFolder(folder)
