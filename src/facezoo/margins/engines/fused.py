"""The fused engine: the :class:`~facezoo.margins.engines.kernel.Kernel` in Triton, for CUDA devices.

Forward: a tile of logits is computed, reduced and forgotten in registers; device memory sees its sums. Backward: a tile is computed
again and leaves G = ∂loss/∂c in a buffer of at most 128 MiB (``GRADIENT_BYTES``, whatever C is), from which two products make the
gradients of features and centers. No logits, no C × D intermediate, and four products in all.

(A kernel that kept G in registers too would need a second one for the other gradient, with the tile computed a third time: five
products. It would also have to hold 64 × D sums beside the tile, which at D = 512 is all of an H200's registers and above it more,
and could not use TF32 at full rate, whose operands the tensor cores read along one axis only.)

The precision of the products is set by ``torch.set_float32_matmul_precision``; sums and everything else are always float32:

==========  =========  ===========================================================================================
torch's     here       relative error of the gradients of ArcFace at scale 64, random centers, D = 512
==========  =========  ===========================================================================================
"highest"   tf32x3     float32's own: three TF32 products that add up to its mantissa
"high"      tf32       1e-3, of which most is one-sided, as the tensor cores cut the mantissa off; G's by torch's library
"medium"    bf16       2.5e-3 (5e-3 at D = 64); centers are normalized and rounded in a buffer of one block of classes
==========  =========  ===========================================================================================

(The errors come from a simulation of the operands' rounding in float64.)

The chunked kernel is used for float64 features, a class bias (the plain linear classifier), and forms of the negatives that are
not in :data:`FORMS`.

Under ``TRITON_INTERPRET=1``, set before triton is imported, the same kernels run on the CPU, slowly: for tests.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from facezoo.margins.engines.chunked import TorchKernel
from facezoo.margins.engines.driver import drive
from facezoo.margins.engines.fused_tiles import (
    INTERPRETED_TILES,
    Precision,
    Tile,
    Tiles,
    choose_tiles,
    gradient_columns,
)
from facezoo.margins.engines.kernel import Gradients, Partial, Work
from facezoo.margins.engines.problem import ClassStatistics, Problem
from facezoo.margins.engines.sinks import GradientSink
from facezoo.margins.negatives import Negatives
from facezoo.ops.margin import ZERO_NORM

# Rows of a block: enough work (0.15 ms at N = 1024, D = 512) to hide the host's launches, and a gradient of 128 MiB for a sink.
BLOCK_ROWS = 2**16
# The forms of the negatives that the kernels have. All others are left to the chunked engine.
FORMS = frozenset(
    {
        "identity", "hard_affine", "hard_quadratic", "gaussian", "circle", "filter",
        "power", "power_detached", "wide_angle", "wide_angle_detached",
    }
)  # fmt: skip

_HAS_TRITON = importlib.util.find_spec("triton") is not None  # finds it without importing it


def fused_statistics(problem: Problem) -> ClassStatistics:
    """Class statistics by Triton kernels. Extra memory: a few numbers per sample and tile of classes,
    ``GRADIENT_BYTES``, and for products in another dtype than the weight's a block of centers.

    No second derivatives.

    Raises:
        RuntimeError: the tensors are not on a CUDA device, or triton is not installed.
    """
    return drive(TritonKernel(), problem)


def fused_is_available(device: torch.device) -> bool:
    """Whether the fused engine runs on this device: CUDA, with triton installed."""
    return _HAS_TRITON and device.type == "cuda" and torch.version.cuda is not None


def fused_has(negatives: Negatives) -> bool:
    """Whether the kernels have this form of the negatives."""
    return negatives.name in FORMS


class _Centers(NamedTuple):
    """Some rows of the weight, prepared for the kernels.

    Attributes:
        operand: operand of the products, ``(rows, D)``, in their dtype.
        rows: the centers as stored, or as mixed from a memory, ``(rows, D)``.
        inverse: 1 / length of ``rows``, or None if they are not normalized.
        unit: ``operand`` has length 1 already.
    """

    operand: Tensor
    rows: Tensor
    inverse: Tensor | None
    unit: bool

    @property
    def inverse_of_operand(self) -> Tensor | None:
        return None if self.unit else self.inverse

    def part(self, rows: slice) -> _Centers:
        inverse = None if self.inverse is None else self.inverse[rows]
        return _Centers(self.operand[rows], self.rows[rows], inverse, self.unit)


class TritonKernel:
    """A :class:`~facezoo.margins.engines.kernel.Kernel` in Triton.

    Args:
        precision: precision of the products; None uses torch's setting at the time of the forward pass.
    """

    def __init__(self, precision: Precision | None = None) -> None:
        self._precision = precision
        self._fallback = TorchKernel()

    def block_size(self, work: Work) -> int:
        """As many classes as have :data:`BLOCK_ROWS` centers."""
        _load_kernels(work.features.device)
        if not _is_supported(work):
            return self._fallback.block_size(work)
        return max(1, BLOCK_ROWS // work.centers_per_class)

    def reduce(self, work: Work, classes: slice, partial: Partial) -> None:
        """See :meth:`Kernel.reduce`."""
        kernels = _load_kernels(work.features.device)
        if not _is_supported(work):
            self._fallback.reduce(work, classes, partial)
            return
        with torch.cuda.device_of(work.features):
            self._reduce(kernels, work, classes, partial)

    def accumulate(self, work: Work, classes: slice, gradients: Gradients, sink: GradientSink | None) -> None:
        """See :meth:`Kernel.accumulate`."""
        kernels = _load_kernels(work.features.device)
        if not _is_supported(work):
            self._fallback.accumulate(work, classes, gradients, sink)
            return
        with torch.cuda.device_of(work.features):
            self._accumulate(kernels, work, classes, gradients, sink)

    def _reduce(self, kernels: ModuleType, work: Work, classes: slice, partial: Partial) -> None:
        samples, count = len(work.features), classes.stop - classes.start
        tile = self._tiles(work).logits
        centers = self._centers(kernels, work, classes, write_inverse=True)
        class_tiles = _ceil_div(count, tile.columns)
        running = work.negatives.reduction == "logsumexp" and work.shift is None
        sums = work.features.new_empty(class_tiles, samples)
        maxima = torch.empty_like(sums) if running else None
        totals = torch.empty_like(sums) if work.with_total else None
        kernels.reduce_tiles[(class_tiles * _ceil_div(samples, tile.rows),)](
            sums=sums,
            maxima=maxima,
            totals=totals,
            shift=0.0 if work.shift is None else work.shift,
            C=count,
            first=classes.start,
            WITH_TOTAL=work.with_total,
            RUNNING=running,
            **self._logit_arguments(kernels, work, centers),
            **_meta(tile),
        )
        if maxima is None:
            partial.summed += sums.sum(0)
        else:
            raised = torch.maximum(partial.maximum, maxima.amax(0))
            partial.summed *= torch.exp(partial.maximum - raised)
            partial.summed += (sums * torch.exp(maxima - raised)).sum(0)
            partial.maximum = raised
        if totals is not None:
            partial.total += totals.sum(0)

    def _accumulate(
        self, kernels: ModuleType, work: Work, classes: slice, gradients: Gradients, sink: GradientSink | None
    ) -> None:
        samples, width = work.features.shape
        per_class = work.centers_per_class
        rows = slice(classes.start * per_class, classes.stop * per_class)
        tiles = self._tiles(work)
        centers = self._centers(kernels, work, classes, write_inverse=False)
        x = work.features.to(centers.operand.dtype)
        columns = gradient_columns(tiles, samples, per_class, x.element_size())
        stride = min(columns, _round_up(classes.stop - classes.start, tiles.logits.columns)) * per_class
        sample_tiles = _ceil_div(samples, tiles.logits.rows)
        gradient = x.new_empty(samples, stride)
        along = None
        if sink is not None and centers.inverse is not None:
            along = work.features.new_empty(sample_tiles, stride)
        product = None
        if sink is not None:
            product = sink.buffer(rows, work.features.dtype)
            if product is None:
                product = work.features.new_empty(rows.stop - rows.start, width)
        splits: Tensor | None = None
        for part in _parts(classes, columns):
            here = slice((part.start - classes.start) * per_class, (part.stop - classes.start) * per_class)
            these = centers.part(here)
            self._write_gradient(kernels, work, part, these, x, gradients, gradient, along)
            if gradients.features is not None:
                splits = self._add_feature_gradient(
                    kernels, tiles.features, gradient, these, gradients.features, splits
                )
            if product is not None:
                self._write_center_gradient(kernels, tiles.centers, gradient, x, these, along, product[here])
        if gradients.features is not None and splits is not None:
            gradients.features += splits.sum(0)
        if sink is not None and product is not None:
            sink.accept(rows, product if work.memory is None else work.through_memory(rows, product))

    def _write_gradient(
        self,
        kernels: ModuleType,
        work: Work,
        part: slice,
        centers: _Centers,
        x: Tensor,
        gradients: Gradients,
        gradient: Tensor,
        along: Tensor | None,
    ) -> None:
        """Write G of these classes to ``gradient``, and its sums to ``along`` and ``gradients``."""
        samples, tile = len(x), self._tiles(work).logits
        class_tiles = _ceil_div(part.stop - part.start, tile.columns)
        totals = (gradients.scale, gradients.offset)
        sums = [None if total is None else work.features.new_empty(class_tiles, samples) for total in totals]
        kernels.gradient_tiles[(class_tiles * _ceil_div(samples, tile.rows),)](
            grad_target=gradients.target,
            grad_negatives=gradients.negatives,
            grad_total=gradients.total,
            reduced=gradients.reduced,
            gradient=gradient,
            along=along,
            scale_sums=sums[0],
            offset_sums=sums[1],
            C=part.stop - part.start,
            first=part.start,
            stride=gradient.stride(0),
            HAS_TOTAL=gradients.total is not None,
            WANT_ALONG=along is not None,
            WANT_SCALE=gradients.scale is not None,
            WANT_OFFSET=gradients.offset is not None,
            **self._logit_arguments(kernels, work, centers, x),
            **_meta(tile),
        )
        for total, added in zip(totals, sums, strict=True):
            if total is not None and added is not None:
                total += added.sum(0)

    def _add_feature_gradient(
        self, kernels: ModuleType, tile: Tile, gradient: Tensor, centers: _Centers, total: Tensor, splits: Tensor | None
    ) -> Tensor | None:
        """Add ``G·Ŵ`` to ``total`` or to the ``splits``, which :meth:`_accumulate` adds to it in the end."""
        operand = centers.operand
        if self._uses_library:
            total.addmm_(gradient[:, : len(operand)], operand)
            return None
        samples, width = total.shape
        down, across = _ceil_div(samples, tile.rows), _ceil_div(width, tile.columns)
        added = splits is not None
        if splits is None:
            steps = _ceil_div(len(operand), tile.depth)
            number = min(steps, max(1, _multiprocessors(total.device) // (down * across)))
            splits = total.new_empty(number, samples, width)
        kernels.feature_gradient[(down, across, len(splits))](
            gradient,
            operand,
            splits,
            samples,
            len(operand),
            _ceil_div(_ceil_div(len(operand), tile.depth), len(splits)),
            gradient.stride(0),
            D=width,
            ADD=added,
            PRECISION=self._dot_precision(kernels),
            **_product_meta(tile),
        )
        return splits

    def _write_center_gradient(
        self,
        kernels: ModuleType,
        tile: Tile,
        gradient: Tensor,
        x: Tensor,
        centers: _Centers,
        along: Tensor | None,
        out: Tensor,
    ) -> None:
        """Write ``(Gᵀ·X - ŵ(ŵ·GᵀX)) / ‖w‖`` to ``out``, ``(rows, D)``."""
        rows, width = out.shape
        if self._uses_library:
            torch.mm(gradient[:, :rows].T, x, out=out)
            if centers.inverse is not None and along is not None:
                if centers.unit:
                    out *= centers.inverse[:, None]
                radial = along[:, :rows].sum(0) * centers.inverse.square()
                out.addcmul_(centers.rows.to(out.dtype), radial[:, None], value=-1.0)
            return
        kernels.center_gradient[(_ceil_div(rows, tile.rows) * _ceil_div(width, tile.columns),)](
            gradient,
            x,
            centers.rows,
            centers.inverse,
            along,
            out,
            len(x),
            rows,
            0 if along is None else len(along),
            gradient.stride(0),
            D=width,
            NORMALIZE=centers.inverse is not None,
            UNIT=centers.unit,
            PRECISION=self._dot_precision(kernels),
            **_product_meta(tile),
        )

    def _centers(self, kernels: ModuleType, work: Work, classes: slice, *, write_inverse: bool) -> _Centers:
        """The centers of these classes; ``write_inverse`` fills in ``work.inverse``."""
        per_class = work.centers_per_class
        rows = slice(classes.start * per_class, classes.stop * per_class)
        if work.memory is None:
            centers = work.rows[rows]
            inverse = None if work.inverse is None else work.inverse[rows]
        else:
            centers, inverse = work.centers(rows)
            write_inverse = False
        dtype = self._operand_dtype
        if inverse is None:
            return _Centers(centers.to(dtype), centers, None, False)
        needs_copy = centers.dtype != dtype
        operand = torch.empty_like(centers, dtype=dtype) if needs_copy else centers
        if needs_copy or write_inverse:
            count, width = centers.shape
            columns = _power_of_two(width)
            block = max(1, 8192 // columns)
            kernels.unit_rows[(_ceil_div(count, block),)](
                centers,
                inverse,
                operand if needs_copy else None,
                ZERO_NORM,
                count,
                D=width,
                WRITE_INVERSE=write_inverse,
                WRITE_UNIT=needs_copy,
                BM=block,
                BN=columns,
                num_warps=8,
            )
        return _Centers(operand, centers, inverse, needs_copy)

    def _logit_arguments(
        self, kernels: ModuleType, work: Work, centers: _Centers, x: Tensor | None = None
    ) -> dict[str, Any]:
        """Arguments that forward and backward tiles share."""
        features = work.features
        threshold, factor = work.coefficients
        a, b, *_ = *work.negatives.constants, 0.0, 0.0
        return {
            "x": features.to(centers.operand.dtype) if x is None else x,
            "w": centers.operand,
            "inverse": centers.inverse_of_operand,
            "labels": work.labels,
            "scale": _per_sample(work.scale, features),
            "offset": None if work.offset is None else _per_sample(work.offset, features),
            "threshold": None if threshold is None else _per_sample(threshold, features),
            "factor": None if factor is None else factor.to(features.dtype),
            "a": a,
            "b": b,
            "N": len(features),
            "width": features.shape[1],
            "D": features.shape[1],
            "K": work.centers_per_class,
            "FORM": work.negatives.name,
            "REDUCTION": work.negatives.reduction,
            "HAS_INVERSE": centers.inverse_of_operand is not None,
            "HAS_OFFSET": work.offset is not None,
            "HAS_THRESHOLD": threshold is not None,
            "HAS_FACTOR": factor is not None,
            "PRECISION": self._dot_precision(kernels),
        }

    def _tiles(self, work: Work) -> Tiles:
        device = work.features.device
        if device.type != "cuda":
            return INTERPRETED_TILES
        samples, width = work.features.shape
        large = torch.cuda.get_device_capability(device)[0] in (9, 10)
        return choose_tiles(
            self.precision,
            form=work.negatives.name,
            samples=samples,
            width=width,
            per_class=work.centers_per_class,
            large_shared=large,
        )

    @property
    def precision(self) -> Precision:
        """Of the products; from the first use on."""
        if self._precision is None:
            self._precision = _torch_precision()
        return self._precision

    @property
    def _operand_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def _dot_precision(self, kernels: ModuleType) -> str:
        if self.precision == "bf16":
            # Of bfloat16 operands the GPU knows one product, whatever is asked of it.
            return "widened" if kernels.INTERPRETED else "tf32"
        return self.precision

    @property
    def _uses_library(self) -> bool:
        # The tensor cores read TF32 operands along the summed axis only, and both products of G sum over rows. cuBLAS turns them
        # round at full speed; Triton would copy them word by word. It obeys torch's setting, which is where "tf32" came from.
        return self.precision == "tf32"


def _load_kernels(device: torch.device) -> ModuleType:
    if not _HAS_TRITON:
        raise RuntimeError(
            "engine='fused' needs triton, which comes with torch for CUDA; engine='chunked' needs nothing"
        )
    from facezoo.margins.engines import fused_kernels

    if device.type != "cuda" and not fused_kernels.INTERPRETED:
        raise RuntimeError(
            f"engine='fused' runs on a CUDA device, and the tensors are on {device}: use engine='chunked' or 'auto'. "
            "(For tests, TRITON_INTERPRET=1 in the environment runs its kernels on the CPU, very slowly.)"
        )
    return fused_kernels


def _is_supported(work: Work) -> bool:
    return work.features.dtype == torch.float32 and work.bias is None and fused_has(work.negatives)


def _torch_precision() -> Precision:
    try:
        setting = torch.get_float32_matmul_precision()
    except RuntimeError:  # the new switches of torch 2.9 were used, so the old ones cannot be read
        setting = "high" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "highest"
    by_setting: dict[str, Precision] = {"highest": "tf32x3", "high": "tf32", "medium": "bf16"}
    return by_setting[setting]


def _parts(classes: slice, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, classes.stop)) for start in range(classes.start, classes.stop, size))


def _per_sample(x: Tensor, features: Tensor) -> Tensor:
    return x.to(features.dtype).expand(len(features)).contiguous()


def _meta(tile: Tile) -> dict[str, int]:
    return {"BS": tile.rows, "BC": tile.columns, "BK": tile.depth, "num_warps": tile.warps, "num_stages": tile.stages}


def _product_meta(tile: Tile) -> dict[str, int]:
    return {"BM": tile.rows, "BN": tile.columns, "BK": tile.depth, "num_warps": tile.warps, "num_stages": tile.stages}


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _round_up(a: int, multiple: int) -> int:
    return _ceil_div(a, multiple) * multiple
