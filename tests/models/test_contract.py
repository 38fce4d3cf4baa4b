"""What every registered network promises: one test per clause, on every name.

What needs no numbers (shapes, groups, which parameters a gradient reaches) is asked on the meta device: of one of each family by
default, of every name in .ci/run. What does need them runs by default on a few names and with ``-m slow`` on all others;
``network`` is built once per name and then goes through every clause.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import facezoo
from choosing import others_in_ci
from facezoo.blocks import block_accepts
from facezoo.counting import without_storage
from facezoo.deploy import ExportedNetwork
from facezoo.layers import SqueezeExcite
from facezoo.models import FaceNetwork, FeatureNetwork, ModelSpec, get_model_spec
from short_networks import first_blocks

NAMES = facezoo.list_models(exclude="tiny_*")  # other tests register networks of their own
# At least one of each family.
SMALL = [
    "resnet18",
    "se_resnet18",
    "resnet50",
    "cbam_resnet18",
    "eca_resnet50d",
    "iresnet18",
    "ir_se_18",
    "convnext_tiny",
    "convnextv2_atto",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "ghostnet_050",
    "ghostfacenet_050",
    "shufflenet_v2_x0_5",
    "shufflefacenet_x0_5",
    "edgenext_xx_small",
    "edgeface_xs",
    "shuffle_mixfacenet_xs",
    "vit_t",
    "vit_tiny_patch16",
    "swin_tiny",
    "mobilefacenet",
    "mobilefacenet_paper",
    "cbam_mobilefacenet",
    "sphereface20",
    "lightcnn9",
    "inception_resnet_v1",
    "vgg11_bn",
    "densenet121",
    "regnet_y_400mf",
    "repvgg_a0",
    "resnext50_32x4d",
    "hw2p2_cnn",
]
# For what costs more.
FEW = [
    "resnet18",
    "iresnet18",
    "convnextv2_atto",
    "mobilefacenet",
    "mobilenet_v3_small",
    "vit_tiny_patch16",
    "swin_tiny",
]
FEW += ["edgeface_xs", "lightcnn9", "repvgg_a0"]
# Patches and unpadded pools leave an odd row out.
ROUNDS_DOWN = ("convnext", "edge", "vit", "vgg", "densenet")
# A weight per position, in the head or at the patches: the size is chosen at construction.
ONE_SIZE = (
    "iresnet",
    "se_iresnet",
    "ir_",
    "vit",
    "cvlface_vit",
    "lightcnn",
    "sphereface",
    "ghostfacenet",
    "shufflefacenet",
)
ONE_SIZE += ("mobilefacenet", "se_mobilefacenet", "eca_mobilefacenet", "cbam_mobilefacenet")
ONE_SIZE += ("mixfacenet", "shuffle_mixfacenet")
SIZE = (64, 48)  # of the images that are computed: odd maps, windows that do not fit, and no square
NUM_CLASSES, EMBEDDING_DIM = 5, 16


def images(count: int = 2, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(count))


def difference(result: Tensor, expected: Tensor) -> float:
    """Over the biggest of ``expected``."""
    return float((result - expected).detach().abs().max() / expected.detach().abs().max().clamp(min=1e-30))


# -- without numbers -------------------------------------------------------------------------------------------


def shallow(name: str) -> ModelSpec:
    """The spec with at most two blocks per stage: a stage's third block has the shapes of its second."""
    return first_blocks(get_model_spec(name), 2)


class Outline:
    """The shallow network on the meta device, and what it makes of two images of 112×112."""

    def __init__(self, name: str) -> None:
        self.name = name
        with without_storage():
            self.model = FaceNetwork(shallow(name), num_classes=11)

    @functools.cached_property
    def maps(self) -> list[Tensor]:
        return list(self.model.forward_stages(torch.empty(2, 3, 112, 112, device="meta")))

    @functools.cached_property
    def logits(self) -> Tensor:
        return self.model.forward_head(self.maps[-1])


@pytest.fixture(scope="module", name="outline")
def outline_fixture(request: pytest.FixtureRequest) -> Outline:
    return Outline(request.param)


# By default one of each family, in .ci/run all.
BY_FAMILY = others_in_ci(NAMES, SMALL)
of_every_family = pytest.mark.parametrize("outline", BY_FAMILY, indirect=True)


def assert_maps_follow_their_description(
    model: FaceNetwork, maps: list[Tensor], size: tuple[int, int], *, unpadded: bool
) -> None:
    """Channels, cells and module of every map are those of ``feature_info``."""
    assert len(maps) == len(model.feature_info)
    assert tuple(maps[-1].shape[1:]) == (model.num_features, *model.map_size)
    for feature_map, info in zip(maps, model.feature_info, strict=True):
        assert feature_map.shape[:2] == (2, info["num_chs"])
        assert info["module"] in dict(model.named_modules())
        if model.spec.stages[-1].tokens == "class":  # what the head sees is the token; see test_features_only
            continue
        for cells, pixels in zip(feature_map.shape[2:], size, strict=True):
            down, up = pixels // info["reduction"], -(-pixels // info["reduction"])
            rounded = down if model.spec.name.startswith(ROUNDS_DOWN) else up
            assert cells == rounded or (unpadded and cells < rounded)


@of_every_family
def test_shapes_at_112(outline: Outline) -> None:
    model = outline.model
    assert_maps_follow_their_description(model, outline.maps, (112, 112), unpadded=False)
    assert model.forward_head(outline.maps[-1], pre_logits=True).shape == (2, 512)
    assert model.embedding_dim == 512
    assert outline.logits.shape == (2, 11)
    assert model.preprocessing.img_size == (112, 112)


@of_every_family
def test_another_size_works_or_is_a_clear_error(outline: Outline) -> None:
    x = torch.empty(2, 3, 96, 80, device="meta")
    if outline.name.startswith(ONE_SIZE):
        message = r"expects a \d+×\d+ map but got \d+×\d+: create the model with img_size="
        if "vit" in outline.name:
            message = "of 112×112 pixels but got 96×80: create the model with img_size="
        with pytest.raises(ValueError, match=message):
            outline.model(x)
    else:
        assert outline.model(x).shape == (2, 11)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        pytest.param(name, stem, marks=() if name in (SMALL if stem == "face" else FEW) else pytest.mark.ci)
        for stem in ("face", "imagenet")
        for name in NAMES
    ],
)
def test_every_stem_takes_gray_images_of_the_size_asked_for(name: str, stem: str) -> None:
    if stem not in get_model_spec(name).stems:
        with torch.device("meta"), pytest.raises(ValueError, match=f"{name} has no stem 'imagenet'; it has 'face'"):
            facezoo.create_model(name, stem=stem)
        return
    size = (160, 128)
    with without_storage():
        model = FaceNetwork(shallow(name), stem=stem, in_chans=1, img_size=size)
        maps = list(model.forward_stages(torch.empty(2, 1, *size)))
        with pytest.raises(ValueError, match=r"shape \(N, 1, H, W\), got \(2, 3, 160, 128\); in_chans= sets"):
            model(torch.empty(2, 3, *size))
    # published without padding: maps are smaller than their stride says
    unpadded = (name, stem) == ("inception_resnet_v1", "imagenet")
    assert_maps_follow_their_description(model, maps, size, unpadded=unpadded)
    assert model.forward_head(maps[-1]).shape == (2, 512)
    assert model.preprocessing.img_size == size
    assert len(model.preprocessing.mean) == len(model.preprocessing.std) == 1


@of_every_family
def test_features_only_returns_the_chosen_maps_in_their_order(outline: Outline) -> None:
    count = len(outline.maps)
    last = min(1, count - 1)  # the stages behind it are not needed
    with without_storage():
        model = FeatureNetwork(shallow(outline.name), out_indices=(last, 0, -count))
        maps = model(torch.empty(2, 3, 112, 112))
    assert model.out_indices == (last, 0, 0)
    assert model.feature_info == [outline.model.feature_info[index] for index in (last, 0, 0)]
    expected = [outline.maps[index].shape for index in (last, 0, 0)]
    if outline.model.spec.stages[-1].tokens == "class":
        side = 112 // outline.model.feature_info[-1]["reduction"]
        expected = [torch.Size((2, outline.model.num_features, side, side))] * 3
    assert [feature_map.shape for feature_map in maps] == expected
    parts = outline.model.state_dict()
    wanted = [key for key in parts if key.startswith(("stem.", *(f"stages.{index}." for index in range(last + 1))))]
    assert list(model.state_dict()) == wanted
    assert all(value.shape == parts[key].shape for key, value in model.state_dict().items())
    with pytest.raises(ValueError, match=f"{outline.name} has {count} stages"):
        FeatureNetwork(shallow(outline.name), out_indices=(count,))


@of_every_family
def test_a_gradient_reaches_every_parameter(outline: Outline) -> None:
    gradients = torch.autograd.grad(
        outline.logits.sum(),
        [parameter for parameter in outline.model.parameters() if parameter.requires_grad],
        retain_graph=True,
        allow_unused=True,
    )
    trainable = [key for key, parameter in outline.model.named_parameters() if parameter.requires_grad]
    assert [key for key, gradient in zip(trainable, gradients, strict=True) if gradient is None] == []


@of_every_family
def test_parameter_groups_hold_every_parameter_once(outline: Outline) -> None:
    model = outline.model
    names = {id(parameter): key for key, parameter in model.named_parameters() if parameter.requires_grad}
    weighted = (nn.Conv1d, nn.Conv2d, nn.Linear)
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, weighted)}
    blocks = [f"stages.{i}.blocks.{j}." for i, stage in enumerate(model.stages) for j in range(len(stage.blocks))]
    for layer_decay in (None, 0.5):
        groups = model.parameter_groups(0.05, layer_decay)
        grouped = [names.get(id(parameter), "frozen") for group in groups for parameter in group["params"]]
        assert sorted(grouped) == sorted(names.values())
        for group in groups:
            assert set(group) == {"params", "weight_decay", "lr_scale"}
            for parameter in group["params"]:
                key = names[id(parameter)]
                assert (key, group["weight_decay"]) == (key, 0.05 if id(parameter) in decayed else 0.0)
                steps = 0  # from the head
                if key.startswith("stem."):
                    steps = len(blocks) + 1
                elif key.startswith("stages."):
                    own = key if ".blocks." in key else f"stages.{key.split('.')[1]}.blocks.0."  # transition, tokens
                    steps = len(blocks) - next(i for i, block in enumerate(blocks) if own.startswith(block))
                assert (key, group["lr_scale"]) == (key, 1.0 if layer_decay is None else layer_decay**steps)


@of_every_family
def test_reset_classifier_keeps_everything_else(outline: Outline) -> None:
    model = copy.copy(outline.model)
    model._modules, model.config = dict(model._modules), dict(model.config)
    others = {key: id(value) for key, value in model.state_dict(keep_vars=True).items() if "classifier." not in key}
    for num_classes, width in ((7, 7), (0, 512), (9, 9)):
        model.reset_classifier(num_classes)
        assert model.forward_head(outline.maps[-1]).shape == (2, width)
        assert model.num_classes == model.config["num_classes"] == num_classes
        assert isinstance(model.get_classifier(), nn.Linear if num_classes else nn.Identity)
        now = model.state_dict(keep_vars=True)
        assert [key for key in others if id(now[key]) != others[key]] == []
        assert all(value.is_meta for value in now.values())


@of_every_family
def test_everything_on_the_meta_device_is_in_the_state_dict(outline: Outline) -> None:
    tensors = {**dict(outline.model.named_parameters()), **dict(outline.model.named_buffers())}
    assert tensors.keys() == outline.model.state_dict().keys()  # what is not there, no checkpoint could fill
    assert [key for key, tensor in tensors.items() if not tensor.is_meta] == []


@pytest.mark.parametrize("name", NAMES)
def test_spec_survives_pickling(name: str) -> None:
    spec = get_model_spec(name)
    again = pickle.loads(pickle.dumps(spec))
    assert again == spec
    assert hash(again) == hash(spec)


@pytest.mark.parametrize("name", SMALL)
def test_config_rebuilds_the_network(name: str) -> None:
    droppable = any(
        block_accepts(row.block, "drop_path") for stage in get_model_spec(name).stages for row in stage.blocks
    )
    with without_storage():
        rate = 0.1 if droppable else 0.0
        model = facezoo.create_model(name, num_classes=9, embedding_dim=64, drop_path_rate=rate, img_size=(112, 96))
        again = facezoo.create_model(**json.loads(json.dumps(model.config)))
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in again.state_dict().items()}
    assert again.preprocessing == model.preprocessing


# -- with numbers -------------------------------------------------------------------------------------------------------------


class Network:
    """The whole network with weights that hide nothing, in evaluation mode, and what it computes."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.name = name
        droppable = any(
            block_accepts(row.block, "drop_path") for stage in get_model_spec(name).stages for row in stage.blocks
        )
        self.options = {"num_classes": NUM_CLASSES, "embedding_dim": EMBEDDING_DIM, "img_size": SIZE}
        self.model = facezoo.create_model(name, **self.options, drop_path_rate=0.1 if droppable else 0.0)
        self._wake_up()

    @torch.no_grad()
    def _wake_up(self) -> None:
        """No branch is switched off by a norm or a scale that starts at 0, and running statistics are those of some images."""
        for key, parameter in self.model.named_parameters():
            if parameter.dim() == 1 and parameter.requires_grad:
                noise = torch.randn_like(parameter) if key.endswith("bias") else 2 + 4 * torch.rand_like(parameter)
                parameter += 0.1 * noise
        for module in self.model.modules():
            if isinstance(module, SqueezeExcite) and isinstance(module.act, nn.ReLU) and module.fc1.bias is not None:
                module.fc1.bias += 1.0  # of four units, each asleep at one half of all seeds
        # the head's would enlarge what little distinguishes the embeddings of random weights, and rounding with it
        norms = [
            module
            for part in (self.model.stem, self.model.stages)
            for module in part.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
        ]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        if norms:
            self.model.train()(images(8))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        self.model.eval()

    @functools.cached_property
    def logits(self) -> Tensor:
        with torch.no_grad():
            return self.model(images())

    def training_step(self, *, checkpointed: bool = False, compiled: bool = False) -> dict[str, Tensor | None]:
        """Gradients of one step and the buffers after it, by name. The network stays what it was."""
        before = {key: buffer.clone() for key, buffer in self.model.named_buffers()}
        self.model.train()
        self.model.set_grad_checkpointing(checkpointed)
        forward = torch.compile(self.model, backend="aot_eager", fullgraph=True) if compiled else self.model
        torch.manual_seed(1)
        F.cross_entropy(forward(images(4)), torch.arange(4)).backward()
        result = {key: parameter.grad for key, parameter in self.model.named_parameters() if parameter.requires_grad}
        result |= {key: buffer.clone() for key, buffer in self.model.named_buffers()}
        self.model.set_grad_checkpointing(False)
        self.model.zero_grad(set_to_none=True)
        for key, buffer in self.model.named_buffers():
            buffer.copy_(before[key])
        self.model.eval()
        return result

    @functools.cached_property
    def plain_step(self) -> dict[str, Tensor | None]:
        return self.training_step()


@pytest.fixture(scope="module", name="network")
def network_fixture(request: pytest.FixtureRequest) -> Network:
    return Network(request.param)


@pytest.fixture
def no_compiled_code() -> Iterator[None]:
    """Nothing of what was compiled before counts, and nothing stays."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def slow(name: str) -> object:
    return pytest.param(name, marks=pytest.mark.slow)


def by_default_on(*names: str, ci: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """Every name: ``names`` by default, of many only :data:`FEW`; their rest and ``ci`` in .ci/run; all others as slow tests."""
    assert {*names, *ci} <= set(NAMES)
    first = [name for name in names if len(names) <= len(FEW) or name in FEW]
    in_ci = {*names, *ci}.difference(first)
    marks = {name: () if name in first else pytest.mark.ci if name in in_ci else pytest.mark.slow for name in NAMES}
    return pytest.mark.parametrize(
        "network", [pytest.param(name, marks=mark) for name, mark in marks.items()], indirect=True
    )


HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))


@by_default_on(*SMALL)
@torch.no_grad()
def test_features_embeddings_and_logits_agree(network: Network) -> None:
    model, x = network.model, images()
    features, embeddings = model.forward_features(x), model.embed(x)
    assert torch.equal(model.forward_head(features, pre_logits=True), embeddings)
    assert torch.equal(model.forward_head(features), network.logits)
    assert torch.equal(model.get_classifier()(embeddings), network.logits)
    assert bool(network.logits.isfinite().all())
    assert difference(network.logits[0], network.logits[1]) > 1e-4  # it looks at the images


@by_default_on(*SMALL)
@torch.no_grad()
def test_channels_last(network: Network) -> None:
    model = copy.deepcopy(network.model).to(memory_format=torch.channels_last)
    logits = model(images().contiguous(memory_format=torch.channels_last))
    assert difference(logits, network.logits) < 1e-4


@by_default_on(*FEW)
@torch.no_grad()
def test_half_precision(network: Network) -> None:
    """Random weights, deep down, enlarge what rounding does; 8 and 11 bits of it differ accordingly."""
    deep = network.name in ("densenet201", "resnet200d")  # which already enlarge that of float32 to 4e-5
    for dtype, cosine in ((torch.bfloat16, 0.85 if deep else 0.95), (torch.float16, 0.99 if deep else 0.995)):
        model = copy.deepcopy(network.model).to(dtype)
        logits = model(images().to(dtype))
        assert logits.dtype == dtype
        assert float(F.cosine_similarity(logits.float(), network.logits).min()) > cosine


@by_default_on(*SMALL)
def test_every_parameter_gets_a_finite_gradient(network: Network) -> None:
    gradients = {key: network.plain_step[key] for key, p in network.model.named_parameters() if p.requires_grad}
    assert [key for key, gradient in gradients.items() if gradient is None] == []
    assert [key for key, gradient in gradients.items() if not bool(gradient.isfinite().all())] == []
    # that of a bias in front of a batch norm is zero, up to rounding
    zero = [key for key, gradient in gradients.items() if not bool(gradient.any())]
    assert [key for key in zero if key.rpartition(".")[2] != "bias"] == []


def assert_equal_steps(step: dict[str, Tensor | None], expected: dict[str, Tensor | None]) -> None:
    assert step.keys() == expected.keys()
    scale = max(float(value.abs().max()) for key, value in expected.items() if value.is_floating_point())
    for key, value in expected.items():
        torch.testing.assert_close(
            step[key], value, rtol=1e-4, atol=1e-6 * scale, msg=lambda text, key=key: f"{key}: {text}"
        )


@by_default_on(*FEW)
def test_checkpointing_gives_equal_gradients_and_running_statistics(network: Network) -> None:
    assert_equal_steps(network.training_step(checkpointed=True), network.plain_step)


@by_default_on(ci=("iresnet18",))
def test_compiles_to_one_graph(network: Network, no_compiled_code: None) -> None:
    compiled = torch.compile(network.model, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert difference(compiled(images()), network.logits) < 1e-5
    state = {key: buffer.clone() for key, buffer in network.model.named_buffers()}
    assert compiled.train()(images(4)).requires_grad
    network.model.eval()
    for key, buffer in network.model.named_buffers():
        buffer.copy_(state[key])


@by_default_on("vit_tiny_patch16", ci=("edgeface_xxs",))
def test_torch_export_with_a_dynamic_batch(network: Network) -> None:
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    with torch.no_grad():
        program = torch.export.export(network.model, (images(),), dynamic_shapes=(batch,)).module()
        for count in (1, 3):
            assert difference(program(images(count)), network.model(images(count))) < 1e-4


@pytest.mark.skipif(not HAS_ONNX, reason="the export extra (onnx, onnxruntime, onnxscript) is not installed")
@by_default_on(ci=("mobilefacenet",))
def test_onnx_with_a_dynamic_batch(network: Network, tmp_path: Path) -> None:
    facezoo.export(network.model, tmp_path / "network.onnx", output="logits", tolerance=1e-3)
    session = ExportedNetwork(tmp_path / "network.onnx", threads=1)
    with torch.no_grad():
        for count in (1, 3):
            assert difference(session(images(count)), network.model(images(count))) < 1e-3


@by_default_on(*FEW)
@torch.no_grad()
def test_a_network_of_the_meta_device_takes_the_weights(network: Network) -> None:
    with torch.device("meta"):
        model = facezoo.create_model(network.name, **network.options)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    model.load_state_dict(network.model.state_dict(), assign=True)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert torch.equal(model.eval()(images()), network.logits)


# -- of a handful -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "network",
    [pytest.param("resnet18", marks=pytest.mark.ci), slow("convnextv2_atto"), slow("vit_tiny_patch16")],
    indirect=True,
)
def test_checkpointing_inside_a_compiled_graph(network: Network, no_compiled_code: None) -> None:
    assert_equal_steps(network.training_step(checkpointed=True, compiled=True), network.plain_step)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler's default backend needs g++")
@pytest.mark.parametrize(
    "network", ["resnet18", "iresnet18", "mobilefacenet", "vit_tiny_patch16", "edgeface_xxs"], indirect=True
)
@torch.no_grad()
def test_compiled_by_the_default_backend(network: Network, no_compiled_code: None) -> None:
    compiled = torch.compile(network.model, fullgraph=True)
    assert difference(compiled(images()), network.logits) < 1e-4
