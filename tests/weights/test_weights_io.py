from __future__ import annotations

import argparse
import errno
import os
import pickle
import shutil
import stat
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from facezoo.weights import CheckpointError, clean_state_dict, io, read_file, read_state_dict, save_file_atomic

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]


def some_tensors() -> dict[str, torch.Tensor]:
    return {"weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(7)}


# --- writing and reading back


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)], ids=str)
def test_round_trip(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.randint(0, 2, shape).to(dtype)
    save_file_atomic(tmp_path / "a.safetensors", {"x": tensor}, {"note": "grüß", "json": '{"a": 1}'})
    tensors, metadata = read_file(tmp_path / "a.safetensors")
    assert tensors["x"].dtype == dtype
    assert tensors["x"].shape == shape
    assert torch.equal(tensors["x"], tensor)
    assert metadata == {"note": "grüß", "json": '{"a": 1}'}
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_without_metadata_and_into_new_folders(tmp_path: Path) -> None:
    save_file_atomic(tmp_path / "new" / "deep" / "a.safetensors", some_tensors())
    assert read_file(str(tmp_path / "new" / "deep" / "a.safetensors"))[1] == {}


def test_tensors_of_any_strides_and_shared_memory(tmp_path: Path) -> None:
    base = torch.arange(24.0).view(1, 2, 3, 4)
    tensors = {
        "base": base,
        "same": base,
        "view": base[:, 1],
        "transposed": base.permute(0, 3, 1, 2),
        "channels_last": base.clone(memory_format=torch.channels_last),
        "expanded": torch.ones(1).expand(5),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    save_file_atomic(tmp_path / "a.safetensors", tensors)
    loaded, _ = read_file(tmp_path / "a.safetensors")
    assert loaded.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert torch.equal(loaded[key], tensor), key
        assert loaded[key].is_contiguous()


def test_a_small_view_of_a_large_tensor_is_written_small(tmp_path: Path) -> None:
    save_file_atomic(tmp_path / "a.safetensors", {"x": torch.zeros(100_000)[:10]})
    assert (tmp_path / "a.safetensors").stat().st_size < 1000


def test_the_file_obeys_the_umask(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save_file_atomic(tmp_path / "a.safetensors", some_tensors())
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "a.safetensors")]
    assert modes[0] == modes[1]


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "elsewhere" / "real.safetensors")
    save_file_atomic(tmp_path / "link.safetensors", some_tensors())
    assert (tmp_path / "link.safetensors").is_symlink()
    assert os.listdir(tmp_path / "elsewhere") == ["real.safetensors"]
    assert torch.equal(read_file(tmp_path / "link.safetensors")[0]["count"], torch.tensor(7))


@pytest.mark.parametrize(
    "bad", [3, None, torch.zeros(2, device="meta"), torch.eye(2).to_sparse()], ids=["int", "none", "meta", "sparse"]
)
def test_what_is_no_dense_tensor_is_refused_by_name(tmp_path: Path, bad: object) -> None:
    with pytest.raises(TypeError, match="'odd'"):
        save_file_atomic(tmp_path / "a.safetensors", {"odd": bad})  # type: ignore[dict-item]
    assert not list(tmp_path.iterdir())


def test_metadata_is_strings(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"JSON.*'epoch': int"):
        save_file_atomic(tmp_path / "a.safetensors", some_tensors(), {"epoch": 3})  # type: ignore[dict-item]


# --- failures while writing: the old file stays, nothing is left behind


def old_file(folder: Path) -> tuple[Path, bytes]:
    path = folder / "last.safetensors"
    save_file_atomic(path, some_tensors(), {"epoch": "1"})
    return path, path.read_bytes()


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, before = old_file(tmp_path)

    def half_written(target: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(io, "_write", half_written)
    with pytest.raises(CheckpointError) as caught:
        save_file_atomic(path, {"x": torch.zeros(250)})
    message = str(caught.value)
    assert str(path) in message
    assert "No space left" in message
    assert "1000 bytes needed" in message
    assert "bytes free" in message
    assert "old file is intact" in message
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_the_real_writer_running_into_a_limit_of_the_system(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits on the file size exist on POSIX only")
    path, before = old_file(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CheckpointError, match="old file is intact"):
            save_file_atomic(path, {"x": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_an_interrupt_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, before = old_file(tmp_path)

    def interrupted(target: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(io, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_file_atomic(path, some_tensors())
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_data_is_on_the_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor))[1])
    monkeypatch.setattr(os, "replace", lambda source, target: (calls.append("replace"), replace(source, target))[1])
    save_file_atomic(tmp_path / "a.safetensors", some_tensors())
    assert calls[:2] == ["fsync", "replace"]


def test_writing_onto_a_folder_or_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match=r"folder.*name a file"):
        save_file_atomic(tmp_path / "folder", some_tensors())
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="no file was left behind"):
        save_file_atomic(tmp_path / "file" / "a.safetensors", some_tensors())
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


# --- unreadable files


def truncated(tmp_path: Path, keep: int) -> Path:
    save_file_atomic(tmp_path / "whole.safetensors", some_tensors())
    path = tmp_path / "cut.safetensors"
    path.write_bytes((tmp_path / "whole.safetensors").read_bytes()[:keep])
    return path


@pytest.mark.parametrize("keep", [1, 7, 8, 40, -1])
@pytest.mark.parametrize("read", [read_file, read_state_dict])
def test_truncated_safetensors(tmp_path: Path, read: object, keep: int) -> None:
    path = truncated(tmp_path, keep)
    with pytest.raises(CheckpointError) as caught:
        read(path)  # type: ignore[operator]
    assert str(path) in str(caught.value)
    assert f"({path.stat().st_size} bytes)" in str(caught.value)
    if path.stat().st_size > 8:
        assert "cut off or damaged" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\x89PNG\r\n\x1a\n and so on and on", "neither a safetensors nor a PyTorch file"),
        (b"PK\x03\x04 rest of an archive is missing", "cut off or damaged"),
        (b"\x80\x02}q\x00", "cut off or damaged"),
    ],
)
def test_foreign_files_are_told_apart(tmp_path: Path, content: bytes, advice: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=advice) as caught:
        read_state_dict(path)
    assert f"{path} ({len(content)} bytes)" in str(caught.value)


def test_a_pytorch_file_given_as_safetensors(tmp_path: Path) -> None:
    torch.save(some_tensors(), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="is a PyTorch file"):
        read_file(tmp_path / "a.safetensors")
    assert read_state_dict(tmp_path / "a.safetensors").keys() == some_tensors().keys()


@pytest.mark.parametrize("read", [read_file, read_state_dict])
def test_missing_file_and_folder(tmp_path: Path, read: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"absent\.safetensors does not exist"):
        read("absent.safetensors")  # type: ignore[operator]
    with pytest.raises(CheckpointError, match="is a folder"):
        read(tmp_path)  # type: ignore[operator]


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_pytorch_file(tmp_path: Path, zipped: bool) -> None:
    torch.save({"x": torch.zeros(1000)}, tmp_path / "whole.pth", _use_new_zipfile_serialization=zipped)
    path = tmp_path / "cut.pth"
    path.write_bytes((tmp_path / "whole.pth").read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"cut\.pth \(2000 bytes\).*cut off or damaged"):
        read_state_dict(path)


def test_an_archive_that_would_fill_the_memory(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1_000_000)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as plain, zipfile.ZipFile(tmp_path / "b.pth", "w") as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry), zipfile.ZIP_DEFLATED)
    assert read_state_dict(tmp_path / "a.pth")["x"].numel() == 1_000_000
    with pytest.raises(CheckpointError, match=r"b\.pth \(\d+ bytes\) would unpack to 4\d{6} bytes"):
        read_state_dict(tmp_path / "b.pth")


class Evil:
    """What a hostile file would hold: unpickling it calls a function."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("plain_pickle", [True, False])
def test_nothing_is_unpickled(tmp_path: Path, plain_pickle: bool) -> None:
    path = tmp_path / "evil.pth"
    content = {"evil": Evil(tmp_path / "ran"), "state_dict": some_tensors()}
    if plain_pickle:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    with pytest.raises(
        CheckpointError, match=r"evil\.pth.* holds Python objects besides tensors \(\w+\.mkdir\).*runs code"
    ):
        read_state_dict(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_what_training_scripts_put_beside_the_weights_is_named(tmp_path: Path, zipped: bool) -> None:
    content = {"model": some_tensors(), "args": argparse.Namespace(lr=0.1)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"objects besides tensors \(argparse\.Namespace\).*weights_only=False"):
        read_state_dict(tmp_path / "a.pth")


def test_a_whole_pickled_module_is_refused_with_advice(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(CheckpointError, match=r"module\.pth.*save the state dict alone"):
        read_state_dict(tmp_path / "module.pth")


# --- files in parts


def in_parts(folder: Path, suffix: str = ".safetensors") -> list[Path]:
    """The files of a state dict in two parts, the index last."""
    files = [folder / f"model-0000{number}-of-00002{suffix}" for number in (1, 2)]
    for file, (name, value) in zip(files, {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}.items(), strict=True):
        if suffix == ".bin":
            torch.save({f"module.{name}": value}, file)
        else:
            save_file_atomic(file, {f"module.{name}": value})
    index = folder / f"model{suffix}.index.json"
    index.write_text('{"metadata": {}, "weight_map": {"weight": "../elsewhere.safetensors"}}')
    return [*files, index]


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_all_parts_are_read_whichever_is_named(tmp_path: Path, suffix: str) -> None:
    for file in in_parts(tmp_path, suffix):
        found = read_state_dict(file)
        assert {name: tuple(value.shape) for name, value in found.items()} == {"weight": (2, 3), "bias": (2,)}


def test_parts_that_are_missing_or_of_another_checkpoint(tmp_path: Path) -> None:
    first, second, index = in_parts(tmp_path)
    shutil.copy(first, second)
    with pytest.raises(CheckpointError, match=r"00002-of-00002.* is not a part of the same checkpoint"):
        read_state_dict(first)
    second.unlink()
    for file in (first, index):
        with pytest.raises(
            CheckpointError, match=r"2 parts .*1 of them do not lie beside it \(first model-00002-of-00002"
        ):
            read_state_dict(file)
    first.unlink()
    with pytest.raises(
        CheckpointError, match=r"is the index of a checkpoint in parts, and none of them .*put all of them"
    ):
        read_state_dict(index)
    save_file_atomic(tmp_path / "a-00000-of-00000.safetensors", {"x": torch.zeros(1)})
    assert read_state_dict(tmp_path / "a-00000-of-00000.safetensors").keys() == {"x"}


# --- state dicts inside dictionaries


@pytest.mark.parametrize("wrapper", io.WRAPPERS)
@pytest.mark.parametrize("zipped", [True, False])
def test_wrapped_state_dicts(tmp_path: Path, wrapper: str, zipped: bool) -> None:
    content = {"epoch": 3, wrapper: some_tensors(), "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert read_state_dict(tmp_path / "a.pth").keys() == some_tensors().keys()


@pytest.mark.parametrize("average", ["state_dict_ema", "model_ema"])
def test_the_moving_average_goes_first(average: str) -> None:
    ours = {key: value + 1 for key, value in some_tensors().items()}
    for plain in ("state_dict", "model"):
        assert clean_state_dict({plain: some_tensors(), average: ours, "epoch": 3}) == ours
        assert clean_state_dict({plain: ours, average: {}, "args": None}) == ours
        assert clean_state_dict({plain: ours, average: None}) == ours


def test_how_often_torch_averaged_is_no_weight() -> None:
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(2, 1))
    assert "n_averaged" in averaged.state_dict()
    assert clean_state_dict({"model_ema": averaged.state_dict()}).keys() == {"weight", "bias"}
    assert clean_state_dict({"n_averaged": torch.zeros(1), "weight": torch.zeros(1)}).keys() == {"n_averaged", "weight"}


def test_dictionaries_without_end() -> None:
    inside_itself: dict[str, object] = {}
    inside_itself["model"] = inside_itself
    deep: dict[str, object] = {"state_dict": some_tensors()}
    for _ in range(1000):
        deep = {"model": deep}
    for content in (inside_itself, deep):
        with pytest.raises(CheckpointError, match="'model' is a dict"):
            clean_state_dict(content)


def test_twice_wrapped_and_prefixed(tmp_path: Path) -> None:
    inner = {f"module._orig_mod.{key}": value for key, value in some_tensors().items()}
    torch.save({"model": {"state_dict": inner}}, tmp_path / "a.pth")
    loaded = read_state_dict(tmp_path / "a.pth")
    assert loaded.keys() == some_tensors().keys()
    assert torch.equal(loaded["weight"], some_tensors()["weight"])


def test_prefixes_in_safetensors(tmp_path: Path) -> None:
    save_file_atomic(tmp_path / "a.safetensors", {f"_orig_mod.module.{k}": v for k, v in some_tensors().items()})
    assert read_state_dict(tmp_path / "a.safetensors").keys() == some_tensors().keys()


@given(
    st.lists(st.text("abc01", min_size=1, max_size=3), min_size=1, max_size=4),
    st.lists(st.sampled_from(["module.", "_orig_mod."]), max_size=4),
)
def test_any_mix_of_prefixes_is_stripped(parts: list[str], prefixes: list[str]) -> None:
    key, value = ".".join(parts), torch.zeros(1)
    assert clean_state_dict({"".join(prefixes) + key: value}) == {key: value}


def test_a_compiled_submodule_loses_its_prefix_too() -> None:
    assert clean_state_dict({"stages.0._orig_mod.module.weight": torch.zeros(1)}).keys() == {"stages.0.module.weight"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "an empty dictionary"),
        ({"state_dict": {}}, "an empty dictionary"),
        ([torch.zeros(1)], "a list"),
        ({"weight": torch.zeros(1), "epoch": 3}, "'epoch' is a int.*net_state_dict"),
        ({1: torch.zeros(1)}, "1 is a Tensor"),
        ({"a": torch.zeros(1), "module.a": torch.zeros(1)}, "two keys are 'a'"),
    ],
    ids=["empty", "empty-inside", "list", "mixed", "number", "collision"],
)
def test_what_is_no_state_dict(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message) as caught:
        read_state_dict(tmp_path / "a.pth")
    assert str(tmp_path / "a.pth") in str(caught.value)
