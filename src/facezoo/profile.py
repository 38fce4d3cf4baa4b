"""Exact parameters and multiply-accumulates, in total and per stage, on the meta device: no weights are allocated."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from facezoo.models import FaceNetwork, get_model_spec


@dataclass(frozen=True)
class StageProfile:
    """One part of a network.

    Attributes:
        name: ``stem``, ``stages.0`` …, ``head``, ``classifier``.
        params: parameters, trainable or not.
        macs: multiply-accumulates of convolutions and linear layers for one image.
        output_shape: shape of its output for one image, without the batch.
    """

    name: str
    params: int
    macs: int
    output_shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelProfile:
    """A network's size and cost for one image.

    MACs are those of convolutions and linear layers (half of torch's FLOP count); norms, activations and pooling are not
    counted, so figures of tools that count them are a little higher.

    Attributes:
        name: the model's name.
        img_size: height and width of the image in pixels.
        params: parameters, trainable or not.
        macs: multiply-accumulates.
        stages: the parts in order; their figures add up to the totals.
    """

    name: str
    img_size: tuple[int, int]
    params: int
    macs: int
    stages: tuple[StageProfile, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        rows = [("part", "output", "params", "MACs")]
        for stage in self.stages:
            rows.append((stage.name, "×".join(map(str, stage.output_shape)), f"{stage.params:,}", f"{stage.macs:,}"))
        rows.append((f"{self.name} @{self.img_size[0]}×{self.img_size[1]}", "", f"{self.params:,}", f"{self.macs:,}"))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        return "\n".join(
            f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}".rstrip() for a, b, c, d in rows
        )


def profile_model(
    name: str,
    *,
    num_classes: int = 0,
    embedding_dim: int | None = 512,
    stem: str = "face",
    in_chans: int = 3,
    img_size: int | Sequence[int] = 112,
    global_pool: str | None = None,
    output_stride: int | None = None,
) -> ModelProfile:
    """Profile the model called ``name`` for one image; arguments as for :func:`facezoo.create_model`.

    Raises:
        UnknownNameError: no such model.
        ValueError: an argument out of range.
    """
    spec = get_model_spec(name)
    with torch.device("meta"):
        model = FaceNetwork(
            spec,
            num_classes=num_classes,
            embedding_dim=embedding_dim,
            stem=stem,
            in_chans=in_chans,
            img_size=img_size,
            global_pool=global_pool,
            output_stride=output_stride,
        )
    return profile_network(model, name=name)


def profile_network(model: FaceNetwork, *, name: str | None = None) -> ModelProfile:
    """Profile a network that exists, at the image size of its preprocessing. Its weights and mode are left alone."""
    height, width = model.preprocessing.img_size
    shadow = model if next(model.parameters()).is_meta else _meta_copy(model)
    parts = _parts(shadow)
    shapes: dict[str, tuple[int, ...]] = {}
    hooks = [part.register_forward_hook(_shape_recorder(shapes, part_name)) for part_name, part in parts.items()]
    was_training = shadow.training
    shadow.eval()
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter, _WithoutBatchNorm():
            shadow(torch.empty(1, model.in_chans, height, width, device="meta"))
    finally:
        shadow.train(was_training)
        for hook in hooks:
            hook.remove()
    flops = counter.get_flop_counts()
    root = type(shadow).__name__
    stages = tuple(
        StageProfile(
            name=part_name,
            params=sum(parameter.numel() for parameter in part.parameters()),
            macs=sum(flops.get(f"{root}.{part_name}", {}).values()) // 2,
            output_shape=shapes[part_name],
        )
        for part_name, part in parts.items()
    )
    return ModelProfile(
        name=name or model.spec.name,
        img_size=(height, width),
        params=sum(parameter.numel() for parameter in shadow.parameters()),
        macs=counter.get_total_flops() // 2,
        stages=stages,
    )


class _WithoutBatchNorm(TorchFunctionMode):
    """Batch norm hands its input on: it changes no shape and is not counted, but is most of a pass on the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.batch_norm:
            return args[0] if args else kwargs["input"]
        return func(*args, **(kwargs or {}))


def _parts(model: FaceNetwork) -> dict[str, nn.Module]:
    parts = {"stem": model.stem, **{f"stages.{index}": stage for index, stage in enumerate(model.stages)}}
    parts["head"] = model.head
    if model.num_classes:
        parts["classifier"] = model.classifier
    return parts


def _meta_copy(model: FaceNetwork) -> FaceNetwork:
    config = {key: value for key, value in model.config.items() if key != "name"}
    with torch.device("meta"):
        return FaceNetwork(model.spec, **config)


def _shape_recorder(shapes: dict[str, tuple[int, ...]], name: str) -> Any:
    def record(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        shapes[name] = tuple(output.shape[1:])

    return record
