"""The cost of a network: exact parameters, multiply-accumulates and memory per stage, counted on the meta device without
allocation."""

from __future__ import annotations

import dataclasses
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typing_extensions import Unpack

from facezoo.checks import whole
from facezoo.columns import aligned
from facezoo.counting import NORMS, SameShape, count_macs, meta_forward, stand_ins, without_storage
from facezoo.models import FaceNetwork, get_model_spec
from facezoo.models.network import Backbone, NetworkOptions
from facezoo.modes import drop_hooks, private_view


@dataclass(frozen=True)
class StageProfile:
    """One part of a network.

    Attributes:
        name: ``stem``, ``stages.0`` …, ``head``, ``classifier``.
        params: parameters, trainable or not.
        macs: multiply-accumulates for one image.
        output_shape: shape of its output for one image, without the batch.
        activations: numbers in the outputs of its convolutions and linear layers, for one image.
        training_bytes: memory that autograd saves per image, see :class:`ModelProfile`; None if memory was not requested.
    """

    name: str
    params: int
    macs: int
    output_shape: tuple[int, ...]
    activations: int
    training_bytes: int | None


@dataclass(frozen=True)
class ModelProfile:
    """A network's size and cost for one image.

    MACs are those of convolutions and matrix products (half of torch's FLOP count). Norms, activations and pooling are not
    counted, so tools that count them give slightly higher numbers. Activations are counted as in 2003.13678, which finds that
    they predict the speed on an accelerator better than MACs.

    Bytes are for tensors in the network's dtype (float32 unless it was cast), without its parameters and buffers. They are what
    PyTorch's eager CPU kernels save; autocast, a compiler and the workspaces of cuDNN change them.

    Attributes:
        name: the model's name.
        img_size: height and width of the image in pixels.
        params: parameters, trainable or not.
        macs: multiply-accumulates.
        activations: numbers in the outputs of all convolutions and linear layers.
        training_bytes: memory that autograd saves per image between the forward and the backward pass in training mode: every
            saved tensor, counted once. Gradient checkpointing reduces it, and so may frozen parameters; a completely frozen
            network saves nothing.
        batch_bytes: additional memory per batch, independent of its size: statistics of norms. See :meth:`training_memory`.
        inference_bytes: peak memory of the forward pass of one image in evaluation mode without gradients, including the image.
        stages: the parts in order; their parameters, MACs, activations and training bytes add up to the totals.
    """

    name: str
    img_size: tuple[int, int]
    params: int
    macs: int
    activations: int
    training_bytes: int | None
    batch_bytes: int | None
    inference_bytes: int | None
    stages: tuple[StageProfile, ...]

    def training_memory(self, batch_size: int) -> int:
        """Bytes that autograd saves for a batch of ``batch_size`` images.

        Weights, gradients and optimizer state are not included: 12 bytes per parameter in float32 with SGD and momentum, 16 with
        AdamW. Temporary memory of the backward pass is not included either.

        Raises:
            ValueError: ``batch_size`` is not at least 1, or the profile was made without memory.
        """
        batch_size = whole("batch_size", batch_size, 1)
        if self.training_bytes is None or self.batch_bytes is None:
            raise ValueError("this profile was made with memory=False")
        return self.batch_bytes + batch_size * self.training_bytes

    def to_dict(self) -> dict[str, Any]:
        """Convert to a dict of JSON values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("part", "output", "params", "MACs", "activations", "training MiB")]
        rows += [_row(stage.name, "×".join(map(str, stage.output_shape)), stage) for stage in self.stages]
        rows.append(_row(f"{self.name} @{self.img_size[0]}×{self.img_size[1]}", "", self))
        used = [column for column in range(6) if any(row[column] for row in rows[1:])]
        lines = aligned([[row[column] for column in used] for row in rows], right=True)
        if self.training_bytes is not None and self.batch_bytes is not None and self.inference_bytes is not None:
            kept = f"{_mib(self.training_bytes)} per image and {_mib(self.batch_bytes)} per batch"
            lines.append(
                f"for the backward pass, training keeps {kept}; inference on one image needs {_mib(self.inference_bytes)}"
            )
        return "\n".join(lines)


def profile_model(
    name: str, *, grad_checkpointing: bool = False, memory: bool = True, **options: Unpack[NetworkOptions]
) -> ModelProfile:
    """Profile the model called ``name`` for one image.

    Args:
        name: name of a model.
        grad_checkpointing: whether training recomputes each block; this affects the memory.
        memory: False omits the bytes (None), which takes a third of the time.
        options: arguments of :func:`facezoo.create_model`, such as ``num_classes`` and ``img_size``.

    Raises:
        UnknownNameError: an unknown model.
        ValueError: an argument out of range.
        TypeError: an argument that ``create_model`` does not have.
    """
    with without_storage():
        model = FaceNetwork(get_model_spec(name), **options)
    model.set_grad_checkpointing(grad_checkpointing)
    return profile_network(model, memory=memory)


def profile_network(model: Backbone, *, name: str | None = None, memory: bool = True) -> ModelProfile:
    """Profile an existing network, at the image size of its preprocessing. Its weights, mode and gradients do not change.

    The network is counted in its current state: fused, frozen, cast or checkpointed.

    Args:
        model: a network of :func:`facezoo.create_model` (also ``features_only``) or :func:`facezoo.fuse`, on any device.
        name: name to print; None for that of its record.
        memory: False omits the bytes (None), which takes a third of the time.
    """
    model = private_view(model, training=False)  # hooks are added to it
    drop_hooks(model)
    parts = _parts(model)
    with _watched(parts) as watch, _Outputs(watch) as outputs:
        macs = count_macs(model)
    training: Mapping[str, int | None] = defaultdict(lambda: None)
    batch_bytes = inference_bytes = None
    if memory:
        two, three = (_saved_bytes(model, parts, batch) for batch in (2, 3))
        training = {part: three[part] - two[part] for part in parts}
        batch_bytes = sum(two.values()) - 2 * (sum(three.values()) - sum(two.values()))
        inference_bytes = _peak_bytes(model)
    stages = tuple(
        StageProfile(
            name=part,
            params=sum(parameter.numel() for parameter in module.parameters()),
            macs=macs.get(part, 0),
            output_shape=watch.shapes[part],
            activations=outputs.numbers[part],
            training_bytes=training[part],
        )
        for part, module in parts.items()
    )
    return ModelProfile(
        name=name or model.spec.name,
        img_size=model.preprocessing.img_size,
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=macs[""],
        activations=sum(outputs.numbers.values()),
        training_bytes=sum(stage.training_bytes or 0 for stage in stages) if memory else None,
        batch_bytes=batch_bytes,
        inference_bytes=inference_bytes,
        stages=stages,
    )


def _parts(model: Any) -> dict[str, nn.Module]:
    parts = {"stem": model.stem, **{f"stages.{index}": stage for index, stage in enumerate(model.stages)}}
    if hasattr(model, "head"):
        parts["head"] = model.head
    if getattr(model, "num_classes", 0):
        parts["classifier"] = model.classifier
    return parts


# -- where a pass is ----------------------------------------------------------------------------------------------------------


class _Watch:
    """The current part of a forward pass, and the output shapes of the parts."""

    def __init__(self) -> None:
        self.part = ""
        self.shapes: dict[str, tuple[int, ...]] = {}

    def enter(self, part: str) -> None:
        self.part = part

    def leave(self, part: str, output: Tensor) -> None:
        self.shapes[part] = tuple(output.shape[1:])


@contextmanager
def _watched(parts: Mapping[str, nn.Module]) -> Iterator[_Watch]:
    """Watch the parts of a forward pass; operations between two parts belong to the first."""
    watch = _Watch()
    hooks = []
    for name, part in parts.items():
        hooks.append(part.register_forward_pre_hook(lambda module, inputs, name=name: watch.enter(name)))
        hooks.append(part.register_forward_hook(lambda module, inputs, output, name=name: watch.leave(name, output)))
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()


# -- activations --------------------------------------------------------------------------------------------------------------

_COUNTED = (torch.conv1d, torch.conv2d, torch.conv3d, nn.functional.linear)


class _Outputs(TorchFunctionMode):
    """Counts the outputs of convolutions and linear layers, by part."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch
        self.numbers: defaultdict[str, int] = defaultdict(int)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _COUNTED:
            self.numbers[self.watch.part] += result.numel()
        return result


# -- memory -------------------------------------------------------------------------------------------------------------------


def _saved_bytes(model: Backbone, parts: Mapping[str, nn.Module], batch_size: int) -> dict[str, int]:
    """Bytes of the storages that autograd saves in a training pass, by the part that saved them first."""
    tensors = stand_ins(model)
    own = {tensor.untyped_storage()._cdata for tensor in tensors.values()}
    saved: dict[int, tuple[torch.UntypedStorage, str]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved.setdefault(storage._cdata, (storage, watch.part))  # kept alive, so that the address is not reused
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with _watched(parts) as watch, torch.enable_grad(), hooks, _FusedAttention():
        view = private_view(model, training=True)
        drop_hooks(view)
        meta_forward(view, batch_size, tensors=tensors)
    by_part = dict.fromkeys(parts, 0)
    for storage, part in saved.values():
        by_part[part] += storage.nbytes()
    return by_part


def _peak_bytes(model: Backbone) -> int:
    """Peak memory of live storages in the forward pass of one image, without parameters and buffers."""
    tensors = stand_ins(model)
    live = _Live(tensors.values())
    with torch.no_grad(), live, SameShape(NORMS), _FusedAttention():
        meta_forward(model, tensors=tensors)
    return live.peak


class _Live(TorchDispatchMode):
    """Adds up the storages of operations' outputs, from their creation until they are freed."""

    def __init__(self, without: Iterable[Tensor]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in without}
        self.bytes = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.known:
                storage = tensor.untyped_storage()
                self.known.add(storage._cdata)
                self.bytes += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.bytes)
        return result

    def _free(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.bytes -= size


class _FusedAttention(TorchFunctionMode):
    """Attention without a bias saves what the fused kernels save; the meta device would choose a kernel that saves L×L maps."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.scaled_dot_product_attention and len(args) == 3 and not kwargs:
            return _Attention.apply(*args)
        return func(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    """Saves queries, keys, values and output, each ``(N, heads, L, width)``, and one float32 log-sum-exp per query.

    The output is stored in token order, so that joining the heads needs no copy.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        count, heads, length, _ = query.shape
        output = query.new_empty(count, length, heads, value.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output


def _row(name: str, shape: str, part: StageProfile | ModelProfile) -> tuple[str, ...]:
    memory = "" if part.training_bytes is None else f"{part.training_bytes / 2**20:.2f}"
    return name, shape, f"{part.params:,}", f"{part.macs:,}", f"{part.activations:,}", memory


def _mib(size: int) -> str:
    return f"{size / 2**20:,.2f} MiB"
