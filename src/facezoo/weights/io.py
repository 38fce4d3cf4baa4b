"""Reading and writing weight files: safetensors both ways, PyTorch files with ``weights_only=True`` for reading.

Nothing is unpickled from a file: of a PyTorch file only tensors and plain containers are read.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from facezoo.files import atomic_path

# Where training scripts put the network's state dict in a bigger dictionary, in order of preference: the moving average, which is
# what they evaluate, goes before the weights themselves.
WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model_state_dict",
    "net_state_dict",
    "model",
    "backbone",
)
_DEEPEST = 8  # dictionaries inside each other
_INFLATED = 16  # torch.save does not compress: a file that unpacks to many times its size was made to fill the memory
_HEADER_BYTES = 8  # a safetensors file begins with the length of its JSON header


class CheckpointError(RuntimeError):
    """A weight file that cannot be read or written, or does not belong to the network. The message names the file."""


def save_file_atomic(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write ``tensors`` as safetensors; whatever happens, ``path`` holds either the old file or the whole new one.

    The file is written under a temporary name in the same folder, flushed to the disk and renamed. Tensors on any
    device and with any strides are written as contiguous copies; tensors that share memory are written once per name.
    Missing folders are made. A symbolic link is followed: the file it points to is replaced.

    Args:
        path: file to write.
        tensors: tensors of any shape by name.
        metadata: strings by name, written into the file's header.

    Raises:
        TypeError: a value of ``tensors`` is no dense tensor with data, or a metadata entry no string.
        CheckpointError: the file could not be written (disk full, no permission, ``path`` is a folder, ...). The
            temporary file is removed and an old file at ``path`` is intact.
    """
    path = Path(path)
    writable = _writable(tensors)
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(
                f"metadata maps strings to strings (encode values as JSON), got {key!r}: {type(value).__name__}"
            )
    needed = sum(tensor.nbytes for tensor in writable.values())

    try:
        with atomic_path(path) as temporary:
            _write(temporary, writable, dict(metadata or {}))
    except (OSError, safetensors.SafetensorError) as error:
        old = "the old file is intact" if path.is_file() else "no file was left behind"
        raise CheckpointError(
            f"could not write {path}: {error} ({_free_bytes(path)} free, {needed} bytes needed; {old})"
        ) from error


def read_file(
    path: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file.

    Args:
        path: file to read.
        device: where the tensors go.

    Returns:
        The tensors by name, and the strings of the header (empty if it has none).

    Raises:
        CheckpointError: the file is missing, a folder, cut off, or no safetensors file.
    """
    path = _existing_file(path)
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118 (no mapping)
    except (OSError, safetensors.SafetensorError) as error:
        raise _unreadable(path, f"no readable safetensors file: {error}") from error


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a state dict from a safetensors file or a PyTorch file (``.pth``, ``.pt``, ``.bin``, ...), onto the CPU.

    The kind is seen from the first bytes, not from the suffix. A state dict that lies inside a bigger dictionary is
    taken out (see :data:`WRAPPERS`), and the prefixes that ``DataParallel`` and ``torch.compile`` add are stripped.

    Raises:
        CheckpointError: the file is missing, a folder, cut off, of another kind, holds Python objects other than
            tensors and plain containers, or no state dict.
    """
    return read_checkpoint(path)[0]


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Like :func:`read_state_dict`, with the strings of a safetensors file's header beside (empty for a PyTorch file)."""
    path = _existing_file(path)
    content: object
    metadata: dict[str, str] = {}
    head = _first_bytes(path)
    if is_torch_file(head):
        _refuse_inflated(path)
        try:
            with open(path, "rb") as file:  # given the path, torch would go by the suffix
                content = torch.load(file, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
            objects = _python_objects(error)
            if objects:
                raise CheckpointError(
                    f"{path} ({path.stat().st_size} bytes) holds Python objects besides tensors ({objects}), and facezoo does not "
                    "unpickle those, since that runs code from the file. If you trust it, load it yourself "
                    "(torch.load(path, weights_only=False)) and save the state dict alone: torch.save(network.state_dict(), ...)"
                ) from error
            raise _unreadable(path, f"no readable PyTorch file: {_first_line(error)}") from error
    else:
        content, metadata = read_file(path)
    try:
        return clean_state_dict(content), metadata
    except CheckpointError as error:
        raise CheckpointError(f"{path} ({path.stat().st_size} bytes): {error}") from None


def clean_state_dict(content: object) -> dict[str, Tensor]:
    """The state dict inside ``content``, unwrapped, without the prefixes of ``DataParallel`` and ``torch.compile``.

    Args:
        content: a state dict, or a dictionary that holds one under a name of :data:`WRAPPERS`, at any depth.

    Returns:
        A new dictionary; the tensors are those of ``content``.

    Raises:
        CheckpointError: there is no state dict in ``content``, or two keys become equal without their prefixes.
    """
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping):
            break
        held = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not held:
            break
        content = next(
            (inner for inner in held if inner), held[0]
        )  # a moving average that was switched off may be empty
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"expected a state dict, a dictionary of tensors by name; got {_describe(content)}")
    counted = "n_averaged" in content and all(key == "n_averaged" or str(key).startswith("module.") for key in content)
    cleaned: dict[str, Tensor] = {}
    for key, value in content.items():
        if counted and key == "n_averaged":  # torch's AveragedModel says how often it averaged
            continue
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"expected a state dict, a dictionary of tensors by name; {key!r} is {_describe(value)}. A state dict "
                f"inside a bigger dictionary is found under the names {', '.join(WRAPPERS)}"
            )
        name = _without_wrapper_prefix(key)
        if name in cleaned:
            raise CheckpointError(f"two keys are {name!r} once the prefixes 'module.' and '_orig_mod.' are stripped")
        cleaned[name] = value
    return cleaned


def _without_wrapper_prefix(key: str) -> str:
    # torch.compile may wrap any submodule; DataParallel wraps the whole: deeper in, "module" is somebody's own name.
    key = key.replace("_orig_mod.", "")
    while key.startswith("module."):
        key = key.removeprefix("module.")
    return key


def _writable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors none of which share memory: what safetensors can write."""
    storages: set[int] = set()
    writable = {}
    for key, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
            kind = type(tensor).__name__ if not isinstance(tensor, Tensor) else f"{tensor.layout} on {tensor.device}"
            raise TypeError(f"{key!r} is not a dense tensor with data (got {kind}); it cannot be written")
        plain = tensor.detach().to("cpu").contiguous()
        if plain.numel() and plain.untyped_storage().data_ptr() in storages:
            plain = plain.clone(memory_format=torch.contiguous_format)
        storages.add(plain.untyped_storage().data_ptr())
        writable[key] = plain
    return writable


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    path.touch()  # the permissions that the umask gives; safetensors' own file is readable by its owner only
    mode = path.stat().st_mode
    safetensors.torch.save_file(tensors, path, metadata=metadata)
    path.chmod(mode)


def _free_bytes(path: Path) -> str:
    for folder in path.absolute().parents:
        with contextlib.suppress(OSError):
            return f"{shutil.disk_usage(folder).free} bytes"
    return "unknown bytes"


def _existing_file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; name the weight file in it")
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist (looked from {Path.cwd()})" if not path.is_absolute() else f"{path} does not exist"
        )
    return path


def _refuse_inflated(path: Path) -> None:
    """Raise if an archive says that it unpacks to many times its size."""
    if not zipfile.is_zipfile(path):
        return  # the pickle of old times, which is not compressed, or a damaged file, which torch reports
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return  # torch has its say on that, too
    size = path.stat().st_size
    if unpacked > _INFLATED * size:
        raise CheckpointError(
            f"{path} ({size} bytes) would unpack to {unpacked} bytes. PyTorch does not compress its files, so this one was made to "
            "fill the memory, or compressed later: if you trust it, unpack it, and zip it again with `zip -0`"
        )


def _first_bytes(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(64)
    except OSError as error:
        raise CheckpointError(f"could not read {path}: {error}") from error


def is_torch_file(head: bytes) -> bool:
    """A zip archive, or the pickle of protocol 2 and above that PyTorch wrote before 1.6."""
    return (
        head.startswith((b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))
        and head[_HEADER_BYTES : _HEADER_BYTES + 1] != b"{"
    )


def _unreadable(path: Path, problem: str) -> CheckpointError:
    """An error with the file's size and a guess at what happened to it."""
    size = path.stat().st_size
    head = _first_bytes(path)
    if not size:
        advice = "the file is empty; the program that wrote it was interrupted, or the disk was full"
    elif head.startswith(b"version https://git-lfs"):
        advice = "this is a Git LFS pointer, not the weights; run `git lfs pull` in its repository"
    elif head.lstrip().startswith((b"<!DOCTYPE", b"<!doctype", b"<html")):
        advice = "this is a web page, not the weights; download the file itself"
    elif is_torch_file(head) and "safetensors" in problem:
        advice = "this is a PyTorch file; facezoo.load_checkpoint reads it"
    elif is_torch_file(head) or head[_HEADER_BYTES : _HEADER_BYTES + 1] == b"{":
        advice = "the file is cut off or damaged; copy or download it again, or use an older checkpoint"
    else:
        advice = "its first bytes are those of neither a safetensors nor a PyTorch file"
    return CheckpointError(f"{path} ({size} bytes): {problem}; {advice}")


def _describe(value: Any) -> str:
    return "an empty dictionary" if isinstance(value, Mapping) and not value else f"a {type(value).__name__}"


def _python_objects(error: Exception) -> str:
    """What torch refused to unpickle, such as ``argparse.Namespace``; empty if the error is about something else."""
    text = str(error)
    if match := re.search(r"unsupported global:?(?: GLOBAL)? ([\w.]+)", text, re.IGNORECASE):
        return match[1]
    return next((kind for kind in ("TorchScript", "Unsupported operand") if kind in text), "")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().split("\n", 1)[0]
