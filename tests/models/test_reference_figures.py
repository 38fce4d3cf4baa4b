"""Parameters and MACs of every published form, to the unit. The figures and their way of counting are in the JSON beside."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import facezoo
from facezoo.models import FaceNetwork, get_model_spec
from facezoo.models.factory import count_parameters
from facezoo.profile import profile_model, profile_network

HERE = Path(__file__).parent


def read_figures() -> dict[str, dict[str, dict[str, Any]]]:
    """The figures of all files beside this one, by form and name; none stands in two files."""
    figures: dict[str, dict[str, dict[str, Any]]] = {"imagenet": {}, "face": {}, "published": {}}
    for path in sorted(HERE.glob("reference_figures*.json")):
        for form, entries in json.loads(path.read_text()).items():
            assert not figures[form].keys() & entries.keys(), path.name
            figures[form] |= entries
    return figures


FIGURES = read_figures()


def cost(name: str, size: int) -> tuple[int, int]:
    """Parameters and MACs of the ImageNet form for images of ``size`` pixels a side."""
    profile = profile_model(name, stem="imagenet", embedding_dim=None, num_classes=1000, img_size=size)
    return profile.params, profile.macs


@pytest.mark.parametrize("name", FIGURES["imagenet"])
def test_imagenet_form(name: str) -> None:
    expected = FIGURES["imagenet"][name]
    assert cost(name, 224) == (expected["params"], expected["macs_224"])
    params_112 = expected.get("params_112", expected["params"])  # a ViT has a weight per position
    assert cost(name, 112) == (params_112, expected["macs_112"])
    with torch.device("meta"):
        bare = FaceNetwork(get_model_spec(name), stem="imagenet", embedding_dim=None, img_size=224)
    assert sum(parameter.numel() for parameter in bare.parameters()) == expected["params_without_classifier"]


@pytest.mark.parametrize("name", FIGURES["face"])
def test_face_form(name: str) -> None:
    expected = FIGURES["face"][name]
    profile = profile_model(name, **expected.get("arguments", {}))
    macs = expected["macs" if "arguments" in expected else "macs_112"]
    assert (profile.params, profile.macs) == (expected["params"], macs)


@pytest.mark.parametrize(
    ("name", "plain", "weights", "multiplications"),
    [  # per block of C channels: two layers of width C // 16 (a multiple of 8 in mobilefacenet) with bias; one kernel over C
        *(
            (f"se_iresnet{d}", f"iresnet{d}", lambda c: 2 * c * (c // 16) + c // 16 + c, None)
            for d in (18, 34, 50, 100)
        ),
        ("se_iresnet200", "iresnet200", lambda c: 2 * c * (c // 16) + c // 16 + c, None),
        ("se_mobilefacenet", "mobilefacenet", lambda c: 2 * c * (c // 16) + c // 16 + c, None),
        ("eca_mobilefacenet", "mobilefacenet", lambda c: 5, lambda c, cells: 5 * c),
        ("cbam_mobilefacenet", "mobilefacenet", lambda c: 2 * c * (c // 16) + 98 + 2, lambda c, cells: 98 * cells),
    ],
)
def test_attention_costs_what_it_should(name: str, plain: str, weights: Any, multiplications: Any) -> None:
    with_it, without = profile_model(name), profile_model(plain)
    for stage, spec in enumerate(get_model_spec(name).stages):
        attended = spec.depth if "attention" in spec.options else 0
        ours, theirs = with_it.stages[stage + 1], without.stages[stage + 1]
        assert ours.params - theirs.params == attended * weights(spec.width)
        cells = ours.output_shape[1] * ours.output_shape[2]
        layers = 4 if name.startswith("cbam") else 2  # CBAM's two layers see the means and the maxima
        macs = 0 if name.startswith("eca") else layers * spec.width * (spec.width // 16)
        macs += multiplications(spec.width, cells) if multiplications else 0
        assert ours.macs - theirs.macs == attended * macs


@pytest.mark.parametrize("name", FIGURES["published"])
def test_figures_of_papers_that_round(name: str) -> None:
    """Millions of parameters to the last digit; MFLOPs (two per MAC) as near as another way of counting lets them be."""
    published = FIGURES["published"][name]
    profile = profile_model(name, embedding_dim=published.get("embedding_dim", 512), stem=published.get("stem", "face"))
    assert round(profile.params / 1e6, 2) == published["params_m"]
    assert 0.0 <= published["mflops"] - 2 * profile.macs / 1e6 <= published["within"] * published["mflops"]


def test_original_squeeze_width_gives_the_papers_counts() -> None:
    for layers, params in ((18, 11778592), (34, 21958868)):
        spec = get_model_spec(f"se_resnet{layers}")
        stages = tuple(dataclasses.replace(stage, options={**stage.options, "se_divisor": 1}) for stage in spec.stages)
        with torch.device("meta"):
            model = FaceNetwork(
                dataclasses.replace(spec, stages=stages), stem="imagenet", embedding_dim=None, num_classes=1000
            )
        assert sum(parameter.numel() for parameter in model.parameters()) == params


def last_map(name: str) -> tuple[int, int]:
    """Of the face form at 112×112: 7×7, but for networks published for such images with another map, and class tokens."""
    if get_model_spec(name).stages[-1].tokens == "class":
        return 1, 1
    return {"edgeface": (3, 3), "vit": (12, 12)}.get(name.split("_")[0], (7, 7))


# Other tests register networks of their own.
@pytest.mark.parametrize("name", facezoo.list_models(exclude="tiny_*"))
def test_every_face_form_ends_in_a_7x7_map_and_its_stages_add_up(name: str) -> None:
    profile = profile_model(name, num_classes=100)
    stages = {stage.name: stage for stage in profile.stages}
    last_stage = profile.stages[-3]
    assert last_stage.output_shape[1:] == last_map(name)
    assert stages["head"].output_shape == (512,)
    assert stages["classifier"].params == 512 * 100 + 100
    assert sum(stage.params for stage in profile.stages) == profile.params
    assert sum(stage.macs for stage in profile.stages) == profile.macs
    assert facezoo.list_models(name, max_params=profile.params, num_classes=100) == [name]
    assert facezoo.list_models(name, max_params=profile.params - 1, num_classes=100) == []


@pytest.mark.parametrize(
    ("name", "millions_512", "millions_256"),
    [
        ("resnet18", 15.9, 13.5),
        ("resnet34", 26.0, 23.6),
        ("se_resnet34", 26.1, 23.8),
        ("resnet50", 29.0, 26.2),
        ("se_resnet50", 31.5, 28.8),
        ("convnext_tiny", 32.6, 30.2),
        ("iresnet18", 28.4, 19.8),
        ("iresnet50", 48.0, 39.4),
    ],
)
def test_budget_of_8631_identities(name: str, millions_512: float, millions_256: float) -> None:
    for dim, millions in ((512, millions_512), (256, millions_256)):
        params = profile_model(name, num_classes=8631, embedding_dim=dim).params
        assert params / 1e6 == pytest.approx(millions, abs=0.06)


def test_profile_of_an_existing_network_equals_the_profile_by_name_and_leaves_it_alone() -> None:
    model = facezoo.create_model("mobilefacenet", num_classes=10).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert profile_network(model) == profile_model("mobilefacenet", num_classes=10)
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_profile_prints_a_table_and_becomes_json() -> None:
    profile = profile_model("mobilefacenet")
    assert "2,059,520" in str(profile)
    assert "437,520,896" in str(profile)
    assert json.loads(json.dumps(profile.to_dict()))["params"] == 2059520


@pytest.mark.parametrize("seconds_of", ["resnet50"])
def test_profiling_allocates_no_weights(seconds_of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    allocated: list[torch.device] = []
    original = torch.nn.Parameter.__new__

    def spy(cls: type, data: torch.Tensor, requires_grad: bool = True) -> torch.Tensor:
        allocated.append(data.device)
        return original(cls, data, requires_grad)

    monkeypatch.setattr(torch.nn.Parameter, "__new__", spy)
    profile_model(seconds_of)
    assert allocated
    assert {device.type for device in allocated} == {"meta"}


@pytest.mark.parametrize("name", ["convnext_tiniest", "convnext_tinier", "convnext_tinier_deep"])
def test_the_courses_sizes_keep_to_30_million_with_8631_classes(name: str) -> None:
    assert profile_model(name, num_classes=8631).params <= 30e6


def test_convnext_tinier_is_the_widest_of_its_kind_in_multiples_of_8() -> None:
    spec = get_model_spec("convnext_tinier")
    assert spec.stages[0].width == 88
    assert [stage.depth for stage in spec.stages] == [stage.depth for stage in get_model_spec("convnext_tiny").stages]
    assert get_model_spec("convnext_tiny").stages[0].width == 96
    assert profile_model("convnext_tiny", num_classes=8631).params > 30e6


def test_the_count_behind_budgets_equals_the_profile() -> None:
    for name in ("edgenext_xx_small", "vit_tiny_patch16", "mobilenet_v3_small", "swin_tiny", "efficientnet_b0"):
        assert count_parameters(get_model_spec(name), 7, 64, "face") == (
            profile_model(name, num_classes=7, embedding_dim=64).params
        )
