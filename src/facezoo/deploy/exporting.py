"""Export networks to ONNX and torch.export files, each checked against PyTorch before it is written."""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facezoo._version import __version__
from facezoo.checks import is_whole
from facezoo.deploy._optional import need
from facezoo.deploy.fusing import fuse
from facezoo.deploy.runtime import METADATA_FILE, ExportedNetwork, check_images, format_of
from facezoo.evaluation.calibration import network_fingerprint
from facezoo.evaluation.embedding import Images, as_dataset, load_batches
from facezoo.files import write_atomic
from facezoo.models import FaceNetwork

OPSET = 18  # torch's exporter writes no older one, and only warns
_PROTOBUF_BYTES = 2**31 - 1  # limit of a single-file ONNX model
_CHECKED_BATCHES = (1, 3)


class ExportError(RuntimeError):
    """The exported network's outputs differ from the network's; no file was written."""


@dataclass(frozen=True)
class ExportReport:
    """A written file, and the differences of its outputs from the network's.

    Attributes:
        path: the file.
        format: ``"onnx"`` or ``"pt2"``.
        precision: ``"float32"`` or ``"int8"``.
        num_bytes: size of the file.
        max_abs: largest absolute difference from PyTorch's outputs.
        max_rel: the same divided by the largest absolute output.
        min_cosine: smallest cosine between an output and PyTorch's.
        inputs: the inputs of the comparison.
    """

    path: Path
    format: str
    precision: str
    num_bytes: int
    max_abs: float
    max_rel: float
    min_cosine: float
    inputs: str

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.format}, {self.precision}, {self.num_bytes / 1e6:.1f} MB\n"
            f"against PyTorch on {self.inputs}: max. difference {self.max_abs:.3g} absolute, {self.max_rel:.3g} relative; "
            f"min. cosine {self.min_cosine:.6f}"
            + (
                ""
                if self.precision == "float32"
                else "\ngalleries and calibrations of the network are not valid for this file"
            )
        )


def export(
    model: FaceNetwork,
    path: str | os.PathLike[str],
    *,
    output: Literal["embedding", "logits"] = "embedding",
    fused: bool = True,
    calibration: Images | None = None,
    calibration_images: int = 256,
    opset: int = OPSET,
    tolerance: float = 1e-4,
) -> ExportReport:
    """Write ``model`` as ONNX or as a torch.export archive, with a dynamic batch.

    The file is run by ONNX Runtime or ``torch.export.load`` and compared with the network before it gets its final name.
    It contains metadata for its user (``facezoo.preprocessing``, ``facezoo.embedding_dim``, … in ONNX's
    ``metadata_props``, ``facezoo.json`` in the archive), which :class:`ExportedNetwork` reads. Input ``images``: float32
    ``(N, in_chans, H, W)``, normalized, of ``model.preprocessing.img_size``; output ``embedding`` ``(N, embedding_dim)``, not
    L2-normalized, or ``logits``.

    Args:
        model: a network of :func:`facezoo.create_model` or :func:`facezoo.fuse`, on any device, in any mode. It is not changed;
            the file computes in float32.
        path: ``*.onnx`` or ``*.pt2``. An existing file is replaced at the end, in one step.
        output: ``"embedding"``, or ``"logits"`` of the network's classifier.
        fused: fold the batch norms first, see :func:`facezoo.fuse`.
        calibration: images to calibrate with, as :func:`facezoo.evaluation.embed_images` takes them (a list of files, a dataset, a
            tensor): the ONNX file is then statically quantized to 8-bit integers. Use faces like those of the application.
        calibration_images: largest number of calibration images, evenly spread.
        opset: version of ONNX's operators, at least 18.
        tolerance: largest relative difference in float32. It does not apply to 8-bit files; see :func:`compare_recognition`.

    Raises:
        ValueError: an unknown suffix, no classifier for ``"logits"``, calibration for a format other than ONNX or with NaN in it,
            a network beyond the 2 GiB of an ONNX file, or an opset that torch does not write.
        TypeError: ``model`` is not a facezoo network, or calibration images are not floating-point.
        ImportError: a package of the ``export`` extra is missing.
        ExportError: the outputs differ by more than ``tolerance``, or are not finite.
        OSError: the file could not be written.
    """
    path = Path(path)
    kind = _checked_format(path, model, output, calibrated=calibration is not None, opset=opset)
    original = _Embedder(copy.deepcopy(model).cpu().float().eval(), output)
    network = _Embedder(fuse(original.network), output) if fused else original
    precision = "float32" if calibration is None else "int8"
    properties = _properties(network.network, output, precision, fused)
    data = _torch_archive(network, properties) if kind == "pt2" else _onnx_file(network, properties, opset)
    inputs = [_random_images(model, batch) for batch in _CHECKED_BATCHES]
    compared = f"random images in batches of {' and '.join(map(str, _CHECKED_BATCHES))}"
    differences = _differences(original, data, kind, inputs)
    _require_near(path, differences["max_rel"], tolerance, compared)
    if calibration is not None:
        inputs = list(_calibration_batches(model, calibration, calibration_images))
        data = _quantized(data, inputs, properties)
        differences = _differences(original, data, kind, inputs)
        compared = f"the {sum(map(len, inputs))} images of the calibration"
        if not differences["min_cosine"] > -1.5:  # NaN
            raise ExportError(f"{path} was not written: the 8-bit network gives NaN on {compared}")
    write_atomic(path, data)
    return ExportReport(path, kind, precision, len(data), **differences, inputs=compared)


def _checked_format(path: Path, model: FaceNetwork, output: str, *, calibrated: bool, opset: int) -> str:
    """``"onnx"`` or ``"pt2"``. Raises before any work if the export is not possible."""
    kind = format_of(path)
    if not isinstance(model, FaceNetwork):
        raise TypeError(f"export expects a network of facezoo.create_model, got {type(model).__name__}")
    if output not in ("embedding", "logits"):
        raise ValueError(f"output is 'embedding' or 'logits', got {output!r}")
    if output == "logits" and not model.num_classes:
        raise ValueError("this network has no classifier, so there are no logits to export")
    if calibrated and kind != "onnx":
        raise ValueError("8-bit files are written as ONNX; name the file .onnx or leave out the calibration")
    if kind == "onnx" and not is_whole(opset, OPSET):
        raise ValueError(
            f"opset is a whole number from {OPSET} on, got {opset!r}: torch writes no older version of the operators"
        )
    for package in ("onnx", "onnxscript", "onnxruntime") if kind == "onnx" else ():
        need(package)
    return kind


def _properties(model: FaceNetwork, output: str, precision: str, fused: bool) -> dict[str, str]:
    metadata = {
        "facezoo": __version__,
        "model": model.config,
        "output": output,
        "precision": precision,
        "fused": fused,
        "embedding_dim": model.embedding_dim,
        "fingerprint": network_fingerprint(model),
        "preprocessing": model.preprocessing.to_dict(),
    }
    return {key: json.dumps(value) for key, value in metadata.items()}


def _require_near(path: Path, difference: float, tolerance: float, compared: str) -> None:
    if not difference <= tolerance:  # NaN too
        raise ExportError(
            f"{path} was not written: its outputs differ from PyTorch's by {difference:.3g} of the biggest on {compared}, "
            f"the tolerance is {tolerance:.3g}"
        )


class _Embedder(nn.Module):
    """The network with the wanted output as its ``forward``."""

    def __init__(self, network: FaceNetwork, output: str) -> None:
        super().__init__()
        self.network, self.output = network, output
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        return self.network.embed(images) if self.output == "embedding" else self.network(images)


def _random_images(model: FaceNetwork, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, model.in_chans, *model.preprocessing.img_size, generator=generator)


# -- the two formats ----------------------------------------------------------------------------------------------------------


def _torch_archive(network: _Embedder, properties: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with torch.no_grad(), _quiet():
        program = torch.export.export(network, (_random_images(network.network, 2),), dynamic_shapes=_dynamic_batch())
        torch.export.save(program, buffer, extra_files={METADATA_FILE: json.dumps(dict(properties))})
    return buffer.getvalue()


def _onnx_file(network: _Embedder, properties: Mapping[str, str], opset: int) -> bytes:
    needed = sum(tensor.nbytes for tensor in network.state_dict().values())
    if needed > _PROTOBUF_BYTES:
        raise ValueError(f"an ONNX file holds at most 2 GiB, the weights have {needed / 2**30:.1f}; export to .pt2")
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            network,
            (_random_images(network.network, 2),),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=_dynamic_batch(),
            input_names=["images"],
            output_names=[network.output],
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    written = next((entry.version for entry in proto.opset_import if not entry.domain), None)
    if written != opset:
        raise ValueError(
            f"opset {opset} was asked for, and torch {torch.__version__} wrote {written}: pass opset={OPSET}"
        )
    for entries in (proto.graph.node, proto.graph.input, proto.graph.output, proto.graph.value_info):
        for entry in entries:  # stack traces: paths of this machine
            del entry.metadata_props[:]
            entry.doc_string = ""
    for function in proto.functions:
        for node in function.node:
            del node.metadata_props[:]
    return _with_properties(proto, properties)


def _dynamic_batch() -> Any:
    # Without an upper limit, torch 2.6 refuses networks that compare a size with the largest integer.
    return {"images": {0: torch.export.Dim("batch", max=2**31 - 1)}}


def _with_properties(proto: Any, properties: Mapping[str, str]) -> bytes:
    del proto.metadata_props[:]
    for key, value in properties.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = f"facezoo.{key}", value
    data: bytes = proto.SerializeToString()
    return data


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress messages of torch's exporter about its own code: deprecation warnings, and progress in the log."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning):
                warnings.filterwarnings(
                    "ignore", category=category, module=r"(torch|onnx|onnxscript|onnx_ir|copyreg)(\.|$)"
                )
            yield
    finally:
        log.setLevel(level)


# -- 8-bit integers -----------------------------------------------------------------------------------------------------------


def _calibration_batches(model: FaceNetwork, images: Images, limit: int) -> Iterator[Tensor]:
    if limit < 1:
        raise ValueError(f"calibration_images is at least 1, got {limit}")
    dataset = as_dataset(images, model=model, transform=None)
    chosen = [round(index) for index in torch.linspace(0, len(dataset) - 1, min(limit, len(dataset))).tolist()]
    subset: Any = torch.utils.data.Subset(dataset, chosen)
    first = 0
    for batch, _ in load_batches(subset, batch_size=16, device=torch.device("cpu"), num_workers=0):
        check_images(batch, model.preprocessing, first=first)
        first += len(batch)
        yield batch.float()


def _quantized(data: bytes, batches: list[Tensor], properties: Mapping[str, str]) -> bytes:
    """Convolutions and matrix products with 8-bit weights (one scale per output channel) and activations (QDQ form)."""
    onnx, quantization = need("onnx"), need("onnxruntime.quantization")
    remaining = iter(batches)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        def get_next(self) -> dict[str, Any] | None:
            batch = next(remaining, None)
            return None if batch is None else {"images": batch.numpy()}

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it recommends a preprocessing step that the exporter has already done
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(onnx|onnxruntime)(\.|$)", category=DeprecationWarning)
            result = Path(folder) / "int8.onnx"
            quantization.quantize_static(
                onnx.load_from_string(data),
                result,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "Gemm", "MatMul"],
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
            proto = onnx.load(result)
    finally:
        root.setLevel(level)
    return _with_properties(proto, properties)


# -- the check ----------------------------------------------------------------------------------------------------------------


def _differences(original: nn.Module, data: bytes, kind: str, inputs: list[Tensor]) -> dict[str, float]:
    """Differences between the outputs of the file and of the unfused network in PyTorch."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"network.{kind}"
        file.write_bytes(data)
        exported: Callable[[Tensor], Tensor] = ExportedNetwork(file)
        results = torch.cat([exported(images) for images in inputs]).double()
    with torch.inference_mode():
        expected = torch.cat([original(images) for images in inputs]).double()
    max_abs = float((results - expected).abs().max())
    return {
        "max_abs": max_abs,
        "max_rel": max_abs / max(float(expected.abs().max()), 1e-30),
        "min_cosine": float(F.cosine_similarity(results, expected).min()),
    }
