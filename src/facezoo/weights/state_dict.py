"""Extract the state dict from a file's content: unwrap it, remove prefixes, dequantize where that is safe, check the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from facezoo.weights.errors import CheckpointError, shorten

# Keys under which training scripts store the network's state dict, in order of preference: the moving average, which is what they
# evaluate, before the weights, and a teacher, which is an average of its student, before the student.
WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "ema",
    "state_dict",
    "model_state_dict",
    "net_state_dict",
    "backbone_state_dict",
    "teacher",
    "student",
    "model",
    "net",
    "network",
    "backbone",
    "encoder",
    "params",
)
# Prefixes that training programs add, anywhere in a name, and (DataParallel) at its beginning.
_INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_IN_FRONT = ("module.", "_forward_module.")
_DEEPEST = 8  # dictionaries inside each other
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_PACKED, _PACKED_TYPE = "._packed_params._packed_params", "._packed_params.dtype"


@dataclass(frozen=True)
class Unpacked:
    """A state dict, the number of its linear layers that were dequantized from 8-bit integers, and the names that led to it."""

    tensors: dict[str, Tensor]
    dequantized: int = 0
    entries: tuple[str, ...] = ()


def clean_state_dict(content: object) -> dict[str, Tensor]:
    """The state dict inside ``content``, unwrapped, without the prefixes of ``DataParallel``, FSDP and ``torch.compile``.

    Linear layers quantized to 8 bits by ``torch.ao.quantization.quantize_dynamic`` become float32.

    Args:
        content: a state dict, or a dictionary that holds one under a name of :data:`WRAPPERS`, at any depth.

    Returns:
        A new dictionary; the tensors are those of ``content``.

    Raises:
        CheckpointError: there is no state dict in ``content``, two keys become equal without their prefixes, or a tensor is
            sparse, quantized or without data.
    """
    return unpack(content).tensors


def unpack(content: object) -> Unpacked:
    """Like :func:`clean_state_dict`, and also returns the number of dequantized layers and the names of the wrappers."""
    entries: list[str] = []
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping):
            break
        held = [(key, content[key]) for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not held:
            break
        # a moving average that was turned off may be empty
        entry, content = next((pair for pair in held if pair[1]), held[0])
        entries.append(entry)
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"expected a state dict, a dictionary of tensors by name; got {_describe(content)}")
    plain, dequantized = _without_packed(content)
    counted = "n_averaged" in plain and all(key == "n_averaged" or str(key).startswith("module.") for key in plain)
    cleaned: dict[str, Tensor] = {}
    for key, value in plain.items():
        if counted and key == "n_averaged":  # torch's AveragedModel stores its number of updates
            continue
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"expected a state dict, a dictionary of tensors by name; {shorten(repr(key))} is {_describe(value)}. A state "
                f"dict inside a bigger dictionary is found under the names {', '.join(WRAPPERS)}"
            )
        _require_plain(key, value)
        name = _without_wrapper_prefix(key)
        if name in cleaned:
            raise CheckpointError(
                f"two keys are {shorten(repr(name))} once the prefixes {', '.join((*_IN_FRONT, *_INSIDE))} are stripped"
            )
        cleaned[name] = value
    return Unpacked(cleaned, dequantized, tuple(entries))


def require_loadable(chosen: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Raise unless every tensor of ``chosen`` is valid for its tensor in ``target``; both have the same names and shapes.

    Raises:
        CheckpointError: weights that are integers or complex, or counters that are not integers; NaN, infinity, or a number out
            of range of the network's dtype; a negative variance. The message names the first tensor.
    """
    for name, value in chosen.items():
        wanted = target[name]
        _require_plain(name, value)
        if not wanted.is_floating_point():
            if value.is_complex() or not _fits_integers(value):
                raise CheckpointError(f"{name} is a counter, and the checkpoint has {_kind(value)} that is not a count")
            continue
        if value.dtype not in _FLOATS:
            raise CheckpointError(
                f"{name} is of type {_kind(value)}; weights are float16, bfloat16, float32 or float64"
            )
        if not all_finite(value):
            raise CheckpointError(f"{name} holds NaN or infinity")
        if not all_finite(value.to(wanted.dtype)):
            raise CheckpointError(
                f"{name} holds numbers beyond the range of {_kind(wanted)}, which the network computes in"
            )
        if name.endswith(".running_var") and bool((value < 0).any()):
            raise CheckpointError(f"{name} holds negative variances")


def all_finite(value: Tensor) -> bool:
    """Whether all values are finite."""
    return bool(torch.isfinite(value).all())


def _fits_integers(value: Tensor) -> bool:
    """Counters that were averaged with the weights are floats; finite ones are accepted."""
    return not value.is_floating_point() or (value.dtype in _FLOATS and all_finite(value))


def _require_plain(name: str, value: Tensor) -> None:
    """Raise if the tensor is not a dense, unquantized tensor with data."""
    kind = ""
    if value.is_quantized:
        kind = f"quantized ({_kind(value)}), and this layout of quantization is not known"
    elif value.layout != torch.strided:
        kind = f"not dense ({str(value.layout).removeprefix('torch.')})"
    elif value.is_meta:
        kind = "without data (on the meta device)"
    elif value.is_nested:
        kind = "nested"
    if kind:
        raise CheckpointError(
            f"{shorten(name)} is {kind}; save the state dict of the float network, of dense tensors with data, and load that"
        )


def _without_packed(content: Mapping[object, object]) -> tuple[dict[object, object], int]:
    """Replace dynamically quantized linear layers by weight and bias; other entries of packed layers are left out."""
    packed = {
        str(key).removesuffix(_PACKED): value
        for key, value in content.items()
        if isinstance(key, str) and key.endswith(_PACKED)
    }
    plain: dict[object, object] = {}
    for key, value in content.items():
        layer, _, last = str(key).rpartition(".")
        if str(key).endswith((_PACKED, _PACKED_TYPE)) or (layer in packed and last in ("scale", "zero_point")):
            layer = str(key).removesuffix(_PACKED)
            if layer in packed:
                weight, bias = _linear(layer, packed[layer])
                plain[f"{layer}.weight"] = weight
                if bias is not None:
                    plain[f"{layer}.bias"] = bias
            continue
        plain[key] = value
    return plain, len(packed)


def _linear(layer: str, packed: object) -> tuple[Tensor, Tensor | None]:
    if (
        not isinstance(packed, tuple)
        or len(packed) != 2
        or not isinstance(packed[0], Tensor)
        or not (packed[1] is None or isinstance(packed[1], Tensor))
        or not packed[0].is_quantized
        or packed[0].dim() != 2
    ):
        raise CheckpointError(
            f"{shorten(layer)} is a packed layer of another kind than a dynamically quantized linear one"
        )
    weight, bias = packed
    return weight.dequantize(), None if bias is None else bias.detach()


def _without_wrapper_prefix(key: str) -> str:
    # torch.compile and FSDP may wrap any submodule. DataParallel wraps the whole network: deeper, "module" is an ordinary name.
    for prefix in _INSIDE:
        key = key.replace(prefix, "")
    while key.startswith(_IN_FRONT):
        for prefix in _IN_FRONT:
            key = key.removeprefix(prefix)
    return key


def _kind(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _describe(value: object) -> str:
    return "an empty dictionary" if isinstance(value, Mapping) and not value else f"a {type(value).__name__}"
