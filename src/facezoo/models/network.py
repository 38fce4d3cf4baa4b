"""The network class: stem -> stages of blocks -> head (pool, dropout, embedding) -> optional classifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict, cast

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from facezoo.blocks import block_accepts, create_block, create_head
from facezoo.checks import is_whole, whole
from facezoo.layers import DropBlock2d, TokenSequence, linear_drop_path_rates
from facezoo.layers.recompute import recomputed
from facezoo.models.init import initialize
from facezoo.models.parameter_groups import ParameterGroup, parameter_groups
from facezoo.models.spec import ModelSpec, StageSpec, StemSpec
from facezoo.preprocessing import Preprocessing
from facezoo.registry import unknown_name_message


class BackboneOptions(TypedDict, total=False):
    """The arguments of :func:`facezoo.create_model` with and without ``features_only``; see there for their meaning."""

    stem: str
    in_chans: int
    img_size: int | Sequence[int]
    output_stride: int | None
    drop_path_rate: float
    drop_block_rate: float


class NetworkOptions(BackboneOptions, total=False):
    """All arguments of :func:`facezoo.create_model` for the network itself. Other code takes the list from here."""

    num_classes: int
    embedding_dim: int | None
    global_pool: str | None
    drop_rate: float | None


DEFAULTS: NetworkOptions = {
    "num_classes": 0,
    "embedding_dim": 512,
    "stem": "face",
    "in_chans": 3,
    "img_size": 112,
    "global_pool": None,
    "output_stride": None,
    "drop_rate": None,
    "drop_path_rate": 0.0,
    "drop_block_rate": 0.0,
}
OF_THE_HEAD = ("num_classes", "embedding_dim", "global_pool", "drop_rate")  # what a network without head does not take


def complete(options: Mapping[str, Any]) -> NetworkOptions:
    """``options`` with defaults for missing ones. Raises ``TypeError`` for an unknown name."""
    for name in options:
        if name not in DEFAULTS:
            _, found, close = unknown_name_message("argument", name, DEFAULTS).partition(";")
            raise TypeError(f"create_model() got an unexpected keyword argument {name!r}{found}{close}")
    return cast(NetworkOptions, {**DEFAULTS, **options})


class Stage(nn.Module):
    """An optional transition, then blocks of one width, on maps or on tokens.

    Attributes:
        reads_class_token: whether the output is only the class token, as a ``(N, width, 1, 1)`` map, instead of the map: True in
            the last stage of a :class:`FaceNetwork` whose head takes the class token.
    """

    def __init__(
        self,
        in_chans: int,
        spec: StageSpec,
        *,
        stride: int,
        first_dilation: int,
        dilation: int,
        drop_path_rates: Iterator[float],
        drop_block: float,
        transition_options: Mapping[str, Any],
    ) -> None:
        super().__init__()
        if spec.transition is not None and (stride != 1 or in_chans != spec.width or dilation != first_dilation):
            self.transition = create_block(
                spec.transition.block,
                in_chans,
                spec.width,
                stride=stride,
                dilation=first_dilation,
                options={**spec.transition.options, **transition_options},
            )
            in_chans, stride, first_dilation = spec.width, 1, dilation
        else:
            self.transition = nn.Identity()
        self.blocks = nn.ModuleList()
        for index, block in enumerate(block for row in spec.blocks for block in (row,) * row.depth):
            first = index == 0
            self.blocks.append(
                create_block(
                    block.block,
                    in_chans if first else spec.width,
                    spec.width,
                    stride=stride if first else 1,
                    dilation=first_dilation if first else dilation,
                    drop_path=next(drop_path_rates),
                    drop_block=drop_block,
                    options=block.options,
                )
            )
        self.tokens = None if spec.tokens == "none" else TokenSequence(spec.width, class_token=spec.tokens == "class")
        self.reads_class_token = False
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, width, ceil(H / stride), ceil(W / stride))``."""
        x = self.transition(x)
        size = x.shape[2:]
        if self.tokens is not None:
            x = self.tokens(x)
        again = self.grad_checkpointing and torch.is_grad_enabled()
        for block in self.blocks:
            x = recomputed(block, x) if again else block(x)
        if self.reads_class_token:
            return x[:, 0, :, None, None]
        return x if self.tokens is None else self.tokens.to_map(x, size)


class Backbone(nn.Module):
    """Stem and stages; the base class of :class:`FaceNetwork` and :class:`FeatureNetwork`.

    Attributes:
        spec: the record it was built from.
        map_size: height and width in cells of the last stage's map, for images of ``preprocessing.img_size``; (1, 1) if the
            head takes a class token.
        feature_info: one dictionary per stage: ``num_chs`` (channels), ``reduction`` (pixels per cell), ``module`` (its name).
        preprocessing: preprocessing of the images.
    """

    def __init__(self, spec: ModelSpec, *, num_stages: int | None = None, **options: Unpack[BackboneOptions]) -> None:
        super().__init__()
        known = complete(options)
        stem, in_chans = known["stem"], whole("in_chans", known["in_chans"], 1)
        drop_path_rate, drop_block_rate = known["drop_path_rate"], known["drop_block_rate"]
        _check_probability("drop_path_rate", drop_path_rate, most=1.0)
        img_size = _size_pair(known["img_size"])
        self.spec = spec
        self.in_chans = in_chans
        self.preprocessing = preprocessing_for(spec.preprocessing, in_chans, img_size)
        stem_spec = _stem_spec(spec, stem)
        strides, first_dilations, dilations = _strides_and_dilations(spec.name, stem_spec, known["output_stride"])
        stages = spec.stages[:num_stages]
        rows = [row for stage in spec.stages for row in stage.blocks]
        depth = sum(row.depth for row in rows)
        rates = iter(linear_drop_path_rates(drop_path_rate, depth) if drop_path_rate else [0.0] * depth)
        self.stem = create_block(
            stem_spec.block,
            in_chans,
            stem_spec.width,
            stride=stem_spec.stride,
            in_size=img_size,
            options=stem_spec.options,
        )
        stage_list: list[Stage] = []
        self.feature_info: list[dict[str, Any]] = []
        width, reduction = stem_spec.width, stem_spec.stride
        map_size = _map_size(img_size, stem_spec.stride, self.stem)
        for index, stage in enumerate(stages):
            stage_list.append(
                Stage(
                    width,
                    stage,
                    stride=strides[index],
                    first_dilation=first_dilations[index],
                    dilation=dilations[index],
                    drop_path_rates=rates,
                    drop_block=_stage_drop_block(drop_block_rate, index, len(spec.stages)),
                    transition_options=stem_spec.transition_options,
                )
            )
            width, reduction = stage.width, reduction * strides[index]
            map_size = _map_size(map_size, strides[index], stage_list[-1].transition, stage_list[-1].blocks[0])
            self.feature_info.append({"num_chs": width, "reduction": reduction, "module": f"stages.{index}"})
        self.stages = nn.ModuleList(stage_list)
        self.map_size = map_size
        for argument, rate in (("drop_path", drop_path_rate), ("drop_block", drop_block_rate)):
            names = {block.block for stage in stages for block in stage.blocks}
            if rate and not any(block_accepts(name, argument) for name in names):
                raise ValueError(f"no block of {spec.name} knows {argument}: leave {argument}_rate at 0")

    def forward_stem(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W)`` images to the input map of the first stage.

        Raises:
            ValueError: a wrong shape.
            TypeError: images of integers.
        """
        if x.dim() != 4 or x.shape[1] != self.in_chans:
            raise ValueError(
                f"expected images of shape (N, {self.in_chans}, H, W), got {tuple(x.shape)}; "
                f"in_chans= sets the number of channels at construction"
            )
        if not x.is_floating_point():
            raise TypeError(
                f"expected normalized floating-point images, got {x.dtype}: divide by 255, then normalize with "
                f"mean {self.preprocessing.mean} and std {self.preprocessing.std} (facezoo.data.eval_transform does both)"
            )
        return self.stem(x)

    def forward_stages(self, x: Tensor) -> Iterator[Tensor]:
        """The map after every stage, in order, from ``(N, in_chans, H, W)`` images."""
        x = self.forward_stem(x)
        for stage in self.stages:
            x = stage(x)
            yield x

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations: less memory, about a third more time.

        Gradients and running statistics are the same as without it.
        """
        for stage in self.modules():
            if isinstance(stage, Stage):
                stage.grad_checkpointing = enable

    def set_drop_block_progress(self, progress: float) -> None:
        """Set the fraction of every DropBlock to ``progress`` (0 to 1) times its final fraction."""
        for module in self.modules():
            if isinstance(module, DropBlock2d):
                module.set_progress(progress)


class FaceNetwork(Backbone):
    """Images to embeddings, and to logits if the network has a classifier. Built by :func:`facezoo.create_model`.

    Attributes:
        embedding_dim: width of :meth:`embed`'s output.
        num_features: channels of :meth:`forward_features`' output.
        num_classes: classes of the classifier, 0 for none.
        config: the arguments of :func:`facezoo.create_model` that rebuild this network, as JSON values.
    """

    def __init__(self, spec: ModelSpec, **options: Unpack[NetworkOptions]) -> None:
        known = complete(options)
        num_classes = whole("num_classes", known["num_classes"], 0)
        embedding_dim = known["embedding_dim"]
        if embedding_dim is not None:
            embedding_dim = whole("embedding_dim", embedding_dim, 1)
        backbone = {name: value for name, value in known.items() if name in BackboneOptions.__annotations__}
        super().__init__(spec, **cast(BackboneOptions, backbone))
        last_stage = self.stages[-1]
        if isinstance(last_stage, Stage) and spec.stages[-1].tokens == "class":
            last_stage.reads_class_token = True
            self.map_size = (1, 1)
        head_spec = _stem_spec(spec, known["stem"]).head or spec.head
        drop_rate, global_pool = known["drop_rate"], known["global_pool"]
        drop_rate = head_spec.drop_rate if drop_rate is None else drop_rate
        _check_probability("drop_rate", drop_rate)
        self.num_features: int = self.feature_info[-1]["num_chs"]
        self.head = create_head(
            head_spec.head,
            self.num_features,
            self.map_size,
            embedding_dim=embedding_dim,
            global_pool=head_spec.global_pool if global_pool is None else global_pool,
            drop_rate=drop_rate,
            options=head_spec.options,
        )
        self.embedding_dim: int = cast(Any, self.head).out_features
        self.num_classes = num_classes
        self.classifier = nn.Linear(self.embedding_dim, num_classes) if num_classes else nn.Identity()
        said = {"num_classes": num_classes, "embedding_dim": embedding_dim, "drop_rate": drop_rate}
        sizes = {"in_chans": self.in_chans, "img_size": list(self.preprocessing.img_size)}
        self.config: dict[str, Any] = {"name": spec.name, **known, **said, **sizes}

    if TYPE_CHECKING:  # torch types the call of a module as Any

        def __call__(self, x: Tensor) -> Tensor: ...  # noqa: D102

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W)`` images to ``(N, num_classes)`` logits, or to the embeddings if there is no classifier."""
        return self.classifier(self.embed(x))

    def embed(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W)`` images to ``(N, embedding_dim)`` embeddings, not L2-normalized."""
        compiled = None if torch.compiler.is_compiling() else self.__dict__.get("_compiled_embed")
        return self._embed(x) if compiled is None else compiled(x)

    def _embed(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the call and :meth:`embed`, in place; arguments are those of ``torch.compile``.

        ``torch.compile(model)`` compiles only the call.
        """
        super().compile(*args, **kwargs)
        self.__dict__["_compiled_embed"] = torch.compile(self._embed, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "_compiled_embed"}

    def forward_features(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W)`` images to the last ``(N, num_features, h, w)`` map, or to the class token as a 1×1 map."""
        x = self.forward_stem(x)
        for stage in self.stages:  # not forward_stages, which would keep all maps in memory
            x = stage(x)
        return x

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """The output of :meth:`forward_features` to logits; to embeddings with ``pre_logits`` or without a classifier."""
        embeddings = self.head(features)
        return embeddings if pre_logits else self.classifier(embeddings)

    def get_classifier(self) -> nn.Module:
        """The linear classifier, or an identity."""
        return self.classifier

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a new one for ``num_classes`` classes (0: none); everything else stays the same."""
        num_classes = whole("num_classes", num_classes, 0)
        reference = next(self.parameters())
        self.num_classes = self.config["num_classes"] = num_classes
        with torch.inference_mode(False), torch.device(reference.device):
            classifier = nn.Linear(self.embedding_dim, num_classes) if num_classes else nn.Identity()
            initialize(classifier, self.spec.init)
            self.classifier = classifier.to(dtype=reference.dtype)

    def parameter_groups(self, weight_decay: float, layer_decay: float | None = None) -> list[ParameterGroup]:
        """Parameter groups for an optimizer, with every trainable parameter once, see :func:`parameter_groups`.

        Args:
            weight_decay: weight decay of all parameters except vectors, scalars and those in a module's ``no_weight_decay``.
            layer_decay: factor in (0, 1] on the learning rate from each block to the one before it; None for 1.

        Raises:
            ValueError: a factor out of range, or no parameter is trainable.
        """
        return parameter_groups(self, self._layers(), weight_decay, layer_decay)

    def _layers(self) -> list[nn.Module]:
        """Stem, every block (transition and class token count with the first), head with classifier – the steps of layer decay."""
        layers: list[nn.Module] = [self.stem]
        for stage in self.modules():
            if isinstance(stage, Stage):
                first, *rest = stage.blocks
                before = [stage.transition] if stage.tokens is None else [stage.transition, stage.tokens]
                layers += [nn.ModuleList([*before, first]), *rest]
        return [*layers, nn.ModuleList([self.head, self.classifier])]


class FeatureNetwork(Backbone):
    """Images to the maps after chosen stages (``create_model(..., features_only=True)``).

    The keys of its state dict are those of the :class:`FaceNetwork`; stages after the last chosen one are not built.

    Attributes:
        out_indices: the chosen stages, from 0.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        out_indices: Sequence[int] | None = None,
        **options: Unpack[BackboneOptions],
    ) -> None:
        count = len(spec.stages)
        chosen = range(count) if out_indices is None else out_indices
        if not isinstance(chosen, Sequence) or not chosen or not all(_is_stage(index, count) for index in chosen):
            raise ValueError(
                f"{spec.name} has {count} stages; out_indices are some of 0…{count - 1} (or negative), got {out_indices}"
            )
        self_indices = tuple(int(index) % count for index in chosen)
        super().__init__(spec, num_stages=max(self_indices) + 1, **options)
        self.out_indices = self_indices
        self.feature_info = [self.feature_info[index] for index in self_indices]

    if TYPE_CHECKING:  # torch types the call of a module as Any

        def __call__(self, x: Tensor) -> list[Tensor]: ...  # noqa: D102

    def forward(self, x: Tensor) -> list[Tensor]:
        """``(N, in_chans, H, W)`` images to one ``(N, num_chs, h, w)`` map per entry of ``out_indices``, in that order."""
        maps = list(self.forward_stages(x))
        return [maps[index] for index in self.out_indices]


def _stem_spec(spec: ModelSpec, stem: str) -> StemSpec:
    if stem not in spec.stems:
        known = ", ".join(repr(form) for form in spec.stems)
        raise ValueError(f"{spec.name} has no stem {stem!r}; it has {known}")
    return spec.stems[stem]


def preprocessing_for(default: Preprocessing, in_chans: int, img_size: tuple[int, int]) -> Preprocessing:
    """This preprocessing at another size; with other than three channels, mean and std are averaged over the colors."""
    if in_chans == len(default.mean) and img_size == default.img_size:
        return default
    mean, std = default.mean, default.std
    if in_chans != len(mean):
        mean = (sum(mean) / len(mean),) * in_chans
        std = (sum(std) / len(std),) * in_chans
    return replace(default, img_size=img_size, mean=mean, std=std)


def _strides_and_dilations(
    name: str, stem: StemSpec, output_stride: int | None
) -> tuple[list[int], list[int], list[int]]:
    """Stride, dilation of the first block and dilation of the others per stage.

    A stage whose stride would exceed ``output_stride`` is dilated instead, from its second block on, so that every filter
    covers the same positions as before.
    """
    native = stem.stride
    for stride in stem.stage_strides:
        native *= stride
    limit = native if output_stride is None else whole("output_stride", output_stride, 1)
    strides, first_dilations, dilations = [], [], []
    reduction, dilation = stem.stride, 1
    for stride in stem.stage_strides:
        first_dilations.append(dilation)
        if reduction * stride > limit:
            dilation *= stride
            strides.append(1)
        else:
            reduction *= stride
            strides.append(stride)
        dilations.append(dilation)
    if reduction != limit:
        possible = [stem.stride]
        for stride in stem.stage_strides:
            possible += [possible[-1] * stride] if stride > 1 else []
        raise ValueError(f"{name} with this stem can have an output_stride of {possible}, got {output_stride}")
    return strides, first_dilations, dilations


def _stage_drop_block(rate: float, index: int, count: int) -> float:
    """DropBlock acts in the last two stages, a quarter as strong in the first of them (1810.12890, section 4.1)."""
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"drop_block_rate is a probability in [0, 1), got {rate}")
    return {count - 2: rate / 4, count - 1: rate}.get(index, 0.0)


def _is_stage(index: object, count: int) -> bool:
    return is_whole(index) and -count <= index < count


def _size_pair(img_size: int | Sequence[int]) -> tuple[int, int]:
    sides = (img_size, img_size) if is_whole(img_size) else img_size
    if not isinstance(sides, Sequence) or len(sides) != 2 or not all(is_whole(side, 1) for side in sides):
        raise ValueError(f"img_size is one side or (height, width) in whole pixels, got {img_size!r:.100}")
    return int(sides[0]), int(sides[1])


def _map_size(size: tuple[int, int], stride: int, *modules: nn.Module) -> tuple[int, int]:
    """The size of the map after ``modules``, at most one of which has the stride.

    Padded convolutions round up; patches (with the attribute ``rounds_down``) round down; modules without padding have
    ``map_size``.
    """
    for module in modules:
        if hasattr(module, "map_size"):
            return module.map_size(size)  # type: ignore[operator]
    if any(getattr(module, "rounds_down", False) for module in modules):
        return size[0] // stride, size[1] // stride
    return -(-size[0] // stride), -(-size[1] // stride)


def _check_probability(name: str, value: float, *, most: float | None = None) -> None:
    if not isinstance(value, (int, float)) or not (0.0 <= value < 1.0 or value == most):
        raise ValueError(f"{name} is a probability in [0, 1{']' if most else ')'}, got {value!r:.100}")
