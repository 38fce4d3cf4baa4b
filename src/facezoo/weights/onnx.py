"""Read weights from an ONNX file of a network that facezoo has: convolutions, linear layers, norms and slopes in execution order.

Exporters rename tensors and fold batch norms into the convolution or linear layer before them, so nothing is matched by name. The
network is run once on the meta device to find the order of its layers. Each layer takes the first unused node of its kind and
shape. A folded norm becomes an identity that only adds the node's bias. Finally the outputs are compared with ONNX Runtime's.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facezoo.counting import without_storage
from facezoo.weights.errors import CheckpointError, shorten

__all__ = ["read_onnx"]

_CLOSE = 1e-3  # fraction of the largest output: rounding causes differences of about 1e-6, a misplaced layer of about 1
_CLASSIFIER = "classifier."


@dataclass
class _Node:
    """A node with weights. ``norm`` is the batch norm that is the only user of its output."""

    kind: str
    weight: Tensor
    bias: Tensor | None = None
    mean: Tensor | None = None
    var: Tensor | None = None
    eps: float = 0.0
    form: tuple[object, ...] = ()
    norm: _Node | None = None
    behind: bool = False
    used: bool = False


@dataclass
class _Layer:
    """A layer with weights. ``norm`` is the batch norm that uses its output."""

    name: str
    module: Any
    norm: _Layer | None = None
    behind: bool = False


def read_onnx(model: nn.Module, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state dict with which ``model`` computes the same as an ONNX file; the outputs are compared.

    Args:
        model: network built by :func:`facezoo.create_model`; it is not changed. Its classifier, if any, keeps its weights.
        path: the file.

    Returns:
        Every tensor of the network by name, float32; and the file's ``metadata_props``.

    Raises:
        CheckpointError: the file cannot be read, stores weights in other files, is another network, or its outputs differ.
        ImportError: ``onnx`` or ``onnxruntime`` is not installed.
    """
    proto = _read(path)
    twin, arguments = _twin(model, path)
    state = {
        key: value.detach().clone().cpu() if key.startswith(_CLASSIFIER) else _fresh(key, value)
        for key, value in model.state_dict().items()
    }
    nodes = list(_nodes(proto, path))
    for layer in _layers(twin):
        _fill(layer, nodes, state, f"{path} does not fit this {arguments['name']}")
    if left := [node.kind for node in nodes if not node.used]:
        raise CheckpointError(
            f"{path} does not fit this {arguments['name']}: {len(left)} of its layers have no place in it, first a {left[0]}; "
            "name the network that it is of, on the command line with --model NAME"
        )
    twin.load_state_dict(state, assign=True)
    _compare(twin, proto, path)
    return state, {entry.key: entry.value for entry in proto.metadata_props}


def _read(path: Path) -> Any:
    onnx = _need("onnx")
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's errors have no common base class
        raise CheckpointError(f"{path} is not a readable ONNX file: {shorten(error)}") from None
    outside = [entry for entry in proto.graph.initializer if entry.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise CheckpointError(
            f"{path} keeps {len(outside)} of its tensors in other files, which facezoo does not open; save it in one file "
            "(onnx.save_model(onnx.load(path), path, save_as_external_data=False))"
        )
    if not proto.graph.node:
        raise CheckpointError(f"{path} is not an ONNX model: its graph is empty")
    return proto


def _need(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"an ONNX file needs {name} ({error}): pip install 'facezoo[export]'") from error


def _twin(model: nn.Module, path: Path) -> tuple[Any, Mapping[str, Any]]:
    """The same network on the meta device, in evaluation mode, and its arguments."""
    config, spec = getattr(model, "config", None), getattr(model, "spec", None)
    if not isinstance(config, dict) or spec is None:
        raise CheckpointError(
            f"{path} is an ONNX file, and those are read into whole networks of facezoo.create_model only, not into a "
            f"{type(model).__name__}"
        )
    with without_storage():
        built: Any = type(model)(spec, **{key: value for key, value in config.items() if key != "name"})
    return built.eval(), config


def _fresh(key: str, value: Tensor) -> Tensor:
    """The default value of a tensor that the file does not have: scale one, counter zero."""
    return torch.zeros(value.shape, dtype=value.dtype) if not key.endswith(".weight") else torch.ones(value.shape)


def _layers(network: Any) -> list[_Layer]:
    """Layers with weights in execution order, each with the norm after it."""
    found: list[_Layer] = []
    outputs: dict[int, _Layer] = {}
    kept: list[Tensor] = []  # the id of a freed tensor may be reused

    def see(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        layer = _Layer(name, module)
        before = outputs.get(id(inputs[0]))
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and before is not None and before.norm is None:
            before.norm, layer.behind = layer, True
        kept.append(output)
        if not isinstance(module, nn.PReLU | nn.modules.batchnorm._BatchNorm):
            outputs[id(output)] = layer
        found.append(layer)

    kinds = (nn.Conv2d, nn.Linear, nn.PReLU, nn.modules.batchnorm._BatchNorm)
    hooks = [
        module.register_forward_hook(lambda own, inputs, output, name=name: see(name, own, inputs, output))
        for name, module in network.named_modules()
        if isinstance(module, kinds)
    ]
    height, width = network.preprocessing.img_size
    try:
        with torch.no_grad():
            network.embed(torch.empty(1, network.config["in_chans"], height, width, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _fill(layer: _Layer, nodes: list[_Node], state: dict[str, Tensor], where: str) -> None:
    """Set the weights of one layer (and of the norm after it) from its node."""
    module = layer.module
    if layer.behind:
        return  # set together with the layer before it
    if isinstance(module, nn.PReLU):
        state[f"{layer.name}.weight"] = _take(nodes, "PRelu", module.weight.shape, (), where).weight
        return
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        _fill_norm(layer, _take(nodes, "BatchNormalization", (module.num_features,), (), where), state)
        return
    conv = isinstance(module, nn.Conv2d)
    form = (tuple(module.stride), module.groups, tuple(module.dilation)) if conv else ()
    node = _take(nodes, "Conv" if conv else "Gemm", module.weight.shape, form, where)
    state[f"{layer.name}.weight"] = node.weight
    bias = torch.zeros(module.weight.shape[0]) if node.bias is None else node.bias
    if module.bias is not None:
        state[f"{layer.name}.bias"] = bias
        bias = torch.zeros_like(bias)
    if layer.norm is not None:
        norm = node.norm or _Node(
            "BatchNormalization", torch.ones_like(bias), None, torch.zeros_like(bias), torch.ones_like(bias)
        )
        norm.used = True
        _fill_norm(layer.norm, norm, state, bias)
    elif bool(bias.any()):
        raise CheckpointError(f"{where}: it adds a bias behind {layer.name}, which has none")


def _fill_norm(layer: _Layer, node: _Node, state: dict[str, Tensor], bias: Tensor | None = None) -> None:
    """Set statistics and scale of a norm. ``bias`` is the bias that the layer before it has in the file but not in the
    network."""
    assert node.mean is not None
    assert node.var is not None
    state[f"{layer.name}.running_mean"] = node.mean if bias is None else node.mean - bias
    state[f"{layer.name}.running_var"] = node.var + (node.eps - layer.module.eps)
    if layer.module.weight is not None:
        state[f"{layer.name}.weight"] = node.weight
        state[f"{layer.name}.bias"] = torch.zeros_like(node.weight) if node.bias is None else node.bias


def _take(nodes: list[_Node], kind: str, shape: tuple[int, ...], form: tuple[object, ...], where: str) -> _Node:
    """The first unused node of this kind, shape and form; a norm after a convolution or linear layer is taken with that."""
    for node in nodes:
        if not node.used and not node.behind and node.kind == kind and node.weight.shape == shape and node.form == form:
            node.used = True
            return node
    sizes = "×".join(map(str, shape))
    raise CheckpointError(
        f"{where}: the file has no {kind} of {sizes} in the form that this network needs; "
        "name the network that it is of, on the command line with --model NAME"
    )


def _nodes(proto: Any, path: Path) -> Iterator[_Node]:
    """The nodes with weights, in the order of the graph."""
    constants = _Constants(proto, path)
    made: dict[str, _Node] = {}
    readers: dict[str, int] = {}
    for entry in proto.graph.node:
        for name in entry.input:
            readers[name] = readers.get(name, 0) + 1
    for entry in proto.graph.node:
        node = _node(entry, constants)
        source = made.get(entry.input[0]) if entry.input else None
        alone = source is not None and readers[entry.input[0]] == 1
        if node is None:
            if (
                entry.op_type == "Add"
                and source is not None
                and alone
                and source.kind == "Gemm"
                and source.bias is None
            ):
                source.bias = _bias(
                    constants.get(entry.input[1]), source.weight
                )  # a product and a sum instead of one node
                made[entry.output[0]] = source
            elif entry.op_type == "Identity" and source is not None and alone:
                made[entry.output[0]] = source
            continue
        if node.kind == "BatchNormalization" and source is not None and alone and source.kind in ("Conv", "Gemm"):
            if len(node.weight) != len(source.weight):
                sizes = f"{len(node.weight)} reads {len(source.weight)} channels"
                raise CheckpointError(f"{path} is damaged: a batch norm of {sizes}")
            source.norm, node.behind = node, True
        made[entry.output[0]] = node
        yield node


class _Constants:
    """Tensors of the graph that do not depend on its input."""

    def __init__(self, proto: Any, path: Path) -> None:
        self._onnx, self._path = _need("onnx"), path
        self._found = {entry.name: (entry, False) for entry in proto.graph.initializer}  # and whether it is transposed
        for node in proto.graph.node:
            source = node.input[0] if node.input else ""
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self._found[node.output[0]] = (node.attribute[0].t, False)
            elif node.op_type in ("Identity", "Unsqueeze") and source in self._found:
                self._found[node.output[0]] = self._found[source]
            elif node.op_type == "Transpose" and source in self._found and len(self._found[source][0].dims) == 2:
                self._found[node.output[0]] = (self._found[source][0], not self._found[source][1])

    def get(self, name: str) -> Tensor | None:
        """The tensor in float32; None if it is computed."""
        if name not in self._found:
            return None
        try:
            tensor, turned = self._found[name]
            array = self._onnx.numpy_helper.to_array(tensor)
            array = array.T if turned else array
            return torch.from_numpy(array.astype("float32", order="C")) if array.dtype.kind == "f" else None
        except Exception as error:  # the size contradicts the number of bytes
            raise CheckpointError(
                f"{self._path}: the tensor {shorten(name, 60)} is damaged ({shorten(error)})"
            ) from None


def _node(entry: Any, constants: _Constants) -> _Node | None:
    """The node, if it is of a kind with weights; ``Gemm`` stands for every linear layer."""
    attributes = {item.name: item for item in entry.attribute}
    tensors = [constants.get(name) if name else None for name in entry.input[1:]]
    if (
        not tensors
        or tensors[0] is None
        or entry.op_type not in ("Conv", "Gemm", "MatMul", "PRelu", "BatchNormalization")
    ):
        return None
    weight, bias = tensors[0], tensors[1] if len(tensors) > 1 else None
    if entry.op_type == "Conv" and weight.dim() == 4:
        strides = tuple(attributes["strides"].ints) if "strides" in attributes else (1, 1)
        dilations = tuple(attributes["dilations"].ints) if "dilations" in attributes else (1, 1)
        group = attributes["group"].i if "group" in attributes else 1
        return _Node("Conv", weight, _bias(bias, weight), form=(strides, group, dilations))
    if entry.op_type in ("Gemm", "MatMul") and weight.dim() == 2:
        turned = entry.op_type == "Gemm" and "transB" in attributes and attributes["transB"].i
        weight = weight if turned else weight.t().contiguous()
        return _Node("Gemm", weight, _bias(bias, weight))
    if entry.op_type == "PRelu":
        return _Node("PRelu", weight.flatten())
    eps = attributes["epsilon"].f if "epsilon" in attributes else 1e-5
    mean, var = (tensors[2], tensors[3]) if len(tensors) > 3 else (None, None)
    if entry.op_type != "BatchNormalization" or bias is None or mean is None or var is None:
        return None
    alike = all(tensor.shape == (weight.numel(),) for tensor in (weight, bias, mean, var))
    return _Node("BatchNormalization", weight, bias, mean, var, eps) if alike else None


def _bias(tensor: Tensor | None, weight: Tensor) -> Tensor | None:
    """A bias as one number per output. One of another size is left out, which shows when the outputs are compared."""
    return tensor.flatten() if tensor is not None and tensor.numel() == len(weight) else None


def _compare(network: Any, proto: Any, path: Path) -> None:
    """Raise unless the outputs for two noise images agree."""
    runtime = _need("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    height, width = network.preprocessing.img_size
    images = torch.randn(2, 1, network.config["in_chans"], height, width, generator=torch.Generator().manual_seed(0))
    try:
        session = runtime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        (name,) = (entry.name for entry in session.get_inputs())
        theirs = torch.cat([torch.from_numpy(session.run(None, {name: image.numpy()})[0]) for image in images])
    except Exception as error:  # the runtime's errors have no common base class
        raise CheckpointError(f"{path} cannot be run on images of {height}×{width}: {shorten(error)}") from None
    with torch.inference_mode():
        ours = torch.cat([network.embed(image) for image in images])
    if ours.shape != theirs.shape:
        raise CheckpointError(
            f"{path} gives {tuple(theirs.shape[1:])} numbers per image, this network {tuple(ours.shape[1:])}"
        )
    difference, largest = float((ours - theirs).abs().max()), float(theirs.abs().max())
    if not difference <= _CLOSE * largest:
        raise CheckpointError(
            f"{path}: its layers have their places in this {network.config['name']}, but the outputs differ by {difference:.2g} "
            f"where the largest is {largest:.2g}; nothing was loaded. It may normalize its input itself, or be of another kind"
        )
