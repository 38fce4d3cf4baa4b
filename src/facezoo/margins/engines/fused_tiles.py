"""Sizes of the tiles in which the fused engine works, by what the compiler makes of them."""

from __future__ import annotations

from typing import Literal, NamedTuple

Precision = Literal["tf32x3", "tf32", "bf16"]

# Of G. A buffer that fits into the L2 is not faster: on an H100 the kernels of a step of 1,024 × 100,000 in TF32 took 2.42 ms with
# 32 MiB, 2.35 with 64 and 2.26 with 128 (benchmarks/results/fused_tiles.md). A larger buffer needs fewer launches.
GRADIENT_BYTES = 2**27

# Forms with powers or sines need registers of their own.
_LONG_FORMS = frozenset({"gaussian", "power", "power_detached", "wide_angle", "wide_angle_detached"})


class Tile(NamedTuple):
    """Sizes of a tile of a product: rows × columns of the result, in steps of ``depth``; how many warps and pipeline stages."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


class Tiles(NamedTuple):
    """The tiles of a problem: of logits (samples × classes), of ∂loss/∂features and of ∂loss/∂centers (both × D)."""

    logits: Tile
    features: Tile
    centers: Tile


def choose_tiles(
    precision: Precision, *, form: str, samples: int, width: int, per_class: int, large_shared: bool
) -> Tiles:
    """Tiles by what the compiler makes of them for sm_90.

    128 × 256 sums are 128 registers a thread in 8 warps. Reading 42 (TF32) or 85 (bf16) operations' worth per byte from the L2,
    they are the largest tile that leaves registers for the logits' arithmetic; three stages of 48 KiB fill most of the shared
    memory. In the loops over D nothing is spilled; some registers are while G is formed, once per tile. A form with powers or
    sines would spill thousands, TF32 in three products holds its operands in registers as well, and the nearest of several
    centers needs two tiles at once: these get half the tile or less. GPUs other than Hopper's and Blackwell's data-center kind
    have about 100 KiB of shared memory.

    Args:
        precision: of the products.
        form: name of the form of the negatives.
        samples: N.
        width: D.
        per_class: K.
        large_shared: whether a block may have more than 200 KiB of shared memory.
    """
    rows = 64 if samples <= 64 else 128
    depth = 64 if precision == "bf16" else 32
    while depth > 16 and depth >= 2 * width:
        depth //= 2
    columns = 256 if large_shared and precision != "tf32x3" else 128
    stages = 3 if large_shared else 2
    product_columns = columns
    if form in _LONG_FORMS:
        columns = 128
    while product_columns > 16 and product_columns >= 2 * width:
        product_columns //= 2
    step = 64 if precision == "bf16" else 32  # over classes for ∂loss/∂features, over samples for ∂loss/∂centers
    return Tiles(
        Tile(rows, columns, depth, 8, stages) if per_class == 1 else Tile(64, 128, depth, 8, stages),
        Tile(rows, product_columns, step, 8, stages),
        Tile(128, product_columns, step, 8, stages),
    )


# The interpreter's time is one of tiles and steps, not of their sizes; these are small to have several of each in a small test.
INTERPRETED_TILES = Tiles(Tile(16, 32, 16, 4, 1), Tile(16, 16, 16, 4, 1), Tile(16, 32, 16, 4, 1))


def gradient_columns(tiles: Tiles, samples: int, per_class: int, item: int) -> int:
    """Classes whose G fits in :data:`GRADIENT_BYTES`, in whole tiles of everything that reads it; at least one tile."""
    unit = max(tiles.logits.columns, tiles.features.depth, tiles.centers.rows)
    return max(unit, GRADIENT_BYTES // (samples * item * per_class) // unit * unit)
