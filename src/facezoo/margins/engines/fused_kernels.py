# mypy: ignore-errors
# ruff: noqa: RET505, SIM108
# (What @triton.jit compiles is not Python: it has other types, and a branch on a constant has to be an if with its else.)
"""Triton kernels of the fused engine. Importing this module imports triton.

A *tile* is (BS samples × BC classes): the product of a tile's features and centers is summed over D in registers, in float32, and
all that is done with a logit is done there. Tiles of one block of classes share a launch; the tiles of the same classes run side
by side, so that their centers come from device memory once and from the L2 after that.

Nothing is added up with atomics: each tile writes its own sums, and the sums of tiles are added in a fixed order, so two runs give
the same bits.

Names: ``x`` features, ``w`` centers as the product reads them, ``inverse`` 1/‖w‖, ``N`` samples, ``C`` classes of the block, ``K``
centers per class, ``own`` the own class's place in the block. Row numbers are int64 where they are multiplied by a width: 10
million centers × 512 numbers are more than 2³¹. The number of rows is never specialized on, so that the last, shorter block runs
the same binary.
"""

from __future__ import annotations

import triton
import triton.language as tl

from facezoo.margins.engines.fused_forms import negative_slope, negative_value, sigmoid, softplus

_VARYING = ["N", "C", "first", "rows", "steps", "sample_tiles", "width"]


# -- a tile ------------------------------------------------------------------------------------------------------------------------


@triton.jit
def _dot(left, right, sums, PRECISION: tl.constexpr):
    """``sums + left·right`` in float32. The interpreter would multiply the bits of bfloat16 numbers: "widened" is for it."""
    if PRECISION == "widened":
        return tl.dot(left.to(tl.float32), right.to(tl.float32), sums)
    else:
        return tl.dot(left, right, sums, input_precision=PRECISION)


@triton.jit
def _similarity(x, w, sample, center, width, D: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr):
    """``x[sample] · w[center]ᵀ``, float32. The row numbers must exist: a tile that hangs over repeats its last row.

    ``width`` is D once more, as a number of the run: a loop of known length would be unrolled to many times the code.
    """
    depth = tl.arange(0, BK)
    x_tile = x + sample.to(tl.int64)[:, None] * D + depth[None, :]
    w_tile = w + center.to(tl.int64)[None, :] * D + depth[:, None]
    product = tl.zeros((sample.shape[0], center.shape[0]), tl.float32)
    for start in range(0, width, BK):
        if D % BK == 0:
            left, right = tl.load(x_tile), tl.load(w_tile)
        else:
            left = tl.load(x_tile, mask=(depth < D - start)[None, :], other=0.0)
            right = tl.load(w_tile, mask=(depth < D - start)[:, None], other=0.0)
        product = _dot(left, right, product, PRECISION)
        x_tile += BK
        w_tile += BK
    return product


@triton.jit
def _nearest(
    x,
    w,
    inverse,
    sample,
    cls,
    width,
    K: tl.constexpr,
    D: tl.constexpr,
    BK: tl.constexpr,
    HAS_INVERSE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Similarity with each class, that of the nearest of its K centers, and which one that is."""
    cosine = _similarity(x, w, sample, cls * K, width, D, BK, PRECISION)
    if HAS_INVERSE:
        cosine *= tl.load(inverse + cls * K)[None, :]
    index = tl.zeros(cosine.shape, tl.int8)
    for k in tl.static_range(1, K):
        other = _similarity(x, w, sample, cls * K + k, width, D, BK, PRECISION)
        if HAS_INVERSE:
            other *= tl.load(inverse + cls * K + k)[None, :]
        index = tl.where(other > cosine, k, index).to(tl.int8)
        cosine = tl.maximum(other, cosine)
    return cosine, index


@triton.jit
def _place(N, C, BS: tl.constexpr, BC: tl.constexpr):
    """Number of this program's tile of classes, its samples and its classes."""
    sample_tiles = tl.cdiv(N, BS)
    program = tl.program_id(0)
    class_tile = program // sample_tiles
    sample = (program % sample_tiles) * BS + tl.arange(0, BS)
    return class_tile, sample, class_tile * BC + tl.arange(0, BC)


@triton.jit
def _coefficients(threshold, factor, sample, HAS_THRESHOLD: tl.constexpr, HAS_FACTOR: tl.constexpr):
    """The threshold of each sample and the running factor; 0 where the form reads none."""
    f, t = 0.0, 0.0
    if HAS_THRESHOLD:
        f = tl.load(threshold + sample)[:, None]
    if HAS_FACTOR:
        t = tl.load(factor)
    return f, t


@triton.jit
def _slope_of_reduction(g, z, other, reduced, REDUCTION: tl.constexpr):
    """∂loss/∂z of the other classes from ``g``, ∂loss/∂reduction."""
    if REDUCTION == "logsumexp":
        return g * tl.exp(tl.where(other, z, float("-inf")) - reduced)
    elif REDUCTION == "softplus":
        return tl.where(other, g * sigmoid(z), 0.0)
    else:
        tl.static_assert(REDUCTION == "square")
        return tl.where(other, g * (2.0 * z), 0.0)


# fmt: off
# (The parameters of the next two stand in groups: tensors, sizes, switches, sizes of tiles.)
@triton.jit(do_not_specialize=_VARYING)
def reduce_tiles(
    x, w, inverse, labels, scale, offset, threshold, factor, sums, maxima, totals, a, b, shift,
    N, C, first, width, D: tl.constexpr, K: tl.constexpr, FORM: tl.constexpr, REDUCTION: tl.constexpr,
    HAS_INVERSE: tl.constexpr, HAS_OFFSET: tl.constexpr, HAS_THRESHOLD: tl.constexpr, HAS_FACTOR: tl.constexpr,
    WITH_TOTAL: tl.constexpr, RUNNING: tl.constexpr, PRECISION: tl.constexpr, BS: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr,
):
    """Forward. Of each sample, over the classes of a tile without its own, ``(class tiles, N)`` each:

    ``sums``: Σ exp(z - shift), Σ softplus(z) or Σ z²; ``maxima``: the largest z, which takes the place of the shift if RUNNING;
    ``totals``: Σ z.
    """
    class_tile, sample, cls = _place(N, C, BS, BC)
    real, sample = sample < N, tl.minimum(sample, N - 1)
    last = tl.minimum(cls, C - 1)
    c, _ = _nearest(x, w, inverse, sample, last, width, K, D, BK, HAS_INVERSE, PRECISION)
    f, t = _coefficients(threshold, factor, sample, HAS_THRESHOLD, HAS_FACTOR)
    z = negative_value(c, f, t, a, b, FORM) * tl.load(scale + sample)[:, None]
    if HAS_OFFSET:
        z += tl.load(offset + sample)[:, None]
    own = (tl.load(labels + sample) - first).to(tl.int32)
    left_out = (cls[None, :] == own[:, None]) | (cls >= C)[None, :]
    out = class_tile.to(tl.int64) * N + sample
    if WITH_TOTAL:
        tl.store(totals + out, tl.sum(tl.where(left_out, 0.0, z), 1), mask=real)
    if REDUCTION == "logsumexp":
        z = tl.where(left_out, float("-inf"), z)
        if RUNNING:
            top = tl.maximum(tl.max(z, 1), -3.0e38)  # finite where all is left out: exp(-inf - top) is 0, not NaN
            tl.store(maxima + out, top, mask=real)
            p = tl.exp(z - top[:, None])
        else:
            p = tl.exp(z - shift)
    elif REDUCTION == "softplus":
        p = tl.where(left_out, 0.0, softplus(z))
    else:
        tl.static_assert(REDUCTION == "square")
        p = tl.where(left_out, 0.0, z * z)
    tl.store(sums + out, tl.sum(p, 1), mask=real)


@triton.jit(do_not_specialize=_VARYING)
def gradient_tiles(
    x, w, inverse, labels, scale, offset, threshold, factor,
    grad_target, grad_negatives, grad_total, reduced, gradient, along, scale_sums, offset_sums, a, b,
    N, C, first, width, stride, D: tl.constexpr, K: tl.constexpr, FORM: tl.constexpr, REDUCTION: tl.constexpr,
    HAS_INVERSE: tl.constexpr, HAS_OFFSET: tl.constexpr, HAS_THRESHOLD: tl.constexpr, HAS_FACTOR: tl.constexpr,
    HAS_TOTAL: tl.constexpr, WANT_ALONG: tl.constexpr, WANT_SCALE: tl.constexpr, WANT_OFFSET: tl.constexpr,
    PRECISION: tl.constexpr, BS: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr,
):
    """Backward. ``gradient[i, r]`` = ∂loss/∂(x_i·w_r) of the centers as the products read them, with row length ``stride``.

    The row length is that of whole tiles of classes, and columns without a class are zero. Beside it what is a sum of G or of
    ∂loss/∂z: ``along`` = Σ_i G·c of a sample tile, ``(sample tiles, stride)``, and of a class tile ``scale_sums`` = Σ_j ∂loss/∂z·ν
    and ``offset_sums`` = Σ_j ∂loss/∂z, ``(class tiles, N)``.
    """
    class_tile, sample, cls = _place(N, C, BS, BC)
    real, sample = sample < N, tl.minimum(sample, N - 1)
    last = tl.minimum(cls, C - 1)
    c, index = _nearest(x, w, inverse, sample, last, width, K, D, BK, HAS_INVERSE, PRECISION)
    f, t = _coefficients(threshold, factor, sample, HAS_THRESHOLD, HAS_FACTOR)
    s = tl.load(scale + sample)[:, None]
    value = negative_value(c, f, t, a, b, FORM)
    z = value * s
    if HAS_OFFSET:
        z += tl.load(offset + sample)[:, None]
    here = (cls < C)[None, :]
    own = (cls[None, :] == (tl.load(labels + sample) - first).to(tl.int32)[:, None]) & here
    other = here & (own == 0)
    # ∂loss/∂z. A sample that only fills the tile has the weight 0.
    g = tl.load(grad_negatives + sample, mask=real, other=0.0)[:, None]
    g = _slope_of_reduction(g, z, other, tl.load(reduced + sample)[:, None], REDUCTION)
    if HAS_TOTAL:
        g += tl.where(other, tl.load(grad_total + sample, mask=real, other=0.0)[:, None], 0.0)
    out = class_tile.to(tl.int64) * N + sample
    if WANT_SCALE:
        tl.store(scale_sums + out, tl.sum(tl.where(g == 0.0, 0.0, g * value), 1), mask=real)
    if WANT_OFFSET:
        tl.store(offset_sums + out, tl.sum(g, 1), mask=real)
    # ∂loss/∂c
    g = g * s
    if FORM != "identity":
        g = g * negative_slope(c, f, t, a, b, FORM)
    g = tl.where(own, tl.load(grad_target + sample, mask=real, other=0.0)[:, None], g)
    row = sample.to(tl.int64) * stride
    sample_tile = tl.program_id(0) % tl.cdiv(N, BS)
    for k in tl.static_range(K):
        part = g
        if K > 1:
            part = tl.where(index == k, g, 0.0)
        center = cls * K + k
        if WANT_ALONG:
            tl.store(along + sample_tile * stride + center, tl.sum(part * c, 0))
        if HAS_INVERSE:
            part *= tl.load(inverse + last * K + k)[None, :]
        # The zeros beyond the last class are stored too: the products read whole steps of columns, without a mask.
        tl.store(gradient + row[:, None] + center[None, :], part.to(gradient.dtype.element_ty), mask=real[:, None])
# fmt: on


# -- the products with G -----------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=_VARYING)
def feature_gradient(
    gradient,
    w,
    out,
    N,
    rows,
    steps,
    stride,
    D: tl.constexpr,
    ADD: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """``out[split] (+)= G[:, part] · w[part]``, ``(splits, N, D)``, float32, where a part is ``steps``·BK of the rows of ``w``.

    N × D tiles alone would leave most of the GPU idle. Each split adds to its own matrix, so the order of additions is fixed.
    """
    sample = tl.program_id(0) * BM + tl.arange(0, BM)
    column = tl.program_id(1) * BN + tl.arange(0, BN)
    split = tl.program_id(2)
    real = sample < N
    kept = column < D
    depth = tl.arange(0, BK)
    begin = split * steps * BK
    end = tl.minimum(begin + steps * BK, rows)
    g_tile = gradient + tl.minimum(sample, N - 1).to(tl.int64)[:, None] * stride + (begin + depth)[None, :]
    w_tile = w + (begin + depth).to(tl.int64)[:, None] * D + column[None, :]
    target = out + (split.to(tl.int64) * N + sample)[:, None] * D + column[None, :]
    mask = real[:, None] & kept[None, :]
    if ADD:
        product = tl.load(target, mask=mask, other=0.0)
    else:
        product = tl.zeros((BM, BN), tl.float32)
    for start in range(begin, end, BK):
        left = tl.load(g_tile)
        right = tl.load(w_tile, mask=(depth < end - start)[:, None] & kept[None, :], other=0.0)
        product = _dot(left, right, product, PRECISION)
        g_tile += BK
        w_tile += BK * D
    tl.store(target, product, mask=mask)


@triton.jit(do_not_specialize=_VARYING)
def center_gradient(
    gradient,
    x,
    centers,
    inverse,
    along,
    out,
    N,
    rows,
    sample_tiles,
    stride,
    D: tl.constexpr,
    NORMALIZE: tl.constexpr,
    UNIT: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """``out = Gᵀ·X``, ``(rows, D)``; if NORMALIZE, only its part across the center, divided by the center's length.

    ``gradient`` holds the division already, unless the products read unit vectors (UNIT).
    """
    column_tiles = tl.cdiv(D, BN)
    program = tl.program_id(0)  # the column tiles of the same rows run side by side: they read the same part of G
    row = (program // column_tiles) * BM + tl.arange(0, BM)
    column = (program % column_tiles) * BN + tl.arange(0, BN)
    kept = column < D
    depth = tl.arange(0, BK)
    # Rows beyond the last one read what lies there (G has whole tiles of columns) and are not written.
    g_tile = gradient + depth.to(tl.int64)[None, :] * stride + row[:, None]
    x_tile = x + depth[:, None] * D + column[None, :]
    product = tl.zeros((BM, BN), tl.float32)
    for start in range(0, N, BK):
        inside = depth < N - start
        left = tl.load(g_tile, mask=inside[None, :], other=0.0)
        right = tl.load(x_tile, mask=inside[:, None] & kept[None, :], other=0.0)
        product = _dot(left, right, product, PRECISION)
        g_tile += BK * stride
        x_tile += BK * D
    last = tl.minimum(row, rows - 1)
    place = row.to(tl.int64)[:, None] * D + column[None, :]
    mask = (row < rows)[:, None] & kept[None, :]
    if NORMALIZE:
        shrink = tl.load(inverse + last)
        if UNIT:
            product *= shrink[:, None]
        radial = tl.zeros((BM,), tl.float32)
        for tile in range(sample_tiles):
            radial += tl.load(along + tile * stride + last)
        center = tl.load(centers + place, mask=mask, other=0.0).to(tl.float32)
        product -= center * (radial * shrink * shrink)[:, None]
    tl.store(out + place, product.to(out.dtype.element_ty), mask=mask)


# -- the centers -------------------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=_VARYING)
def unit_rows(
    w,
    inverse,
    unit,
    smallest,
    rows,
    D: tl.constexpr,
    WRITE_INVERSE: tl.constexpr,
    WRITE_UNIT: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """1/‖w‖ of each row, 0 where the length does not exceed ``smallest``, and the row divided by it in the dtype of ``unit``."""
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    column = tl.arange(0, BN)
    mask = (row < rows)[:, None] & (column < D)[None, :]
    place = row.to(tl.int64)[:, None] * D + column[None, :]
    v = tl.load(w + place, mask=mask, other=0.0).to(tl.float32)
    length = tl.sqrt(tl.sum(v * v, 1))
    one_over = 1.0 / tl.where(length > smallest, length, float("inf"))
    if WRITE_INVERSE:
        tl.store(inverse + row, one_over, mask=row < rows)
    if WRITE_UNIT:
        tl.store(unit + place, (v * one_over[:, None]).to(unit.dtype.element_ty), mask=mask)


# TRITON_INTERPRET=1 makes @triton.jit return something else, which runs on the CPU.
INTERPRETED = not isinstance(unit_rows, triton.JITFunction)
