"""Read and write safetensors files; read PyTorch files with ``weights_only=True``.

No Python objects are unpickled: from a PyTorch file only tensors and plain containers are read.
"""

from __future__ import annotations

import contextlib
import os
import pickletools
import re
import shutil
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from facezoo.files import atomic_path
from facezoo.weights.errors import CheckpointError, shorten
from facezoo.weights.foreign_files import advice_for, archive_kind
from facezoo.weights.parts import parts_of
from facezoo.weights.state_dict import WRAPPERS, Unpacked, clean_state_dict, unpack

__all__ = [
    "WRAPPERS",
    "CheckpointError",
    "clean_state_dict",
    "is_torch_file",
    "read_checkpoint",
    "read_file",
    "read_state_dict",
    "read_unpacked",
    "replacing_file",
    "save_file_atomic",
]

_INFLATED = 16  # torch.save does not compress: a file that unpacks to many times its size is a zip bomb
_LEGACY_PICKLES = 4  # magic number, version, system, contents; the numbers of the tensors follow
_HEADER_BYTES = 8  # a safetensors file begins with the length of its JSON header


def save_file_atomic(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write ``tensors`` as safetensors. After any failure ``path`` still has the old file or the complete new one.

    The file is written under a temporary name in the same folder, flushed to the disk and renamed. Tensors on any
    device and with any strides are written as contiguous copies; tensors that share memory are written once per name.
    Missing folders are created. A symbolic link is followed: the file it points to is replaced.

    Args:
        path: file to write.
        tensors: tensors of any shape by name.
        metadata: strings by name, written into the file's header.

    Raises:
        TypeError: a value of ``tensors`` is not a dense tensor with data, or a metadata entry is not a string.
        CheckpointError: the file could not be written (disk full, no permission, ``path`` is a folder, ...). The
            temporary file is removed, and an old file at ``path`` is kept.
    """
    with replacing_file(path, tensors, metadata):
        pass


@contextlib.contextmanager
def replacing_file(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Iterator[Path]:
    """Like :func:`save_file_atomic`; the block gets the path of the complete temporary file, which is renamed after the block."""
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
            yield temporary
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
        device: device of the tensors.

    Returns:
        The tensors by name, and the strings of the header (empty if it has none).

    Raises:
        CheckpointError: the file is missing, a folder, truncated, or not a safetensors file.
    """
    path = _existing_file(path)
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118 (no mapping)
    except Exception as error:  # damaged files cause SafetensorError, OSError, OverflowError, MemoryError, ...
        raise _unreadable(path, f"not a readable safetensors file: {shorten(error)}") from error


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a state dict from a safetensors file or a PyTorch file (``.pth``, ``.pt``, ``.bin``, ...), onto the CPU.

    The format is detected from the first bytes, not from the suffix. Of a file in parts (``model-00001-of-00002.safetensors``), or
    the index of one, all parts are read. A state dict inside a larger dictionary is found (see
    :data:`WRAPPERS`), and the prefixes of ``DataParallel`` and ``torch.compile`` are removed.

    Raises:
        CheckpointError: the file is missing, a folder, truncated, of another format, contains Python objects other than
            tensors and plain containers, or has no state dict.
    """
    return read_checkpoint(path)[0]


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Like :func:`read_state_dict`, and also returns the strings of a safetensors header (empty for a PyTorch file)."""
    unpacked, metadata = read_unpacked(path)
    return unpacked.tensors, metadata


def read_unpacked(path: str | os.PathLike[str]) -> tuple[Unpacked, dict[str, str]]:
    """Like :func:`read_checkpoint`, and also returns what :func:`unpack` does."""
    path = _existing_file(path)
    first, *others = parts_of(path)
    content, metadata = _read_any(first)
    for part in others:
        further = _read_any(part)[0]
        if not isinstance(content, dict) or not isinstance(further, dict) or content.keys() & further.keys():
            raise CheckpointError(
                f"{part} is not a part of the same checkpoint as {first}: both are to hold other tensors, by name"
            )
        content = {**content, **further}
    try:
        return unpack(content), metadata
    except CheckpointError as error:
        raise CheckpointError(f"{path} ({path.stat().st_size} bytes): {error}") from None


def _read_any(path: Path) -> tuple[object, dict[str, str]]:
    """The content of a safetensors or PyTorch file, and the strings of its header."""
    return (_read_torch_file(path), {}) if is_torch_file(_first_bytes(path)) else read_file(path)


def _read_torch_file(path: Path) -> object:
    _refuse_inflated(path)
    _refuse_oversized(path)
    if kind := archive_kind(path):
        raise CheckpointError(f"{path} ({path.stat().st_size} bytes) is {kind}")
    try:
        with open(path, "rb") as file, warnings.catch_warnings():  # with a path, torch would decide by the suffix
            warnings.simplefilter("ignore")  # torch warns about its own code when it rebuilds quantized tensors
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files cause many kinds of errors in torch and pickle
        _forget_sparse_tensors()
        objects = _python_objects(error)
        if objects:
            raise CheckpointError(
                f"{path} ({path.stat().st_size} bytes) holds Python objects besides tensors ({objects}), and facezoo does not "
                "unpickle those, since that runs code from the file. If you trust it, load it yourself "
                "(torch.load(path, weights_only=False)) and save the state dict alone: torch.save(network.state_dict(), ...)"
            ) from error
        raise _unreadable(path, f"not a readable PyTorch file: {_first_line(error)}") from error


def _forget_sparse_tensors() -> None:
    """Clear torch's list of sparse tensors of a failed file. Torch would check them with the next file and report that one."""
    kept = getattr(torch._utils, "_sparse_tensors_to_validate", None)
    if isinstance(kept, list):
        kept.clear()


def _writable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors that share no memory, as safetensors requires."""
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
    path.touch()  # permissions by the umask; safetensors' file is readable by its owner only
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
    """Raise if an archive would unpack to many times its size."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except Exception:
        return  # an old uncompressed pickle, or a damaged file, which torch reports
    size = path.stat().st_size
    if unpacked > _INFLATED * size:
        raise CheckpointError(
            f"{path} ({size} bytes) would unpack to {unpacked} bytes. PyTorch does not compress its files, so this one was made to "
            "fill the memory, or compressed later: if you trust it, unpack it, and zip it again with `zip -0`"
        )


def _refuse_oversized(path: Path) -> None:
    """Raise if an old-format pickle declares more elements than the file has bytes; torch would allocate them first.

    The opcodes are parsed, not executed. For every storage they give type, name, device and number of elements.
    """
    size, announced = path.stat().st_size, 0
    with open(path, "rb") as file:
        try:
            for _ in range(_LEGACY_PICKLES):
                numbers: list[int] = []
                for operation, argument, _ in pickletools.genops(file):
                    if operation.name == "MARK":
                        numbers = []
                    elif isinstance(argument, int) and operation.name not in (
                        "BINGET",
                        "BINPUT",
                        "LONG_BINPUT",
                        "LONG_BINGET",
                    ):
                        numbers.append(argument)
                    elif operation.name == "BINPERSID":
                        announced = max(announced, *numbers, 0)
        except Exception:
            pass  # a zip archive, whose entries have true sizes, or a damaged file, which torch reports
    if announced > size:
        raise CheckpointError(
            f"{path} ({size} bytes) declares a tensor of {shorten(announced, 40)} numbers, for which it has no room: the file is "
            "cut off or damaged, or was made to fill the memory"
        )


def _first_bytes(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(64)
    except OSError as error:
        raise CheckpointError(f"could not read {path}: {error}") from error


def is_torch_file(head: bytes) -> bool:
    """Whether it is a zip archive, or a pickle as PyTorch wrote it before version 1.6."""
    return (
        head.startswith((b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))
        and head[_HEADER_BYTES : _HEADER_BYTES + 1] != b"{"
    )


def _unreadable(path: Path, problem: str) -> CheckpointError:
    """An error with the file's size and the probable cause."""
    size = path.stat().st_size
    head = _first_bytes(path)
    advice = advice_for(head)
    if not size:
        advice = "the file is empty; the program that wrote it was interrupted, or the disk was full"
    elif is_torch_file(head) and "safetensors" in problem:
        advice = archive_kind(path) or (
            "this is a PyTorch file; facezoo.load_checkpoint reads it, and on the command line --model says of which network it is"
        )
    elif is_torch_file(head) or head[_HEADER_BYTES : _HEADER_BYTES + 1] == b"{":
        advice = "the file is cut off or damaged; copy or download it again, or use an older checkpoint"
    return CheckpointError(f"{path} ({size} bytes): {problem}; {advice}")


def _python_objects(error: Exception) -> str:
    """Name of the object that torch refused to unpickle, such as ``argparse.Namespace``; empty for other errors."""
    text = str(error)
    if match := re.search(r"unsupported global:?(?: GLOBAL)? ([\w.]+)", text, re.IGNORECASE):
        return shorten(match[1])
    return next((kind for kind in ("TorchScript", "Unsupported operand") if kind in text), "")


def _first_line(error: Exception) -> str:
    return shorten((str(error) or type(error).__name__).strip().split("\n", 1)[0])
