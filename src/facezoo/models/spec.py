"""Networks as data: frozen records that listing, construction, profile, documentation and tests use."""

from __future__ import annotations

# ruff: noqa: RUF009 (Preprocessing is frozen, which ruff does not see from another file)
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from facezoo.blocks import check_block, check_head
from facezoo.checks import is_whole
from facezoo.layers import POOLS
from facezoo.preprocessing import Preprocessing


@dataclass(frozen=True)
class StemSpec:
    """The stem, and the strides of the stages that belong to it.

    Attributes:
        block: name in the registry of blocks.
        width: output channels.
        stride: total step of the stem in pixels.
        stage_strides: step of the first block (or the transition) of every stage.
        options: the block's own keyword arguments.
        transition_options: options that override or extend those of every stage's transition.
        head: the head for this stem; None for the model's own.
    """

    block: str
    width: int
    stride: int
    stage_strides: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    transition_options: Mapping[str, Any] = field(default_factory=dict)
    head: HeadSpec | None = None

    def __post_init__(self) -> None:
        _check_words("block", self.block, self.options)
        check_block(self.block, self.options)


@dataclass(frozen=True)
class BlockSpec:
    """One block, or several consecutive blocks with the same options.

    Attributes:
        block: name in the registry of blocks.
        depth: number of blocks.
        options: the block's own keyword arguments.
    """

    block: str
    depth: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_words("block", self.block, self.options)
        if not is_whole(self.depth, 1):
            raise ValueError(f"block {self.block!r}: depth is a whole number from 1, got {self.depth!r}")
        check_block(self.block, self.options)


@dataclass(frozen=True)
class StageSpec:
    """Consecutive blocks of one width.

    The first block changes stride and width; the others keep both. If there is a transition, it changes them instead.

    Attributes:
        width: output channels of every block.
        blocks: the blocks in order.
        transition: block before the first one if stride or width change; None for none.
        tokens: ``"none"``: the blocks take maps. ``"patches"``: they take the map's positions, row by row, as ``(N, L, C)``
            tokens, which are converted back to a map after the stage. ``"class"``: the same with a learned class token in front.
    """

    width: int
    blocks: tuple[BlockSpec, ...]
    transition: BlockSpec | None = None
    tokens: Literal["none", "patches", "class"] = "none"

    def __post_init__(self) -> None:
        if not isinstance(self.blocks, tuple) or not self.blocks:
            raise ValueError(f"a stage has a tuple of at least one BlockSpec, got {self.blocks!r:.100}")
        if not all(isinstance(block, BlockSpec) for block in self.blocks):
            raise ValueError(f"a stage has a tuple of BlockSpec, got {self.blocks!r:.100}")
        if self.tokens not in ("none", "patches", "class"):
            raise ValueError(f"tokens is 'none', 'patches' or 'class', got {self.tokens!r:.100}")

    @property
    def depth(self) -> int:
        """Number of blocks, without the transition."""
        return sum(block.depth for block in self.blocks)


def stage(
    block: str,
    depth: int,
    width: int,
    options: Mapping[str, Any] | None = None,
    *,
    transition: BlockSpec | None = None,
    tokens: Literal["none", "patches", "class"] = "none",
) -> StageSpec:
    """A stage of ``depth`` equal blocks, the common case of a :class:`StageSpec`."""
    return StageSpec(width, (BlockSpec(block, depth, options or {}),), transition, tokens)


@dataclass(frozen=True)
class HeadSpec:
    """The head, which turns the last map into the embedding.

    Attributes:
        head: name in the registry of heads.
        options: the head's own keyword arguments.
        global_pool: name of the pooling, unless the caller names one.
        drop_rate: probability of the dropout before the embedding (or, without embedding, the classifier), likewise.
    """

    head: str = "linear"
    options: Mapping[str, Any] = field(default_factory=dict)
    global_pool: str = "avg"
    drop_rate: float = 0.0

    def __post_init__(self) -> None:
        _check_words("head", self.head, self.options)
        check_head(self.head, self.options)
        POOLS[self.global_pool]


def _check_words(kind: str, name: object, options: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a {kind} is named by a string, got {name!r:.100}")
    if not isinstance(options, Mapping):
        raise TypeError(f"{kind} {name!r}: options is a mapping from names to values, got {options!r:.100}")


@dataclass(frozen=True)
class ModelSpec:
    """One named network.

    Attributes:
        name: name in the registry.
        family: the file's family, for grouping in lists.
        stems: stems by form: ``"face"`` (112×112 ends in a 7×7 map) and, if one was published, ``"imagenet"``.
        stages: the stages in order.
        head: the head.
        init: name of the initialization scheme.
        paper: arXiv number, or another reference.
        description: one line.
        preprocessing: default for weights trained by facezoo.
    """

    name: str
    family: str
    stems: Mapping[str, StemSpec]
    stages: tuple[StageSpec, ...]
    head: HeadSpec
    init: str
    paper: str
    description: str
    preprocessing: Preprocessing = Preprocessing()

    def __hash__(self) -> int:  # dictionaries of options have no hash; equal specs have equal names
        return hash(self.name)

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError(f"model {self.name!r} has no stages")
        for form, stem in self.stems.items():
            if len(stem.stage_strides) != len(self.stages):
                raise ValueError(
                    f"model {self.name!r}, stem {form!r}: {len(stem.stage_strides)} stage strides for {len(self.stages)} stages"
                )
