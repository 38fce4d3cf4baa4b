"""Running exported files."""

from __future__ import annotations

import functools
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facezoo.checks import is_whole
from facezoo.deploy._optional import need
from facezoo.preprocessing import TEMPLATE_SIDE, Preprocessing
from facezoo.weights import sha256_of

METADATA_FILE = "facezoo.json"  # inside a .pt2 archive
_FLOATS = {"tensor(float16)": torch.float16, "tensor(float)": torch.float32, "tensor(double)": torch.float64}


class ExportedNetwork:
    """A file of :func:`facezoo.export` as a callable: in ONNX Runtime (``.onnx``) or PyTorch (``.pt2``).

    It can be used wherever facezoo accepts a callable; ``embed_images`` and ``evaluate_pairs`` of :mod:`facezoo.evaluation` use
    its preprocessing.

    Args:
        path: the file.
        threads: number of ONNX Runtime's threads; None for its default.
        providers: execution providers of ONNX Runtime, in order of preference.
        preprocessing: preprocessing for an ONNX file of another program; None to read it from the file.

    Attributes:
        metadata: the metadata written by the export: ``facezoo`` (version), ``model`` (the arguments of ``create_model``),
            ``output``, ``precision``, ``fused``, ``embedding_dim``, ``preprocessing``, ``fingerprint``.
        preprocessing: preprocessing of its images.
        embedding_dim: dimension of the embedding.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is neither ``.onnx`` nor ``.pt2``, or has no facezoo metadata.
        ImportError: ONNX Runtime is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        providers: tuple[str, ...] = ("CPUExecutionProvider",),
        preprocessing: Preprocessing | None = None,
    ) -> None:
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no exported network {path}")
        self._path = path
        self._run, properties = _open(path, threads, providers)
        if ("preprocessing" in properties) == (preprocessing is not None):
            raise ValueError(
                f"{path} says nothing about its preprocessing; it was not written by facezoo.export: pass preprocessing="
                if preprocessing is None
                else f"{path} contains its preprocessing; leave out preprocessing="
            )
        try:
            self.metadata: dict[str, Any] = {key: json.loads(value) for key, value in properties.items()}
            self.preprocessing = preprocessing or Preprocessing.from_dict(self.metadata["preprocessing"])
            width = self.metadata["embedding_dim"] if preprocessing is None else self._measured_width()
            if not is_whole(width, 1):
                raise ValueError("embedding_dim is not a number")
            if not isinstance(self.metadata.get("fingerprint", ""), str):
                raise ValueError("fingerprint is not text")
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: its metadata are damaged ({str(error)[:200]})") from None
        self.embedding_dim: int = width

    @functools.cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the network in the file, by which galleries and calibrations know it: that of the exported network.

        A file of 8-bit integers has other embeddings, so its fingerprint is its own, as is that of a file without metadata.
        """
        if self.metadata.get("precision") == "float32" and "fingerprint" in self.metadata:
            return str(self.metadata["fingerprint"])
        return sha256_of(self._path)[:16]

    def _measured_width(self) -> int:
        """Width of the output, from one blank image."""
        size = self.preprocessing.img_size
        return int(self._run(torch.zeros(1, len(self.preprocessing.mean), *size)).shape[1])

    def __call__(self, images: Tensor) -> Tensor:
        """``(N, in_chans, H, W)`` normalized images to float32 ``(N, embedding_dim)`` (or logits, if those were exported).

        Raises:
            TypeError: the images are integers, or not a tensor.
            ValueError: a wrong shape, or NaN or infinite values, which an 8-bit network would hide.
        """
        check_images(images, self.preprocessing)
        return self._run(images.float())


def _open(path: Path, threads: int | None, providers: tuple[str, ...]) -> tuple[Any, Mapping[str, str]]:
    """A function that runs the file, and the file's metadata."""
    onnx = format_of(path) == "onnx"
    try:
        return _onnx_runner(path.read_bytes(), threads, providers) if onnx else _torch_runner(path.read_bytes())
    except ImportError:
        raise
    except _ForeignForm as error:
        raise ValueError(f"{path} {error}") from None
    except Exception as error:  # damaged files cause many kinds of errors in both runtimes
        problem = " ".join(str(error)[:200].split()) or type(error).__name__
        raise ValueError(f"{path} cannot be loaded: it is damaged, or of another version ({problem})") from error


class _ForeignForm(Exception):
    """An ONNX file whose inputs or outputs are not those of a network of images; the message says what to do."""


def describes_itself(path: Path) -> bool:
    """Whether an ONNX file was written by :func:`facezoo.export`. Raises :class:`ValueError` if it cannot be read."""
    return "preprocessing" in _open(path, 1, ("CPUExecutionProvider",))[1]


def input_shape(path: Path) -> tuple[int, int, int]:
    """Channels, height and width of an ONNX file's images; 3 and 112×112 for dynamic dimensions.

    Raises:
        ValueError: the file has no single 4-D input.
    """
    session = need("onnxruntime").InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    shape = inputs[0].shape if len(inputs) == 1 else []
    if len(shape) != 4:
        raise ValueError(f"{path} is not a network of images: it has {len(inputs)} inputs, the first of shape {shape}")
    if shape[3] in (1, 3) and shape[1] not in (1, 3):
        raise ValueError(
            f"{path} takes images of shape {shape}, the channels last; facezoo gives them as (N, channels, height, width): "
            "export it anew in that order, or put a Transpose in front"
        )
    channels, height, width = (
        size if isinstance(size, int) and size > 0 else other
        for size, other in zip(shape[1:], (3, TEMPLATE_SIDE, TEMPLATE_SIDE), strict=True)
    )
    return channels, height, width


def check_images(images: Tensor, preprocessing: Preprocessing, *, first: int = 0) -> None:
    """Check a network's input, for code that does not run the network's own checks.

    Args:
        images: ``(N, in_chans, H, W)``.
        preprocessing: the network's preprocessing.
        first: number of the first image, for messages.

    Raises:
        TypeError, ValueError: see :meth:`ExportedNetwork.__call__`.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"expected a tensor of images, got {type(images).__name__}")
    if not images.is_floating_point():
        raise TypeError(
            f"expected normalized floating-point images, got {images.dtype}: divide by 255, then normalize with "
            f"mean {preprocessing.mean} and std {preprocessing.std} (facezoo.data.eval_transform does both)"
        )
    wanted = (len(preprocessing.mean), *preprocessing.img_size)
    if images.ndim != 4 or tuple(images.shape[1:]) != wanted:
        raise ValueError(f"expected images of shape (N, {', '.join(map(str, wanted))}), got {tuple(images.shape)}")
    bad = (~torch.isfinite(images).flatten(1).all(dim=1)).nonzero()
    if len(bad):
        raise ValueError(f"image {first + int(bad[0])} holds NaN or infinite values ({len(bad)} such in its batch)")


def format_of(path: Path) -> str:
    """``"onnx"`` or ``"pt2"``, from the suffix.

    Raises:
        ValueError: an unknown suffix.
    """
    suffix = path.suffix.lower()
    if suffix not in (".onnx", ".pt2"):
        raise ValueError(f"the suffix of {path.name} is not a known format: use .onnx (ONNX) or .pt2 (torch.export)")
    return suffix[1:]


def _onnx_runner(data: bytes, threads: int | None, providers: tuple[str, ...]) -> tuple[Any, Mapping[str, str]]:
    runtime = need("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors; warnings are about its own optimizations
    if threads is not None:
        options.intra_op_num_threads = threads
    session = runtime.InferenceSession(data, options, providers=list(providers))
    entry, dtype = _single_input(session)
    step = entry.shape[0] if entry.shape and isinstance(entry.shape[0], int) else None  # a file of a fixed batch

    def once(images: Tensor) -> Tensor:
        (result,) = session.run(None, {entry.name: images.detach().cpu().to(dtype).contiguous().numpy()})
        return torch.from_numpy(result).float()

    def run(images: Tensor) -> Tensor:
        if step is None or not len(images):
            return once(images)
        lengths = [len(part) for part in images.split(step)]
        filled = torch.cat(
            [images, images[-1:].expand(step - lengths[-1], *images.shape[1:])]
        )  # the last batch is whole too
        return torch.cat([once(part) for part in filled.split(step)])[: len(images)]

    properties = session.get_modelmeta().custom_metadata_map
    return run, {key.removeprefix("facezoo."): value for key, value in properties.items() if key.startswith("facezoo.")}


def _single_input(session: Any) -> tuple[Any, torch.dtype]:
    """The input of an ONNX file, and its type. Raises :class:`_ForeignForm` unless it goes from images to one tensor."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    for kind, entries in (("inputs", inputs), ("outputs", outputs)):
        if len(entries) != 1:
            names = [entry.name for entry in entries]
            raise _ForeignForm(
                f"has {len(entries)} {kind} ({', '.join(names)[:200]}); facezoo needs one, the images, and one, the embedding: cut "
                f"it out with onnx.utils.extract_model(path, new_path, [{inputs[0].name!r}], [name of the output])"
            )
    if inputs[0].type not in _FLOATS or outputs[0].type not in _FLOATS:
        raise _ForeignForm(
            f"goes from {inputs[0].type} to {outputs[0].type}; facezoo gives normalized images of floating-point numbers and needs "
            "such embeddings: export it anew with those, without its own preprocessing"
        )
    return inputs[0], _FLOATS[inputs[0].type]


def _torch_runner(data: bytes) -> tuple[Any, Mapping[str, str]]:
    extra = {METADATA_FILE: ""}
    module = torch.export.load(io.BytesIO(data), extra_files=extra).module()

    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            result: Tensor = module(images)
        return result

    return run, json.loads(extra[METADATA_FILE] or "{}")
