"""What a network is, as data: frozen records from which listing, construction, profile, documentation and tests all read."""

from __future__ import annotations

# ruff: noqa: RUF009 (Preprocessing is frozen, which ruff does not see from another file)
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from facezoo.weights.preprocessing import Preprocessing as Preprocessing  # it belongs to weights; specs have a default


@dataclass(frozen=True)
class StemSpec:
    """The first layers, and the strides of the stages that go with them.

    Attributes:
        block: name in the registry of blocks.
        width: output channels.
        stride: total step of the stem in pixels.
        stage_strides: step of the first block (or the transition) of every stage.
        options: the block's own keyword arguments.
        transition_options: what every stage's transition has instead of (or beside) its own options.
        head: the head that goes with this stem; None for the model's own.
    """

    block: str
    width: int
    stride: int
    stage_strides: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    transition_options: Mapping[str, Any] = field(default_factory=dict)
    head: HeadSpec | None = None


@dataclass(frozen=True)
class StageSpec:
    """Blocks of one width, one after the other.

    Attributes:
        block: name in the registry of blocks.
        depth: number of blocks.
        width: output channels of every block.
        options: the blocks' own keyword arguments.
        first_options: what the first block has instead of (or beside) ``options``.
        per_block: what each block has instead of (or beside) ``options``, one entry per block; with fewer entries they repeat
            in cycles. ``first_options`` goes before it.
        transition: block that changes stride and width before the first one where either changes; the blocks then keep both.
            Without it the first block does that itself.
        transition_options: the transition's own keyword arguments.
        tokens: ``"none"``: the blocks take maps. ``"patches"``: they take the map's positions, row by row, as ``(N, L, C)`` tokens,
            which become a map again behind the stage. ``"class"``: the same with a learned class token in front of them.
        last_block: another block that takes the last place of the stage, with ``last_options`` for all of its own; None for none.
        last_options: the last block's own keyword arguments.
    """

    block: str
    depth: int
    width: int
    options: Mapping[str, Any] = field(default_factory=dict)
    first_options: Mapping[str, Any] = field(default_factory=dict)
    per_block: tuple[Mapping[str, Any], ...] = ()
    transition: str | None = None
    transition_options: Mapping[str, Any] = field(default_factory=dict)
    tokens: Literal["none", "patches", "class"] = "none"
    last_block: str | None = None
    last_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class HeadSpec:
    """From the last map to the embedding: conv, norm, pool, norm, hidden layers, dropout, linear, norm.

    Attributes:
        conv_width: channels of a 1×1 convolution (with batch norm and ``conv_act``) on the map; None for none.
        conv_act: its activation.
        map_norm: norm on the map before pooling: ``"none"``, ``"batch"`` or ``"layer"`` (over the channels).
        map_act: activation behind that norm.
        norm_eps: eps of the head's layer norms.
        global_pool: name of the pooling.
        pool_norm: norm on the pooled vector: ``"none"`` or ``"layer"``.
        hidden_width: width of a linear layer on the pooled vector, which belongs to the network with and without an embedding
            (MobileNetV3); None for none.
        hidden_norm: norm behind it: ``"none"`` (then it has a bias) or ``"batch"``.
        hidden_act: its activation.
        hidden_depth: number of such layers, one after the other, with a dropout in between (VGG).
        drop_rate: default probability of the dropout before the embedding (or, without embedding, the classifier).
        embedding_bias: whether the linear layer of the embedding has a bias.
        embedding_rank_ratio: rank of that layer over the smaller of its widths (EdgeFace); None for full rank.
        embedding_norm: ``"batch"``, ``"batch_frozen_scale"`` (batch norm whose weight stays 1), ``"batch_without_affine"`` (without
            weight and bias) or ``"none"``.
        embedding_norm_eps: added to that norm's variance.
        embedding_act: activation between the linear layer and that norm; ``"mfm"`` takes twice the width in.
    """

    conv_width: int | None = None
    conv_act: str = "relu"
    map_norm: Literal["none", "batch", "layer"] = "none"
    map_act: str = "none"
    norm_eps: float = 1e-6
    global_pool: str = "avg"
    pool_norm: Literal["none", "layer"] = "none"
    hidden_width: int | None = None
    hidden_norm: Literal["none", "batch"] = "none"
    hidden_act: str = "relu"
    hidden_depth: int = 1
    drop_rate: float = 0.0
    embedding_bias: bool = False
    embedding_rank_ratio: float | None = None
    embedding_norm: Literal["none", "batch", "batch_frozen_scale", "batch_without_affine"] = "batch"
    embedding_norm_eps: float = 1e-5
    embedding_act: str = "none"


@dataclass(frozen=True)
class ModelSpec:
    """One named network.

    Attributes:
        name: name in the registry.
        family: the file's family, for grouping in lists.
        stems: stems by form: ``"face"`` (112×112 ends in a 7×7 map) and, where one was published, ``"imagenet"``.
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

    def __hash__(self) -> int:  # the dictionaries of options have none; equal specs have equal names
        return hash(self.name)

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError(f"model {self.name!r} has no stages")
        for form, stem in self.stems.items():
            if len(stem.stage_strides) != len(self.stages):
                raise ValueError(
                    f"model {self.name!r}, stem {form!r}: {len(stem.stage_strides)} stage strides for {len(self.stages)} stages"
                )
