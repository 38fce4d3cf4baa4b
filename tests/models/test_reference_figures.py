"""Parameters and MACs of every published form, to the unit. The figures and their way of counting are in the JSON beside."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import facezoo
from choosing import others_in_ci
from facezoo.counting import NORMS, SameShape, without_storage
from facezoo.models import FaceNetwork, get_model_spec
from facezoo.models.factory import count_parameters
from facezoo.profile import ModelProfile, profile_model, profile_network

ROOT = Path(__file__).parents[2]


def read_figures() -> dict[str, dict[str, dict[str, Any]]]:
    """The published figures of all files in this folder, by form and name; none stands in two files."""
    figures: dict[str, dict[str, dict[str, Any]]] = {"imagenet": {}, "face": {}, "published": {}}
    for path in sorted(Path(__file__).parent.glob("reference_figures*.json")):
        for form, entries in json.loads(path.read_text()).items():
            assert not figures[form].keys() & entries.keys(), path.name
            figures[form] |= entries
    return figures


FIGURES = read_figures()
TABLE = {
    entry["model"]: entry for entry in json.loads((ROOT / "benchmarks/results/params_flops.json").read_text())["rows"]
}


def cost(name: str, size: int) -> tuple[int, int]:
    """Parameters and MACs of the ImageNet form for images of ``size`` pixels a side."""
    profile = profile_model(name, stem="imagenet", embedding_dim=None, num_classes=1000, img_size=size, memory=False)
    return profile.params, profile.macs


# Both forms, rounded figures, other arguments; the slow test recomputes the rest.
SPREAD = [
    "resnet18",
    "iresnet18",
    "vit_tiny_patch16",
    "swin_tiny",
    "mobilefacenet_paper",
    "edgeface_xxs",
    "ghostfacenet_050",
]


def deeper_in_ci(names: Iterable[str]) -> list[Any]:
    """``names``; of those that differ in numbers and have the same blocks the shallowest by default, the others for .ci/run."""
    kinds: dict[tuple[str, frozenset[str]], list[str]] = {}
    depths = {name: sum(stage.depth for stage in get_model_spec(name).stages) for name in names}
    for name in sorted(depths, key=lambda name: depths[name]):
        blocks = frozenset(row.block for stage in get_model_spec(name).stages for row in stage.blocks)
        kinds.setdefault((re.sub(r"\d+", "", name), blocks), []).append(name)
    by_default = {same[0] for same in kinds.values() if depths[same[0]] <= 16}
    return others_in_ci(depths, by_default)


@pytest.mark.parametrize("name", deeper_in_ci(FIGURES["imagenet"]))
def test_imagenet_form(name: str) -> None:
    expected = FIGURES["imagenet"][name]
    assert cost(name, 224) == (expected["params"], expected["macs_224"])
    with without_storage():
        bare = FaceNetwork(get_model_spec(name), stem="imagenet", embedding_dim=None, img_size=224)
    assert sum(parameter.numel() for parameter in bare.parameters()) == expected["params_without_classifier"]


# Seven of eight as slow tests: the layers are those of 224.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.ci if n % 8 else ()) for n, name in enumerate(FIGURES["imagenet"])]
)
def test_imagenet_form_at_112(name: str) -> None:
    expected = FIGURES["imagenet"][name]
    params_112 = expected.get("params_112", expected["params"])  # a ViT has a weight per position
    assert cost(name, 112) == (params_112, expected["macs_112"])


@functools.cache
def face_profile(name: str) -> ModelProfile:
    """Of the default form without classifier; two tests ask for it."""
    return profile_model(name, memory=False)


@pytest.mark.parametrize("name", deeper_in_ci(FIGURES["face"]))
def test_face_form(name: str) -> None:
    expected = FIGURES["face"][name]
    arguments = expected.get("arguments", {})
    profile = profile_model(name, memory=False, **arguments) if arguments else face_profile(name)
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
    with_it, without = profile_model(name, memory=False), profile_model(plain, memory=False)
    for stage, spec in enumerate(get_model_spec(name).stages):
        attended = sum(block.depth for block in spec.blocks if "attention" in block.options)
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
    form = {"embedding_dim": published.get("embedding_dim", 512), "stem": published.get("stem", "face")}
    profile = profile_model(name, memory=False, **form)
    millions, mflops = profile.params / 1e6, 2 * profile.macs / 1e6
    if "digits" in published:  # cut off, not rounded
        assert math.floor(millions * 10 ** published["digits"]) / 10 ** published["digits"] == published["params_m"]
        assert mflops == pytest.approx(published["mflops"], rel=published["within"])
    else:
        assert round(millions, 2) == published["params_m"]
        assert 0.0 <= published["mflops"] - mflops <= published["within"] * published["mflops"]


def test_original_squeeze_width_gives_the_papers_counts() -> None:
    for layers, params in ((18, 11778592), (34, 21958868)):
        spec = get_model_spec(f"se_resnet{layers}")
        stages = tuple(
            dataclasses.replace(
                stage,
                blocks=tuple(
                    dataclasses.replace(row, options={**row.options, "se_divisor": 1}) for row in stage.blocks
                ),
            )
            for stage in spec.stages
        )
        with without_storage():
            model = FaceNetwork(
                dataclasses.replace(spec, stages=stages), stem="imagenet", embedding_dim=None, num_classes=1000
            )
        assert sum(parameter.numel() for parameter in model.parameters()) == params


def last_map(name: str) -> tuple[int, int]:
    """Of the face form at 112×112: 7×7, but for networks published for such images with another map, and class tokens."""
    if get_model_spec(name).stages[-1].tokens == "class":
        return 1, 1
    others = {"vit_small_patch8_gap": (14, 14), "convnext_atto_p2": (3, 3), "convnext_nano_p2": (3, 3)}
    families = {"edgeface": (3, 3), "vit": (12, 12), "cvlface": (14, 14)}
    return others.get(name) or families.get(name.split("_")[0], (7, 7))


# Other tests register networks of their own.
@pytest.mark.parametrize("name", deeper_in_ci(facezoo.list_models(exclude="tiny_*")))
def test_every_face_form_ends_in_a_7x7_map_and_its_stages_add_up_to_the_table(name: str) -> None:
    profile = face_profile(name)
    stages = {stage.name: stage for stage in profile.stages}
    assert profile.stages[-2].output_shape[1:] == last_map(name)
    assert stages["head"].output_shape == (512,)
    for total in ("params", "macs", "activations"):
        assert sum(getattr(stage, total) for stage in profile.stages) == getattr(profile, total)
    written = TABLE[name]
    assert (written["params"], written["MACs"], written["activations"]) == (
        profile.params,
        profile.macs,
        profile.activations,
    )
    assert written["params with 8,631 classes"] == profile.params + 513 * 8631


@pytest.mark.parametrize("name", SPREAD)
def test_budgets_count_the_classifier(name: str) -> None:
    profile = profile_model(name, num_classes=8631, memory=False)
    classifier = profile.stages[-1]
    assert (classifier.name, classifier.params, classifier.macs) == ("classifier", 513 * 8631, 512 * 8631)
    assert classifier.activations == 8631
    assert profile.params - classifier.params == face_profile(name).params
    assert facezoo.list_models(name, max_params=profile.params, num_classes=8631) == [name]
    assert facezoo.list_models(name, max_params=profile.params - 1, num_classes=8631) == []


# -- the table in benchmarks/results ------------------------------------------------------------------------------------------


def test_the_table_has_every_model_with_its_oracle() -> None:
    assert list(TABLE) == facezoo.list_models(exclude="tiny_*")
    for name, written in TABLE.items():
        assert written["oracle"], name
        assert written["difference"], name
        form = next(form for form in FIGURES if name in FIGURES[form])
        entry = FIGURES[form][name]
        assert written["oracle"] == (entry.get("oracle") or entry["source"])
        if form == "imagenet":
            assert (written["ImageNet params"], written["ImageNet MACs"]) == (entry["params"], entry["macs_224"])
        elif form == "face" and "arguments" not in entry:
            assert (written["params"], written["MACs"]) == (entry["params"], entry["macs_112"])
        if form != "published":
            macs = entry["macs_224" if form == "imagenet" else "macs" if "arguments" in entry else "macs_112"]
            assert (written["oracle's params"], written["oracle's MACs"]) == (entry["params"], macs)
        assert written["difference"].startswith("none") or "difference" in entry, f"nothing says why {name} differs"
    page = (ROOT / "benchmarks/results/params_flops.md").read_text()
    for name, written in TABLE.items():
        assert f"| {name} | {written['params']:,} | {written['MACs']:,} | {written['activations']:,} |" in page


def check_row(name: str) -> None:
    """The columns that no other test compares: those of memory, and the form of ImageNet beside the face form."""
    written, spec = TABLE[name], get_model_spec(name)
    face = profile_model(name)
    assert (written["params"], written["MACs"], written["activations"]) == (face.params, face.macs, face.activations)
    assert (written["training bytes per image"], written["inference bytes"]) == (
        face.training_bytes,
        face.inference_bytes,
    )
    assert written["params with 8,631 classes"] == count_parameters(spec, 8631)
    published = cost(name, 224) if "imagenet" in spec.stems else (None, None)
    assert (written["ImageNet params"], written["ImageNet MACs"]) == published


@pytest.mark.parametrize("name", SPREAD)
def test_rows_of_the_table_are_what_the_code_gives(name: str) -> None:
    check_row(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_every_row_of_the_table_is_what_the_code_gives(name: str) -> None:
    check_row(name)


PEERS = {
    name: peer.groups()
    for name, entry in FIGURES["imagenet"].items()
    if (peer := re.fullmatch(r"(timm|torchvision)[ \d.]*:? (\w+)", entry.get("oracle") or entry["source"]))
}


def check_peer(name: str) -> None:
    """The figures that are said to be those of timm or torchvision, from timm or torchvision."""
    library, peer = PEERS[name]
    with torch.device(
        "cpu" if name.startswith("regnet") else "meta"
    ):  # torchvision computes the widths of these with tensors
        if library == "timm":
            model = pytest.importorskip("timm").create_model(peer)
        else:
            model = pytest.importorskip("torchvision").models.get_model(peer)
    model = model.to("meta").eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, SameShape(NORMS):
        model(torch.empty(1, 3, 224, 224, device="meta"))
    expected = FIGURES["imagenet"][name]
    assert sum(parameter.numel() for parameter in model.parameters()) == expected["params"]
    assert counter.get_total_flops() // 2 == expected["macs_224"]


@pytest.mark.parametrize("name", ["resnet50", "se_resnet50", "mobilenet_v2", "swin_tiny", "densenet121"])
def test_figures_are_those_of_the_library_that_is_named(name: str) -> None:
    check_peer(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_all_figures_are_those_of_the_library_that_is_named(name: str) -> None:
    check_peer(name)


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
        params = profile_model(name, num_classes=8631, embedding_dim=dim, memory=False).params
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
    assert profile_model(name, num_classes=8631, memory=False).params <= 30e6


def test_convnext_tinier_is_the_widest_of_its_kind_in_multiples_of_8() -> None:
    spec = get_model_spec("convnext_tinier")
    assert spec.stages[0].width == 88
    assert [stage.depth for stage in spec.stages] == [stage.depth for stage in get_model_spec("convnext_tiny").stages]
    assert get_model_spec("convnext_tiny").stages[0].width == 96
    assert profile_model("convnext_tiny", num_classes=8631).params > 30e6


def test_the_count_behind_budgets_equals_the_profile() -> None:
    for name in ("edgenext_xx_small", "vit_tiny_patch16", "mobilenet_v3_small", "swin_tiny", "efficientnet_b0"):
        assert count_parameters(get_model_spec(name), 7, 64, "face") == (
            profile_model(name, num_classes=7, embedding_dim=64, memory=False).params
        )
