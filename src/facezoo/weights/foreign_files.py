"""Recognize files that facezoo cannot read, by their first bytes or the names in an archive, and say what to do."""

from __future__ import annotations

import zipfile
from pathlib import Path

_CONVERT = "read it with the program that wrote it and save the tensors by name with safetensors.torch.save_file"

# First bytes, and the message for them.
_HEADS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    ((b"version https://git-lfs",), "this is a Git LFS pointer, not the weights; run `git lfs pull` in its repository"),
    (
        (b"<!DOCTYPE", b"<!doctype", b"<html", b"<HTML"),
        "this is a web page, not the weights; download the file itself",
    ),
    ((b"\x93NUMPY",), f"this is one NumPy array without names; {_CONVERT}"),
    ((b"\x89HDF",), f"this is an HDF5 file (Keras, TensorFlow); {_CONVERT}"),
    ((b"GGUF",), f"this is a GGUF file; {_CONVERT}"),
    ((b"\x12\x01\x00\x00\x00\x00\x00\x00",), f"this is a parameter file of MXNet; {_CONVERT}"),
    ((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!"), "this is a packed archive; unpack it first"),
    ((b"{", b"["), "this is JSON, not the weights; name the weight file beside it"),
)
ONNX = "onnx"  # the `source` of ONNX files, also used as `layout` in records
_UNKNOWN = "its first bytes are those of neither a safetensors nor a PyTorch file"
_ONNX_FIRST = b"\x08"  # tag of the version field; every exporter writes it first


def advice_for(head: bytes) -> str:
    """The kind of a file with these first bytes, and what to do."""
    text = head.lstrip()
    for beginnings, advice in _HEADS:
        if head.startswith(beginnings) or text.startswith(beginnings):
            return advice
    if is_onnx(head):
        return "this looks like an ONNX file; name it .onnx, and facezoo.load_checkpoint reads it"
    return _UNKNOWN


def is_onnx(head: bytes) -> bool:
    """Whether these may be the first bytes of an ONNX model: a version below 32, followed by producer, its version or the
    graph."""
    return len(head) > 2 and head[:1] == _ONNX_FIRST and 0 < head[1] < 32 and head[2] in (0x12, 0x1A, 0x22, 0x3A, 0x42)


def is_onnx_file(path: Path) -> bool:
    """Whether the file exists, its name ends in ``.onnx``, and its first bytes do not belong to another kind of file."""
    if path.suffix.lower() != ".onnx" or not path.is_file():
        return False
    with open(path, "rb") as file:
        head = file.read(64)
    return advice_for(head) == _UNKNOWN or is_onnx(head)


def archive_kind(path: Path) -> str:
    """The kind of a zip archive that is not a PyTorch state dict, and what to do; empty if it may be one, or is not an
    archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # damaged archives cause many kinds of errors
        return ""
    inside = {name.partition("/")[2] for name in names}
    if any(name.endswith(".npy") for name in names):
        return (
            "an archive of NumPy arrays (.npz), not a PyTorch or safetensors file. Convert it: "
            "safetensors.numpy.save_file(dict(numpy.load(path, allow_pickle=False)), 'weights.safetensors')"
        )
    if "constants.pkl" in inside and any(name.startswith("code/") for name in inside):
        return (
            "a TorchScript program, which facezoo does not run. If you trust it, take its weights out: "
            "torch.save(torch.jit.load(path, map_location='cpu').state_dict(), 'weights.pt')"
        )
    if any(name.endswith(("model.json", "serialized_exported_program.json")) for name in names):
        return "a program of torch.export (.pt2), not weights; commands that take a network take it as it is"
    if any(name.endswith("model.weights.h5") for name in names):
        return f"a Keras archive; {_CONVERT}"
    return ""
