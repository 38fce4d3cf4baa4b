"""Adapters against the libraries whose checkpoints they read: equal outputs, equal names and shapes, strict both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import timm
import torch
import torchvision
from layouts import (
    FIXTURES,
    FROZEN,
    IMAGENET,
    LAYOUTS,
    MUST_BE_FROZEN,
    OTHERS,
    WITH_OUTPUTS,
    Layout,
    read_fixture,
    shapes,
)
from peer_networks import ir_network
from torch import Tensor, nn

import facezoo
from facezoo.counting import without_storage
from facezoo.models import FaceNetwork, get_model_spec
from facezoo.weights import ADAPTERS, REPLACEABLE, Adapter, CheckpointError, find_adapter, load_checkpoint
from short_networks import first_blocks


def with_random_weights(network: nn.Module, seed: int = 0) -> nn.Module:
    """No weight or running statistic at its initial value, or a swapped pair would go unnoticed; signals stay of order one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if tensor.dim() > 1:
                fan_in = tensor[0].numel()
                tensor.normal_(0.0, fan_in**-0.5, generator=generator)
            elif name.endswith(("running_var", "weight", "gamma")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            else:
                tensor.normal_(0.0, 0.2, generator=generator)
            if name.endswith(("layer_scale", "grn.gamma")):  # they have axes of length 1 beside their own
                tensor.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def with_lively_weights(network: nn.Module, size: int) -> nn.Module:
    """Random weights, and running statistics of the network's own signals: gates at a half would fade those out otherwise."""
    network = with_random_weights(network)
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        network(images)
    return network.eval()


def outputs_agree(reference: nn.Module, model: nn.Module, size: int | tuple[int, int]) -> None:
    height, width = (size, size) if isinstance(size, int) else size
    images = torch.randn(2, model.in_chans, height, width, generator=torch.Generator().manual_seed(1))
    # In float64: with random weights the rounding of float32 adds up to more than what is asked for.
    reference, model, images = reference.double(), model.double().eval(), images.double()
    with torch.no_grad():
        expected, got = reference(images), model(images)
    assert expected.std() > 0.01
    assert (expected[0] - expected[1]).abs().max() > 1e-3  # the images count: no saturation
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def adapter_of(layout: Layout) -> Adapter:
    return next(adapter for adapter in ADAPTERS if adapter.name == layout.adapter)


def empty_network(layout: Layout, device: str = "meta") -> FaceNetwork:
    with without_storage():
        model = FaceNetwork(get_model_spec(layout.model), **layout.arguments)
    return model if device == "meta" else model.to_empty(device=device)


def repeats_in_ci(layouts: Sequence[Layout]) -> list[Any]:
    """``layouts``: the first of each adapter by default, the others and the largest (VGG) for .ci/run."""
    first = {layout.adapter: layout if layout.model != "vgg11_bn" else None for layout in reversed(layouts)}
    marks = [() if first[layout.adapter] is layout else pytest.mark.ci for layout in layouts]
    return [pytest.param(layout, marks=mark, id=str(layout)) for layout, mark in zip(layouts, marks, strict=True)]


@pytest.mark.parametrize("layout", repeats_in_ci(WITH_OUTPUTS))
def test_outputs_equal_the_library(layout: Layout) -> None:
    model = empty_network(layout, "cpu")
    size = layout.side or model.preprocessing.img_size
    network = layout.build()
    reference = with_lively_weights(network, layout.side or 112) if layout.lively else with_random_weights(network)
    report = load_checkpoint(model, reference.state_dict())
    assert report.source == layout.adapter
    assert report.loaded == len(model.state_dict())
    assert (report.replaced, report.dropped) == ((), ())
    outputs_agree(reference, model, size)


@pytest.mark.parametrize("layout", OTHERS, ids=str)
def test_names_and_shapes_equal_the_library(layout: Layout) -> None:
    with without_storage():
        theirs = layout.build().state_dict()
    found = find_adapter(theirs.keys())
    assert found is not None
    assert found.name == layout.adapter
    assert shapes(found.convert(theirs)) == shapes(empty_network(layout).state_dict())


# --- fixtures: names and shapes of checkpoints, frozen


def test_every_adapter_has_its_fixtures_and_every_fixture_its_network() -> None:
    assert MUST_BE_FROZEN.keys() == {adapter.name for adapter in ADAPTERS}
    needed = {(adapter, model) for adapter, models in MUST_BE_FROZEN.items() for model in models}
    assert {(path.parent.name, path.stem) for path in FIXTURES.rglob("*.json")} == needed
    assert {(layout.adapter, layout.model) for layout in FROZEN} == needed
    assert len({str(layout) for layout in LAYOUTS}) == len(LAYOUTS)


def numbered(fixture: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A state dict whose tensors are full of their number, from 1; broadcast, so that they take no memory."""
    return {key: torch.tensor(float(i)).expand(shape) for i, (key, shape) in enumerate(fixture.items(), start=1)}


@pytest.mark.parametrize("layout", repeats_in_ci(FROZEN))
def test_a_fixture_fills_the_network_strictly(layout: Layout) -> None:
    fixture = read_fixture(layout)
    assert layout.shapes() == fixture, "the library's network has changed"
    state_dict, adapter = numbered(fixture), adapter_of(layout)
    converted = adapter.convert(state_dict)
    assert shapes(state_dict) == fixture, "an adapter is pure"
    model = empty_network(layout, "cpu")
    for tensor in model.state_dict().values():
        tensor.fill_(torch.nan if tensor.is_floating_point() else -1)

    def error_of(changed: dict[str, Tensor]) -> str:
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(model, changed, source=adapter.source)
        return str(caught.value)

    # The last weight that is of no part that may be replaced, and on which no other name depends.
    for key in reversed(fixture):
        without = {name: tensor for name, tensor in state_dict.items() if name != key}
        (name, *others) = converted.keys() - adapter.convert(without).keys() or {"classifier."}
        if key.endswith("weight") and not others and not name.startswith(tuple(REPLACEABLE.values())):
            break
    assert f"1 missing ({name})" in error_of(without)
    assert "1 unexpected (extra.of.nobody)" in error_of({**state_dict, "extra.of.nobody": torch.zeros(1)})
    wider = {**state_dict, key: torch.zeros(1).expand(*fixture[key][:-1], fixture[key][-1] + 1)}
    got, wanted = tuple(adapter.convert(wider)[name].shape), tuple(converted[name].shape)
    message = error_of(wider)
    assert f"{name} {got} instead of {wanted}" in message
    assert name == key or f"{key} in the checkpoint" in message

    report = load_checkpoint(model, state_dict)
    assert report.source == adapter.name
    assert report.loaded == len(model.state_dict())
    seen = set()
    for name, tensor in model.state_dict().items():
        number = round(float(tensor.flatten()[0]))  # where the eps differs, the variances do by as much
        assert 0 <= number <= len(fixture), name
        assert bool((tensor == tensor.flatten()[0]).all()), name
        seen.add(number)
    left_out = {key for number, key in enumerate(fixture, start=1) if number not in seen}
    assert left_out == {key for key in fixture if key.endswith(layout.left_out or ("?",))}


# --- forms that are read besides


def test_a_plain_resnet_may_be_called_timms() -> None:
    reference = with_random_weights(timm.create_model("resnet18"))
    model = facezoo.create_model("resnet18", **IMAGENET)
    assert load_checkpoint(model, reference.state_dict(), source="timm").source == "timm.resnet"
    outputs_agree(reference, model, size=96)


def test_old_names_of_densenet() -> None:
    with without_storage():
        tensors = torchvision.models.densenet121().state_dict()
        model = facezoo.models.FaceNetwork(facezoo.models.get_model_spec("densenet121"), **IMAGENET)
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): tensor for key, tensor in tensors.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    found = find_adapter(old.keys())
    assert found is not None
    assert shapes(found.convert(old)) == shapes(model.state_dict())


def test_a_merged_repvgg_loads_into_a_merged_one() -> None:
    reference = with_random_weights(timm.create_model("repvgg_a0"))
    model = facezoo.create_model("repvgg_a0", **IMAGENET)
    load_checkpoint(model, reference.state_dict())
    outputs_agree(reference, model, size=96)
    for network, name in ((reference, "reparameterize"), (model, "reparameterise")):
        for module in network.modules():
            if hasattr(module, name):
                getattr(module, name)()
    assert load_checkpoint(model, reference.state_dict()).source == "timm.repvgg"
    assert set(model.stem.state_dict()) == {"merged.weight", "merged.bias"}
    outputs_agree(reference, model, size=96)


@pytest.mark.parametrize("prefix", ["model.", "net.", "model.net."])
def test_training_checkpoints_of_adaface_and_cvlface(prefix: str) -> None:
    reference = with_random_weights(ir_network("ir_18"))
    tensors = {f"{prefix}{key}": tensor for key, tensor in reference.state_dict().items()}
    content = {"epoch": 25, "state_dict": {**tensors, "head.kernel": torch.zeros(512, 10)}}
    model = facezoo.create_model("ir_18")
    assert load_checkpoint(model, content).source == "cvlface.ir"
    assert torch.equal(model.stages[3].blocks[1].conv2.conv.weight, tensors[f"{prefix}body.7.res_layer.4.weight"])


# --- recognition


@pytest.mark.ci
def test_every_network_of_facezoo_is_recognized_as_its_own() -> None:
    for name in facezoo.list_models():
        with without_storage():
            model = FaceNetwork(first_blocks(get_model_spec(name), 2), num_classes=3)
        found = find_adapter(model.state_dict().keys())
        assert found is not None, name
        assert found.name == "facezoo.native", name
        assert found.convert(model.state_dict()).keys() == model.state_dict().keys()


def test_unknown_keys_keep_their_names() -> None:
    for adapter in ADAPTERS:
        key = "layers.9.extra.weight" if adapter.layout == "mobilefacenet" else "somewhere.else.weight"
        assert list(adapter.convert({key: torch.zeros(1)})) == [key]
