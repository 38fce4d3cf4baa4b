"""Networks that others hold too are used without being changed, and found inside their wrappers."""

from __future__ import annotations

import copy
import threading
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import facezoo
from facezoo.counting import count_macs
from facezoo.evaluation import classification_accuracy, classify_images, embed_images
from facezoo.models import Preprocessing
from facezoo.modes import private_view, unwrap, view_in_mode
from facezoo.profile import profile_network
from facezoo.weights import load_checkpoint


class Net(nn.Module):
    """Embeddings that differ between training and evaluation, and from the logits of the call."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.BatchNorm2d(3)
        self.twice = self.norm
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(192, 6)
        self.classifier = nn.Linear(6, 4)
        self.preprocessing = Preprocessing(img_size=(8, 8), mean=(0.1, 0.2, 0.3))
        self.bound = self.linear.forward  # leads back to a module, not through the list of modules

    def embed(self, x: Tensor) -> Tensor:
        return self.bound(self.drop(self.norm(x)).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.embed(x))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def _state(model: nn.Module) -> tuple[list[bool], dict[str, Tensor]]:
    return [m.training for m in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}


def _unchanged(model: nn.Module, before: tuple[list[bool], dict[str, Tensor]]) -> bool:
    modes, tensors = _state(model)
    return modes == before[0] and all(torch.equal(tensors[key], value) for key, value in before[1].items())


def test_threads_infer_on_a_network_in_training_mode(images: Tensor) -> None:
    model = Net().train()
    expected = embed_images(copy.deepcopy(model).eval(), images, batch_size=3)
    before = _state(model)
    found: list[Tensor] = []
    wrong_modes: list[bool] = []

    def infer() -> None:
        for _ in range(5):
            found.append(embed_images(model, images, batch_size=3))
            wrong_modes.append(not model.training)

    threads = [threading.Thread(target=infer) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 15
    for each in found:
        torch.testing.assert_close(each, expected)
    assert not any(wrong_modes)
    assert _unchanged(model, before)


class _Watching(nn.Module):
    """Notes whether the network around it, which others hold, is still in training mode while it is used."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.held: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.held.append(all(module.training for module in self.inner.modules()))
        return x


class _WatchingStem(nn.Module):
    """A stem that notes the same, and the hooks on the network that others hold; a view's copy of it writes into the same lists."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.stem = network.stem
        self.network = (network,)  # in a tuple, so that it is no part of this module
        self.held: list[bool] = []
        self.hooks: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        modules = list(self.network[0].modules())
        self.held.append(all(module.training for module in modules))
        self.hooks.append(sum(len(module._forward_hooks) for module in modules))
        return self.stem(x)


@pytest.mark.parametrize("caller", ["embed_images", "accuracy", "classes", "macs", "profile"])
def test_no_caller_switches_a_shared_network(caller: str, images: Tensor) -> None:
    if caller in ("macs", "profile"):
        network: Any = facezoo.create_model("mobilefacenet", embedding_dim=8, img_size=32).train()
        watching = network.stem = _WatchingStem(network)
        hooks = {name: len(m._forward_hooks) for name, m in network.named_modules()}
        before = _state(network)
        (count_macs if caller == "macs" else profile_network)(network)
        assert set(watching.hooks) == {0}
        assert hooks == {name: len(m._forward_hooks) for name, m in network.named_modules()}
    else:
        network = Net().train()
        watching = _Watching(network)
        network.drop.register_forward_pre_hook(lambda module, inputs: watching(torch.ones(1)) and None)
        before = _state(network)
        labeled = torch.utils.data.TensorDataset(images, torch.arange(12) % 4)
        if caller == "embed_images":
            embed_images(network, images)
        elif caller == "accuracy":
            classification_accuracy(network, labeled)
        else:
            classify_images(network, images)
    assert watching.held
    assert all(watching.held)
    assert _unchanged(network, before)


def test_a_head_in_training_mode_is_left_in_it(images: Tensor) -> None:
    head = facezoo.create_margin("arcface", embedding_dim=6, num_classes=4).train()
    before = _state(head)
    classes = classify_images(Net().train(), images, head=head)
    assert torch.equal(classes, classify_images(Net().eval(), images, head=head.eval()))
    head.train()
    assert _unchanged(head, before)


def test_a_view_shares_tensors_and_nothing_else() -> None:
    model = Net().train()
    model.drop.eval()
    view = view_in_mode(model, training=False)
    assert view is not model
    assert all(a is b for a, b in zip(view.parameters(), model.parameters(), strict=True))
    assert view.norm is view.twice
    assert view.norm is not model.norm
    assert view.bound.__self__ is view.linear
    view.register_forward_hook(lambda *_: None)
    assert not model._forward_hooks
    view.linear.weight = nn.Parameter(torch.zeros(6, 192))
    assert bool(model.linear.weight.any())
    assert [m.training for m in model.modules()] == [True, True, False, True, True]
    assert view_in_mode(view, training=False) is view
    assert private_view(view, training=False) is not view


def test_a_scripted_network_in_training_mode_is_refused(images: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), images).train()
    with pytest.raises(TypeError, match=r"call eval\(\) on it before"):
        embed_images(scripted, images)


class ModelEma(nn.Module):
    """As other libraries keep a moving average."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def _ddp(model: nn.Module) -> nn.Module:
    wrapper = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = model
    return wrapper


def _compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


WRAPPERS: dict[str, Any] = {
    "DataParallel": nn.DataParallel,
    "DDP": _ddp,
    "averaged": torch.optim.swa_utils.AveragedModel,
    "other average": ModelEma,
    "compiled": _compiled,
    "compiled in DataParallel": lambda model: nn.DataParallel(_compiled(model)),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("training", [False, True])
def test_wrapped_networks_embed_as_what_is_inside(wrapper: str, training: bool, images: Tensor, tmp_path: Any) -> None:
    from PIL import Image

    model = Net().train(training)
    wrapped = WRAPPERS[wrapper](model)
    wrapped.train(training)
    torch.testing.assert_close(embed_images(wrapped, images), embed_images(model, images))
    Image.new("RGB", (8, 8), (200, 30, 10)).save(tmp_path / "a.png")  # the network's own mean
    torch.testing.assert_close(embed_images(wrapped, [tmp_path / "a.png"]), embed_images(model, [tmp_path / "a.png"]))
    assert torch.equal(classify_images(wrapped, images), classify_images(model, images))
    assert wrapped.training is training


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_checkpoints_are_loaded_into_what_is_inside(wrapper: str) -> None:
    options: dict[str, Any] = {"embedding_dim": 8, "img_size": 32}
    torch.manual_seed(3)
    source = facezoo.create_model("mobilefacenet", **options)
    target = facezoo.create_model("mobilefacenet", **options)
    wrapped = WRAPPERS[wrapper](target)
    load_checkpoint(wrapped, source.state_dict())
    inside = unwrap(wrapped).state_dict()
    assert all(torch.equal(inside[key], value) for key, value in source.state_dict().items())


def test_fsdp_is_refused() -> None:
    wrapper = type("FullyShardedDataParallel", (ModelEma,), {})(Net())
    with pytest.raises(TypeError, match="piece of the weights"):
        unwrap(wrapper)


def test_a_module_named_module_among_others_is_no_wrapper() -> None:
    model = nn.Module()
    model.module, model.other = Net(), nn.Linear(2, 2)
    assert unwrap(model) is model


def _counting() -> tuple[Any, list[int]]:
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(len(list(graph.graph.nodes)))
        return graph.forward

    return backend, graphs


@pytest.mark.ci
def test_embed_is_compiled_where_the_network_is() -> None:
    network = facezoo.create_model("mobilefacenet", embedding_dim=8, img_size=32, num_classes=3).eval()
    images = torch.randn(2, 3, 32, 32)
    expected, logits = network.embed(images), network(images)
    torch._dynamo.reset()
    backend, graphs = _counting()
    found = embed_images(torch.compile(network, backend=backend), images, normalize=False)  # type: ignore[arg-type]
    assert graphs
    torch.testing.assert_close(found, expected)

    torch._dynamo.reset()
    backend, graphs = _counting()
    network.compile(backend=backend)
    torch.testing.assert_close(network.embed(images), expected)
    assert len(graphs) == 1
    torch.testing.assert_close(network(images), logits)
    assert len(graphs) == 2
    copied = copy.deepcopy(network)
    assert "_compiled_embed" not in copied.__dict__
    torch.testing.assert_close(copied.embed(images), expected)
    assert len(graphs) == 2
    torch._dynamo.reset()
