"""What load_checkpoint accepts, refuses, replaces and reports."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import facezoo
from facezoo.models import Preprocessing
from facezoo.models.init import drawing_only
from facezoo.weights import CheckpointError, LoadReport, load_checkpoint, save_file_atomic
from facezoo.weights.adapters import NESTS
from facezoo.weights.io import WRAPPERS

NAME = "hw2p2_cnn"  # the smallest network


def network(seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return facezoo.create_model(NAME, **options)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def equal(one: dict[str, Tensor], other: dict[str, Tensor], *, besides: tuple[str, ...] = ()) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[k], other[k]) for k in one if not k.startswith(besides or ("?",))
    )


# --- facezoo's own files


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_own_state_dict(tmp_path: Path, suffix: str) -> None:
    source, target = network(1, num_classes=5), network(2, num_classes=5)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, path)
    else:
        save_file_atomic(path, source.state_dict())
    report = load_checkpoint(target, path)
    assert equal(source.state_dict(), target.state_dict())
    entry = "state_dict" if suffix == ".pth" else ""
    assert report == LoadReport("facezoo.native", len(source.state_dict()), entry=entry)
    part = f", its part {entry}" if entry else ""
    assert str(report) == f"loaded {len(source.state_dict())} tensors from a facezoo.native checkpoint{part}"


def test_create_model_with_a_checkpoint_path(tmp_path: Path) -> None:
    source = network(1, num_classes=5)
    save_file_atomic(tmp_path / "a.safetensors", source.state_dict())
    loaded = facezoo.create_model(NAME, num_classes=5, checkpoint_path=tmp_path / "a.safetensors")
    assert equal(source.state_dict(), loaded.state_dict())


def test_what_a_checkpoint_fills_is_not_drawn_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = network(1, num_classes=5)
    save_file_atomic(tmp_path / "a.safetensors", source.state_dict())
    drawn: list[int] = []
    monkeypatch.setattr("facezoo.models.init.fill_", lambda draws: drawn.append(len(draws)))
    facezoo.create_model(NAME, num_classes=5, checkpoint_path=tmp_path / "a.safetensors")
    assert drawn == [0]
    facezoo.create_model(NAME, num_classes=5)
    assert drawn[1] > 0  # and the next network is drawn as ever


BESIDE = {"head.weight", "optimizer.model.stem.conv.conv.weight.momentum_buffer"}


def training_checkpoint(path: Path, model: nn.Module, average: nn.Module | None = None) -> Preprocessing:
    """A file as the trainer writes it."""
    preprocessing = Preprocessing(mean=(0.1, 0.2, 0.3), channel_order="bgr")
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    tensors |= {name: torch.zeros(3) for name in BESIDE}
    if average is not None:
        tensors |= {f"average.model.{key}": value for key, value in average.state_dict().items()}
        tensors["average.head.weight"] = torch.zeros(7, 512)
    record = {"model": {"name": NAME}, "preprocessing": preprocessing.to_dict()}
    save_file_atomic(path, tensors, {"format": "facezoo-training-1", "network": json.dumps(record)})
    return preprocessing


def test_a_trainers_checkpoint(tmp_path: Path) -> None:
    source, target = network(1), network(2)
    preprocessing = training_checkpoint(tmp_path / "last.safetensors", source)
    report = load_checkpoint(target, tmp_path / "last.safetensors")
    assert equal(source.state_dict(), target.state_dict())
    assert report.loaded == len(source.state_dict())
    assert (report.entry, set(report.dropped)) == ("model", BESIDE)
    assert report.preprocessing
    assert target.preprocessing == preprocessing


def test_of_a_trainers_checkpoint_the_average_goes_first(tmp_path: Path) -> None:
    source, average, target = network(1), network(3), network(2)
    training_checkpoint(tmp_path / "last.safetensors", source, average)
    report = load_checkpoint(target, tmp_path / "last.safetensors")
    assert equal(average.state_dict(), target.state_dict())
    beside = {*BESIDE, "average.head.weight", *(f"model.{key}" for key in source.state_dict())}
    assert (report.entry, set(report.dropped)) == ("average.model", beside)
    assert str(report).endswith("from a facezoo.native checkpoint, its part average.model")


def test_a_new_stem_keeps_its_own_preprocessing(tmp_path: Path) -> None:
    source, target = network(1), network(2, in_chans=1)
    before = target.preprocessing
    training_checkpoint(tmp_path / "last.safetensors", source)
    report = load_checkpoint(target, tmp_path / "last.safetensors", replace=["stem"])
    assert not report.preprocessing
    assert target.preprocessing == before


def test_dtype_and_memory_format_of_the_network_stay() -> None:
    source, target = network(1).half(), network(2).to(memory_format=torch.channels_last)
    load_checkpoint(target, source.state_dict())
    assert target.stem.conv.conv.weight.dtype == torch.float32
    assert target.stages[0].blocks[0].conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(target.head.embedding.weight, source.head.embedding.weight.float())


def test_counters_are_loaded_too() -> None:
    source, target = network(1), network(2)
    source.stem.conv.norm.num_batches_tracked.fill_(5)
    load_checkpoint(target, source.state_dict())
    assert target.stem.conv.norm.num_batches_tracked == 5


def test_old_files_without_counters() -> None:
    source, target = network(1), network(2)
    old = {key: value for key, value in source.state_dict().items() if not key.endswith("num_batches_tracked")}
    report = load_checkpoint(target, old)
    assert report.loaded == len(old)
    assert equal(source.state_dict(), target.state_dict())


# --- parts that may differ


@pytest.mark.parametrize(
    ("source_options", "target_options", "parts", "told"),
    [
        (
            {"num_classes": 9},
            {"num_classes": 4},
            ["classifier"],
            r"classifier: \(9, 512\) in .*, \(4, 512\) in the network",
        ),
        ({"num_classes": 9}, {"num_classes": 0}, ["classifier"], r"classifier: \(9, 512\) in .*, none in the network"),
        ({"num_classes": 0}, {"num_classes": 4}, ["classifier"], r"classifier: none in the checkpoint"),
        ({"in_chans": 3}, {"in_chans": 1}, ["stem"], r"stem: \(64, 3, 3, 3\) in .*, \(64, 1, 3, 3\) in the network"),
        ({"embedding_dim": 512}, {"embedding_dim": 64}, ["embedding"], r"embedding: \(512, 1024\) in .*, \(64, 1024\)"),
        (
            {"embedding_dim": None, "num_classes": 9},
            {"embedding_dim": 64, "num_classes": 4},
            ["embedding", "classifier"],
            r"classifier: \(9, 1024\) in .*, \(4, 64\) .*; embedding: none in",
        ),
    ],
)
def test_a_part_that_differs_is_refused_then_replaced(
    source_options: dict[str, Any], target_options: dict[str, Any], parts: list[str], told: str
) -> None:
    source, target = network(1, **source_options), network(2, **target_options)
    before = snapshot(target)
    with pytest.raises(CheckpointError, match=told) as caught:
        load_checkpoint(target, source.state_dict())
    assert f"replace=({', '.join(map(repr, parts))}{',' * (len(parts) == 1)})" in str(caught.value)
    assert equal(before, target.state_dict())

    report = load_checkpoint(target, source.state_dict(), replace=parts)
    assert sorted(report.replaced) == sorted(parts)
    prefixes = tuple(
        {"stem": "stem.", "embedding": "head.embedding", "classifier": "classifier."}[part] for part in parts
    )
    for key, value in target.state_dict().items():
        expected = before[key] if key.startswith(prefixes) else source.state_dict()[key]
        assert torch.equal(value, expected), key
    assert set(report.dropped) == {key for key in source.state_dict() if key.startswith(prefixes)}
    assert report.loaded == len(source.state_dict()) - len(report.dropped)
    assert parts[0] in str(report)


def test_replace_keeps_the_networks_part_even_where_the_checkpoints_would_fit() -> None:
    source, target = network(1, num_classes=4), network(2, num_classes=4)
    before = snapshot(target)
    report = load_checkpoint(target, source.state_dict(), replace=("classifier",))
    assert torch.equal(target.classifier.weight, before["classifier.weight"])
    assert report.replaced == ("classifier",)


def test_a_part_that_neither_has_is_not_reported() -> None:
    assert load_checkpoint(network(2), network(1).state_dict(), replace=("classifier",)).replaced == ()


@pytest.mark.parametrize("name", ["resnet10_tiny", "resnet18d"])
@pytest.mark.parametrize("stems", [("imagenet", "face"), ("face", "imagenet")])
def test_another_stem_brings_or_drops_the_first_shortcut(name: str, stems: tuple[str, str]) -> None:
    source, target = (facezoo.create_model(name, stem=stem) for stem in stems)
    before = snapshot(target)
    advice = (
        r"stem: .* in the network\. .*\. Or pass replace=\('stem',\)" if name == "resnet10_tiny" else "All of it fits"
    )
    with pytest.raises(CheckpointError, match=advice):
        load_checkpoint(target, source.state_dict())
    report = load_checkpoint(target, source.state_dict(), replace=("stem",))
    own = ("stem.", "stages.0.blocks.0.shortcut.")
    assert report.replaced == ("stem",)
    assert all(key.startswith(own) for key in report.dropped)
    expected = {key: before[key] if key.startswith(own) else source.state_dict()[key] for key in before}
    assert equal(target.state_dict(), expected)


def test_a_shortcut_that_both_have_is_loaded_with_a_new_stem() -> None:
    source, target = network(1), network(2, in_chans=1)
    both = [key for key in source.state_dict() if key.startswith("stages.0.blocks.0.shortcut.")]
    load_checkpoint(target, source.state_dict(), replace=("stem",))
    assert all(torch.equal(source.state_dict()[key], target.state_dict()[key]) for key in both)


def test_replacing_one_part_does_not_excuse_another() -> None:
    source, target = network(1, num_classes=9, in_chans=1), network(2, num_classes=4)
    with pytest.raises(CheckpointError, match="stem") as caught:
        load_checkpoint(target, source.state_dict(), replace=("classifier",))
    assert "replace=('stem',)" in str(caught.value)


@pytest.mark.parametrize("replace", [("clasifier",), ("head",), ["stem", "x"]])
def test_unknown_part(replace: Any) -> None:
    with pytest.raises(ValueError, match="unknown part to replace"):
        load_checkpoint(network(), network().state_dict(), replace=replace)


def test_a_string_is_no_collection_of_parts() -> None:
    with pytest.raises(ValueError, match=r"replace is a collection.*\('stem',\)"):
        load_checkpoint(network(), network().state_dict(), replace="stem")


# --- everything else is an error that leaves the network alone


def test_another_network(tmp_path: Path) -> None:
    target = network(2)
    before = snapshot(target)
    other = facezoo.create_model("resnet18")
    save_file_atomic(tmp_path / "other.safetensors", other.state_dict())
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(target, tmp_path / "other.safetensors", replace=("classifier",))
    message = str(caught.value)
    assert str(tmp_path / "other.safetensors") in message
    assert "facezoo.native" in message
    assert "does not fit this hw2p2_cnn" in message
    assert "stages.0.blocks.0.conv.weight" in message
    assert "unexpected (stages.0.blocks.0.conv1.conv.weight" in message
    assert "…" in message
    assert len(message) < 1200
    assert "replace=" not in message
    assert equal(before, target.state_dict())


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_one_wrong_tensor_is_enough(change: str) -> None:
    target, state_dict = network(2), network(1).state_dict()
    before = snapshot(target)
    key = "stages.2.blocks.0.conv.weight"
    if change == "missing":
        del state_dict[key]
        told = f"1 missing \\({key}\\)"
    elif change == "unexpected":
        state_dict["stages.2.blocks.0.extra"] = torch.zeros(1)
        told = r"1 unexpected \(stages\.2\.blocks\.0\.extra\)"
    else:
        state_dict[key] = state_dict[key][:, :, :1, :1]
        told = r"1 of another shape \(stages\.2\.blocks\.0\.conv\.weight \(512, 256, 1, 1\) instead of \(512, 256, 3, 3\)\)"
    with pytest.raises(CheckpointError, match=told):
        load_checkpoint(target, state_dict)
    assert equal(before, target.state_dict())


def test_counters_may_not_be_unexpected() -> None:
    state_dict = network(1).state_dict() | {"stages.9.norm.num_batches_tracked": torch.tensor(0)}
    with pytest.raises(CheckpointError, match="1 unexpected"):
        load_checkpoint(network(2), state_dict)


def test_unknown_layout() -> None:
    with pytest.raises(CheckpointError, match=r"its 1 keys \(encoder\.weight\) are of no layout.*timm\.resnet"):
        load_checkpoint(network(), {"encoder.weight": torch.zeros(1)})


def test_a_known_layout_of_another_source() -> None:
    with pytest.raises(CheckpointError, match=r"from source 'timm' \(known: timm\.resnet, .*timm\.convnext"):
        load_checkpoint(network(), network().state_dict(), source="timm")


def test_unknown_source() -> None:
    with pytest.raises(ValueError, match="unknown source of checkpoints 'tim'; did you mean 'timm'"):
        load_checkpoint(network(), network().state_dict(), source="tim")


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(network(), tmp_path / "absent.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(CheckpointError, match="cut off or damaged"):
        load_checkpoint(network(), tmp_path / "a.safetensors")


def test_a_network_without_storage() -> None:
    with torch.device("meta"):
        model = facezoo.models.FaceNetwork(facezoo.models.get_model_spec(NAME))
    with pytest.raises(ValueError, match="meta device"):
        load_checkpoint(model, network().state_dict())


def test_a_part_that_differs_in_its_bias_alone() -> None:
    state_dict = network(1, num_classes=4).state_dict()
    del state_dict["classifier.bias"]
    with pytest.raises(
        CheckpointError, match=r"classifier: 1 missing \(classifier\.bias\)\. Pass replace=\('classifier',\)"
    ):
        load_checkpoint(network(2, num_classes=4), state_dict)


def resnet(depth: int) -> Any:
    with torch.device("meta"):
        return facezoo.models.FaceNetwork(facezoo.models.get_model_spec(f"resnet{depth}"), **IMAGENET)


IMAGENET = {"stem": "imagenet", "embedding_dim": None, "num_classes": 10}


@pytest.fixture(scope="module")
def torchvisions() -> dict[str, Tensor]:
    return torchvision.models.resnet18(num_classes=10).state_dict()


def test_names_are_told_as_the_file_has_them_too(torchvisions: dict[str, Tensor]) -> None:
    changed = {**torchvisions, "layer1.0.odd": torch.zeros(2)}
    changed["layer2.0.conv1.weight"] = torch.zeros(128, 64, 1, 1)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(resnet(18).to_empty(device="cpu"), changed)
    for told in (
        "1 unexpected (stages.0.blocks.0.odd [layer1.0.odd in the checkpoint])",
        "(128, 64, 1, 1) instead of (128, 64, 3, 3) [layer2.0.conv1.weight in the checkpoint]",
    ):
        assert told in str(caught.value)


def test_another_depth_is_told(torchvisions: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match=r"its stages have 2, 2, 2, 2 blocks, those of this network 3, 4, 6, 3"):
        load_checkpoint(resnet(34).to_empty(device="cpu"), torchvisions)


def test_the_closest_layout_is_told(torchvisions: dict[str, Tensor]) -> None:
    changed = {f"net.{key}": value for key, value in torchvisions.items() if key != "layer1.0.bn2.weight"}
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(resnet(18).to_empty(device="cpu"), changed)
    for told in (
        "are of no layout that facezoo knows",
        "The closest is torchvision.resnet, with 121 of the 122 names of this resnet18: ",
        "1 missing (stages.0.blocks.0.conv2.norm.weight)",
    ):
        assert told in str(caught.value)


def test_tensors_that_cannot_be_converted() -> None:
    broken = {
        "cls_token": torch.zeros(1, 1, 192),
        "pos_embed": torch.zeros(3),
        "patch_embed.proj.weight": torch.zeros(192, 3, 16, 16),
        "blocks.0.attn.qkv.weight": torch.zeros(576, 192),
    }
    with pytest.raises(CheckpointError, match=r"the state dict, read as timm\.vit: too many indices"):
        load_checkpoint(network(), broken)


# --- networks inside other modules


@settings(max_examples=30, deadline=None)
@given(
    chain=st.lists(st.sampled_from((*NESTS, "_orig_mod.")), max_size=4),
    wrappers=st.lists(st.sampled_from(WRAPPERS), max_size=3),
    beside=st.booleans(),
)
def test_prefixes_and_dictionaries_in_any_order(chain: list[str], wrappers: list[str], beside: bool) -> None:
    prefix = "".join(chain)
    content: dict[str, Any] = {prefix + key: value for key, value in NESTED.state_dict().items()}
    first = next((nest for nest in chain if nest not in ("_orig_mod.", "module.")), "")
    if beside and first:
        content["loss.centers"] = torch.zeros(3, 5)
    for wrapper in wrappers:
        content = {wrapper: content, "epoch": 3}
    with torch.no_grad():
        for tensor in TARGET.state_dict().values():
            tensor.zero_()
    report = load_checkpoint(TARGET, content)
    assert equal(NESTED.state_dict(), TARGET.state_dict())
    assert (report.source, report.loaded) == ("facezoo.native", len(NESTED.state_dict()))
    assert report.dropped == (("loss.centers",) if beside and first else ())


NESTED, TARGET = network(1), network(2)


@pytest.mark.parametrize("average", ["ema.", "ema.model.", "model.ema.", "model_ema.", "ema_model."])
@pytest.mark.parametrize("plain", ["", "model.", "net."])
def test_of_any_file_the_average_goes_first(average: str, plain: str) -> None:
    weights = {f"{plain}{key}": value for key, value in TARGET.state_dict().items()}
    averaged = {f"{average}{key}": value for key, value in NESTED.state_dict().items()}
    for content in ({**weights, **averaged}, {**averaged, **weights}):
        target = copy.deepcopy(TARGET)
        report = load_checkpoint(target, {"state_dict": content})
        assert equal(NESTED.state_dict(), target.state_dict())
        assert (report.entry, report.dropped) == (f"state_dict.{average[:-1]}", tuple(weights))


def test_below_a_prefix_everything_counts() -> None:
    content = {f"backbone.{key}": value for key, value in network(1).state_dict().items()}
    with pytest.raises(CheckpointError, match=r"1 unexpected \(odd \[backbone\.odd in the checkpoint\]\)"):
        load_checkpoint(network(2), {**content, "backbone.odd": torch.zeros(1)})


def test_of_two_ways_to_read_a_file_the_one_that_fits_is_taken() -> None:
    """Behind ``model.`` an EdgeNeXt of timm has the names of an EdgeFace."""
    theirs = timm.create_model("edgenext_xx_small", num_classes=10)
    model = facezoo.create_model("edgenext_xx_small", **IMAGENET)
    content = {"state_dict": {f"model.{key}": value for key, value in theirs.state_dict().items()}}
    assert load_checkpoint(model, content).source == "timm.edgenext"
    assert torch.equal(model.classifier.weight, theirs.head.fc.weight)


# --- metadata


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"preprocessing": {"meen": [1]}}', '{"preprocessing": null}'])
def test_metadata_of_other_programs_is_left_alone(tmp_path: Path, text: str) -> None:
    save_file_atomic(tmp_path / "a.safetensors", network(1).state_dict(), {"format": "pt", "network": text})
    target = network(2)
    before = target.preprocessing
    assert not load_checkpoint(target, tmp_path / "a.safetensors").preprocessing
    assert target.preprocessing == before


# --- networks without a head


def test_features_only_leaves_the_head_and_later_stages_out() -> None:
    source = network(1, num_classes=4)
    target = network(2, features_only=True, out_indices=[0, 1])
    report = load_checkpoint(target, source.state_dict())
    assert {key.split(".")[0] for key in report.dropped} == {"stages", "head", "classifier"}
    assert all(key.startswith(("stages.2", "stages.3", "head", "classifier")) for key in report.dropped)
    for key, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[key])


def test_features_only_is_strict_in_what_it_has() -> None:
    state_dict = network(1).state_dict()
    del state_dict["stages.0.blocks.0.conv.weight"]
    with pytest.raises(CheckpointError, match="1 missing"):
        load_checkpoint(network(2, features_only=True), state_dict)


def test_the_report_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LoadReport("x", 1).loaded = 2  # type: ignore[misc]


# --- arguments that fit


@pytest.mark.parametrize(
    ("name", "theirs", "ours", "told"),
    [
        (
            "mobilefacenet_paper",
            {"embedding_dim": 128, "img_size": (112, 96)},
            {},
            'create_model("mobilefacenet_paper", embedding_dim=128, img_size=(112, 96)) '
            "(on the command line --model mobilefacenet_paper --embedding-dim 128 --img-size 112x96)",
        ),
        ("resnet18", IMAGENET, {}, "create_model(\"resnet18\", num_classes=10, embedding_dim=None, stem='imagenet')"),
        ("resnet18", {"in_chans": 1}, {}, 'create_model("resnet18", in_chans=1)'),
        (
            "iresnet18",
            {"img_size": 96},
            {},
            'create_model("iresnet18", img_size=(96, 96)) (on the command line --model iresnet18 --img-size 96)',
        ),
        ("vit_t", {"embedding_dim": 64}, {"img_size": 64}, 'create_model("vit_t", embedding_dim=64) (on'),
        ("resnet18", IMAGENET, {"stem": "imagenet"}, "num_classes=10, embedding_dim=None, stem='imagenet') (on"),
        ("resnet18", {}, {"embedding_dim": 64}, 'create_model("resnet18") (on the command line --model resnet18). Or'),
        (
            "resnet18",
            {"global_pool": "gem"},
            {"global_pool": "gem", "in_chans": 1},
            "create_model(\"resnet18\", global_pool='gem'). Or",
        ),
    ],
)
def test_the_arguments_that_fit_are_told(name: str, theirs: dict[str, Any], ours: dict[str, Any], told: str) -> None:
    state_dict = facezoo.create_model(name, **theirs).state_dict()
    with drawing_only(()), pytest.raises(CheckpointError) as caught:
        load_checkpoint(facezoo.create_model(name, **ours), state_dict)
    message = str(caught.value)
    assert told in message
    assert "replace=" not in message or message.index(told) < message.index("replace=")
    (call,) = re.findall(r"All of it fits (create_model\(.*?\)(?= \(on|\. |$))", message)
    with drawing_only(()):
        load_checkpoint(eval(f"facezoo.{call}"), state_dict)


def test_where_no_arguments_fit_none_are_told() -> None:
    state_dict = network(1).state_dict() | {"head.odd": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(network(2), state_dict)
    assert "All of it fits" not in str(caught.value)
