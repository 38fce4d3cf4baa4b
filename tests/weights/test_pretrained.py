"""Weights as records, folders and repositories: against a Hub on loopback, through the real huggingface_hub."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import pickle
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import HubServer, hub_client
from torch import nn

import facezoo
from facezoo.models import HeadSpec, ModelSpec, Preprocessing, StemSpec, init, stage
from facezoo.profile import profile_network
from facezoo.weights import (
    CheckpointError,
    HubError,
    PretrainedConfig,
    ReportedFigure,
    WeightsRecord,
    find_pretrained,
    get_weights,
    list_weights,
    push_to_hub,
    records,
    register_weights,
    save_file_atomic,
    save_pretrained,
    sha256_of,
)
from facezoo.weights.hub import download

# huggingface_hub hands files to its HTTP client in a way that the client would rather not see any more.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "pretrained_test_net"
FIGURES = (
    ReportedFigure("LFW", "accuracy", 0.9912, "results of run 7, https://example.org/run7."),
    ReportedFigure("CFP-FP", "TAR at FAR 1e-4", 0.5, "table 2 | row 3"),
)
ABOUT: dict[str, Any] = {"license": "apache-2.0", "source": "the tests: noise", "description": "Trained on nothing."}


@pytest.fixture(scope="module", autouse=True)
def tiny_network() -> Iterator[None]:
    spec = ModelSpec(
        name=NAME,
        family="tests",
        stems={
            "face": StemSpec("conv_stem", width=4, stride=1, stage_strides=(2, 2)),
            "imagenet": StemSpec("conv_stem", width=4, stride=2, stage_strides=(2, 2)),
        },
        stages=(stage("conv", 1, 6), stage("conv", 1, 8)),
        head=HeadSpec(),
        init="mobilefacenet",
        paper="none",
        description="for tests",
    )
    facezoo.register_model(spec)
    yield
    facezoo.models.MODELS.unregister(NAME)


@pytest.fixture(autouse=True)
def no_records_stay() -> Iterator[None]:
    yield
    for name in list(records.WEIGHTS):
        if records.WEIGHTS[name].model == NAME:
            records.WEIGHTS.unregister(name)


def network(seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    model = facezoo.create_model(NAME, **{"img_size": 16, "embedding_dim": 5, "num_classes": 3, **options})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    model.preprocessing = dataclasses.replace(model.preprocessing, mean=(0.1, 0.2, 0.3), alignment="mtcnn")
    return model


def same_weights(one: nn.Module, other: nn.Module, *, besides: tuple[str, ...] = ("?",)) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(
        torch.equal(first[k], second[k]) for k in first if not k.startswith(besides)
    )


def a_record(**changes: Any) -> WeightsRecord:
    fields: dict[str, Any] = {
        "model": NAME,
        "tag": "first",
        "repository": "me/net",
        "revision": "main",
        "sha256": "0" * 64,
        "license": "mit",
        "source": "the tests",
    }
    return WeightsRecord(**{**fields, **changes})


# --- records


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"license": " "}, "license is missing"),
        ({"license": None}, "license is missing"),
        ({"sha256": "0" * 63}, "64 hexadecimal digits"),
        ({"sha256": "A" * 64}, "lower case"),
        ({"file": ""}, "file is empty"),
        ({"repository": "net"}, "'owner/name'"),
        ({"repository": "../net"}, "'owner/name'"),
        ({"tag": "First"}, "a tag consists of"),
        ({"tag": "a.b"}, "a tag consists of"),
        ({"source": ""}, "source is empty"),
        ({"revision": ""}, "revision is empty"),
    ],
)
def test_records_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        a_record(**changes)


def test_figures_are_checked() -> None:
    with pytest.raises(ValueError, match="needs its source"):
        ReportedFigure("LFW", "accuracy", 0.99, "")
    with pytest.raises(ValueError, match="is a number"):
        ReportedFigure("LFW", "accuracy", "0.99", "here")  # type: ignore[arg-type]


def test_records_are_frozen_and_travel() -> None:
    record = a_record(figures=FIGURES, preprocessing=Preprocessing(alignment="mtcnn"))
    assert pickle.loads(pickle.dumps(record)) == record
    assert record.alignment == "mtcnn"
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.sha256 = "1" * 64  # type: ignore[misc]


def test_registration() -> None:
    assert list_weights(NAME) == []
    with pytest.raises(ValueError, match=r"no published weights for 'pretrained_test_net'.*checkpoint_path"):
        get_weights(NAME)
    second, first = register_weights(a_record(tag="v2")), facezoo.register_weights(a_record(tag="v1"))
    assert list_weights(NAME) == [first, second]
    assert all(entry in list_weights() for entry in (first, second))
    assert get_weights(NAME, "v2") is second
    with pytest.raises(ValueError, match=r"several sets of weights.*v1, v2"):
        get_weights(NAME)
    with pytest.raises(ValueError, match="did you mean 'v1'"):
        get_weights(NAME, "v1x")
    with pytest.raises(ValueError, match="registered already"):
        register_weights(a_record(tag="v1", source="somebody else"))
    assert NAME in facezoo.list_models(pretrained=True, stem=None)
    assert "vit_t" not in facezoo.list_models(pretrained=True)
    assert NAME not in facezoo.list_models("resnet*", pretrained=True)


# --- folders


def test_a_folder_gives_the_network_back(tmp_path: Path) -> None:
    model = network(drop_path_rate=0.0).eval()
    config = save_pretrained(model, tmp_path / "deep" / "net", **ABOUT, figures=FIGURES, classes=("a", "b", "c"))
    assert sorted(path.name for path in (tmp_path / "deep" / "net").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    loaded = facezoo.create_model(f"local-dir:{tmp_path}/deep/net").eval()
    assert same_weights(model, loaded)
    assert loaded.config == model.config
    assert loaded.preprocessing == model.preprocessing
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(model(images), loaded(images))
    assert find_pretrained(f"local-dir:{tmp_path}/deep/net").config == config
    assert config.figures == FIGURES
    assert config.classes == ("a", "b", "c")
    assert config.sha256 == sha256_of(tmp_path / "deep" / "net" / "model.safetensors")


def test_saving_leaves_the_network_alone_and_replaces_what_was_there(tmp_path: Path) -> None:
    model = network().train()
    model.stem.eval()
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    head = facezoo.create_margin("arcface", embedding_dim=5, num_classes=3)
    save_pretrained(network(1), tmp_path, head=head, **ABOUT)
    save_pretrained(model, tmp_path, **ABOUT)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert same_weights(model, facezoo.create_model(f"local-dir:{tmp_path}"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]


@pytest.mark.parametrize("failing", ["config.json", "README.md", "calibration.json", "margin.safetensors"])
def test_a_file_that_cannot_be_written_leaves_the_old_network_whole(tmp_path: Path, failing: str) -> None:
    folder, calibration = tmp_path / "net", tmp_path / "thresholds.json"
    calibration.write_text('{"format": "facezoo-calibration"}')
    save_pretrained(network(1), folder, **ABOUT)
    (folder / failing).unlink(missing_ok=True)
    (folder / failing).mkdir()  # no file can get this name
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    head = facezoo.create_margin("arcface", embedding_dim=5, num_classes=3)
    with pytest.raises(CheckpointError, match=f"could not write .*{failing}"):
        save_pretrained(network(2), folder, head=head, calibration=calibration, **ABOUT)
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_arguments_that_are_given_go_before_those_of_the_weights(tmp_path: Path) -> None:
    model = network()
    save_pretrained(model, tmp_path, **ABOUT)
    name = f"local-dir:{tmp_path}"
    other_classes = facezoo.create_model(name, num_classes=7)
    assert other_classes.classifier.weight.shape == (7, 5)
    assert torch.equal(other_classes.head.embedding.weight, model.head.embedding.weight)
    none = facezoo.create_model(name, num_classes=0)  # the default of the argument, given
    assert isinstance(none.classifier, nn.Identity)
    wide = facezoo.create_model(name, embedding_dim=512)  # likewise
    assert wide.embedding_dim == 512
    assert wide.classifier.weight.shape == (3, 512)
    assert torch.equal(wide.stages[1].blocks[0].conv.weight, model.stages[1].blocks[0].conv.weight)
    gray = facezoo.create_model(name, in_chans=1)
    assert torch.equal(gray.head.embedding.weight, model.head.embedding.weight)
    assert len(gray.preprocessing.mean) == 1
    bigger = facezoo.create_model(name, img_size=32)
    assert same_weights(model, bigger)
    assert bigger.preprocessing == dataclasses.replace(model.preprocessing, img_size=(32, 32))
    features = facezoo.create_model(name, features_only=True, out_indices=(0,))
    assert torch.equal(features.stages[0].blocks[0].conv.weight, model.stages[0].blocks[0].conv.weight)
    assert features.preprocessing == model.preprocessing


def test_a_face_stem_on_weights_of_imagenet(tmp_path: Path) -> None:
    source = facezoo.create_model("resnet10_tiny", stem="imagenet")
    save_pretrained(source, tmp_path, card=False)
    model = facezoo.create_model(f"local-dir:{tmp_path}", stem="face")
    own = ("stem.", "stages.0.blocks.0.shortcut.")
    old, new = source.state_dict(), model.state_dict()
    assert all(torch.equal(old[key], value) for key, value in new.items() if not key.startswith(own))
    assert float(new["stages.0.blocks.0.shortcut.conv.weight"].std()) > 0  # drawn like the stem


def test_only_what_starts_anew_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    save_pretrained(model, tmp_path, **ABOUT)
    name = f"local-dir:{tmp_path}"
    drawn: list[torch.Size] = []
    fill = init.fill_

    def record(draws: Any) -> None:
        drawn.extend(draw.tensor.shape for draw in draws)
        fill(draws)

    monkeypatch.setattr("facezoo.models.init.fill_", record)
    facezoo.create_model(name)
    assert drawn == []
    again = []
    for _ in range(2):
        torch.manual_seed(3)
        again.append(facezoo.create_model(name, num_classes=7).classifier)
    assert drawn == [(7, 5)] * 2
    assert torch.equal(again[0].weight, again[1].weight)
    assert 0.1 < float(again[0].weight.detach().std()) * 5**0.5 < 1  # U(±1/√5) has 0.58
    assert not again[0].bias.any()
    drawn.clear()
    facezoo.create_model(name, in_chans=1)
    assert [tuple(shape)[1] for shape in drawn] == [1]  # the stem


def test_what_cannot_be_asked_of_a_folder(tmp_path: Path) -> None:
    save_pretrained(network(), tmp_path, **ABOUT)
    name = f"local-dir:{tmp_path}"
    assert same_weights(facezoo.create_model(name, pretrained=True), network())
    with pytest.raises(ValueError, match="tags are those of registered weights"):
        facezoo.create_model(name, pretrained="v1")
    with pytest.raises(ValueError, match="not from both"):
        facezoo.create_model(name, checkpoint_path="other.safetensors")
    with pytest.raises(TypeError, match=r"create_model\(\) got an unexpected keyword argument 'num_clases'"):
        facezoo.create_model(name, num_clases=3)
    for bad, message in (("local-dir:", "local-dir:path"), ("hf-hub:net", "'owner/name'"), ("hf-hub:", "'owner/name'")):
        with pytest.raises(ValueError, match=message):
            facezoo.create_model(bad)
    with pytest.raises(ValueError, match="did you mean"):
        facezoo.create_model("resnet5O", pretrained=True)


def test_a_margin_head_travels_with_its_network(tmp_path: Path) -> None:
    head = facezoo.create_margin(
        "cosface", embedding_dim=5, num_classes=3, scale=16.0, margin=0.25, label_smoothing=0.1
    )
    model = network(num_classes=0)
    config = save_pretrained(model, tmp_path, head=head, classes=("a", "b", "c"), **ABOUT)
    assert config.margin is not None
    assert config.margin.name == "cosface"
    trained = facezoo.training.load_trained(f"local-dir:{tmp_path}")
    embeddings = torch.randn(4, 5)
    assert torch.equal(trained.head.logits(embeddings), head.eval().logits(embeddings))
    assert trained.head.options == head.options
    assert trained.head.label_smoothing == 0.1
    assert trained.classes == ("a", "b", "c")
    assert same_weights(trained.model, model)
    assert trained.preprocessing == model.preprocessing
    assert not trained.model.training
    assert "`cosface`, in `margin.safetensors`" in (tmp_path / "README.md").read_text()
    save_file_atomic(tmp_path / "margin.safetensors", {"weight": torch.zeros(3, 5)})
    with pytest.raises(CheckpointError, match=r"margin\.safetensors.*not the file that was published"):
        facezoo.training.load_trained(f"local-dir:{tmp_path}")


def test_from_a_run_to_a_folder(tmp_path: Path) -> None:
    """What training said about the images is in the folder, too."""
    model = network(num_classes=0)
    record = {
        "model": model.config,
        "head": {"name": "arcface", "options": {"embedding_dim": 5, "num_classes": 2}},
        "preprocessing": Preprocessing((16, 16), (0.4, 0.4, 0.4), (0.2, 0.2, 0.2), "bgr", "mtcnn").to_dict(),
        "classes": ["a", "b"],
        "metrics": {},
    }
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()} | {"head.weight": torch.ones(2, 5)}
    save_file_atomic(
        tmp_path / "best.safetensors", tensors, {"format": "facezoo-training-1", "network": json.dumps(record)}
    )
    trained = facezoo.training.load_trained(tmp_path)
    save_pretrained(trained.model, tmp_path / "net", head=trained.head, classes=trained.classes, **ABOUT)
    published = facezoo.training.load_trained(f"local-dir:{tmp_path}/net")
    assert published.preprocessing == published.model.preprocessing == trained.preprocessing
    assert published.preprocessing.to_dict() == record["preprocessing"]
    assert same_weights(published.model, model)
    assert torch.equal(published.head.weight, torch.ones(2, 5))
    assert published.classes == ("a", "b")


def test_a_head_that_samples_its_classes_travels_too(tmp_path: Path) -> None:
    head = facezoo.create_margin("arcface", embedding_dim=5, num_classes=8, sample_rate=0.5)
    head(torch.randn(2, 5, requires_grad=True), torch.tensor([0, 1])).backward()
    save_pretrained(network(num_classes=0), tmp_path, head=head, **ABOUT)
    assert torch.equal(facezoo.training.load_trained(f"local-dir:{tmp_path}").head.weight, head.weight)


def test_one_ranks_part_of_a_head_is_refused(tmp_path: Path) -> None:
    head = facezoo.create_margin("arcface", embedding_dim=5, num_classes=8)
    head.weight = nn.Parameter(head.weight[:4].detach())
    with pytest.raises(ValueError, match="holds 4 of 8 classes, the part of one rank"):
        save_pretrained(network(num_classes=0), tmp_path, head=head, **ABOUT)


def test_a_compiled_network_is_saved_under_its_own_names(tmp_path: Path) -> None:
    model = network()
    save_pretrained(torch.compile(model), tmp_path, **ABOUT)  # type: ignore[arg-type]
    assert same_weights(model, facezoo.create_model(f"local-dir:{tmp_path}"))


def test_what_is_not_saved(tmp_path: Path) -> None:
    model = network()
    with pytest.raises(ValueError, match=r"license is missing.*Pass license="):
        save_pretrained(model, tmp_path / "a")
    with pytest.raises(ValueError, match="FeatureNetwork has no config"):
        save_pretrained(facezoo.create_model(NAME, features_only=True), tmp_path / "a", **ABOUT)
    with pytest.raises(ValueError, match="Linear has no config"):
        save_pretrained(nn.Linear(2, 2), tmp_path / "a", **ABOUT)
    with pytest.raises(ValueError, match="Linear cannot be saved beside"):
        save_pretrained(model, tmp_path / "a", head=nn.Linear(2, 2), **ABOUT)
    with pytest.raises(ValueError, match="2 class names for a classifier of 3"):
        save_pretrained(model, tmp_path / "a", classes=("a", "b"), **ABOUT)
    with torch.no_grad():
        model.head.embedding.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"NaN or infinity, first of them head\.embedding\.weight"):
        save_pretrained(model, tmp_path / "a", **ABOUT)
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        save_pretrained(network(), tmp_path / "file", **ABOUT)


def test_without_a_card_no_license_is_needed(tmp_path: Path) -> None:
    model = network()
    assert save_pretrained(model, tmp_path, card=False).license is None
    assert not (tmp_path / "README.md").exists()
    assert same_weights(model, facezoo.create_model(f"local-dir:{tmp_path}"))


# --- folders that are not right


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_pretrained(network(), tmp_path / "net", **ABOUT)
    return tmp_path / "net"


def change_config(folder: Path, **changes: Any) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **changes}))


def error_of(name: str | Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        facezoo.create_model(name if isinstance(name, str) else f"local-dir:{name}", **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {"format_version": 2, "facezoo_version": "9.1"},
            ["newer facezoo (9.1, format 2)", "pip install --upgrade facezoo"],
        ),
        ({"format_version": "1"}, ["damaged", "format_version is '1'"]),
        ({"format": "timm"}, ["not written by facezoo", "load_checkpoint"]),
        (
            {"model": {"name": "pretrained_test_nett"}},
            ["does not have", "did you mean 'pretrained_test_net'", "Import the package"],
        ),
        ({"model": {"name": NAME, "num_clases": 3}}, ["unknown argument 'num_clases'", "did you mean 'num_classes'"]),
        ({"model": {"name": NAME, "checkpoint_path": "/etc/passwd"}}, ["unknown argument 'checkpoint_path'"]),
        ({"model": {}}, ["damaged", "'name' is missing"]),
        ({"model": {"name": NAME, "embedding_dim": 6}}, ["does not fit", "local-dir:"]),
        ({"preprocessing": {"meen": [0.5]}}, ["damaged", "meen"]),
        ({"sha256": "0" * 64}, ["model.safetensors", "SHA-256 is", "expected " + "0" * 64]),
    ],
)
def test_a_config_that_is_not_right(folder: Path, changes: dict[str, Any], parts: list[str]) -> None:
    change_config(folder, **changes)
    message = error_of(folder)
    for part in parts:
        assert part in message


def test_fields_of_other_programs_are_left_alone(folder: Path) -> None:
    change_config(folder, architectures=["Net"])
    assert same_weights(network(), facezoo.create_model(f"local-dir:{folder}"))


def test_a_config_that_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert "config.json of local-dir:" in error_of(folder)
    (folder / "config.json").write_text("[]")
    assert "not written by facezoo" in error_of(folder)


def test_files_that_are_missing_or_swapped(folder: Path) -> None:
    digest = sha256_of(folder / "model.safetensors")
    save_file_atomic(folder / "model.safetensors", network(1).state_dict())
    message = error_of(folder)
    assert digest in message
    assert sha256_of(folder / "model.safetensors") in message
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = error_of(folder)
    assert "has no model.safetensors (it holds README.md, config.json, pytorch_model.bin)" in message
    assert "no pickles" in message
    (folder / "config.json").unlink()
    assert "has no config.json" in error_of(folder)
    shutil.rmtree(folder)
    assert "is not a folder" in error_of(folder)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('unpickled')",))


@pytest.mark.parametrize("write", ["torch", "pickle"])
def test_nothing_is_unpickled(folder: Path, write: str) -> None:
    path = folder / "model.safetensors"
    if write == "torch":
        torch.save({**network().state_dict(), "bomb": Bomb()}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb()))
    change_config(folder, sha256=sha256_of(path))
    message = error_of(folder)
    assert "nothing is unpickled" in message
    assert str(path) in message


# --- the card


def test_the_card(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    model = network()
    save_pretrained(model, tmp_path, **ABOUT, figures=FIGURES)
    text = (tmp_path / "README.md").read_text()
    data = ModelCard(text).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "facezoo", "image-feature-extraction")
    assert data.tags == ["facezoo", "face-recognition", "face-verification", "tests"]
    results = [
        (entry.dataset_name, entry.metric_name, entry.metric_value, entry.source_url) for entry in data.eval_results
    ]
    assert results == [
        ("LFW", "accuracy", 0.9912, "https://example.org/run7"),
        ("CFP-FP", "TAR at FAR 1e-4", 0.5, None),
    ]
    profile = profile_network(model)
    assert f"| Parameters | {profile.params:,} |" in text
    assert f"| Multiply-accumulates | {profile.macs:,} for one image of 16×16 |" in text
    assert f"`{sha256_of(tmp_path / 'model.safetensors')}`" in text
    assert "| CFP-FP | TAR at FAR 1e-4 | 0.5 | table 2 \\| row 3 |" in text
    assert "template `mtcnn`" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("name", ["se_resnet50", "iresnet18", "convnext_tiny", "swin_tiny", "vit_t"])
def test_cost_on_the_card_is_that_of_the_profile(name: str) -> None:
    from facezoo.weights.card import network_cost

    with torch.device("meta"):
        model = facezoo.create_model(name, num_classes=10)
    profile = profile_network(model)
    assert network_cost(model) == (profile.params, profile.macs)


def test_a_license_with_special_characters_is_still_yaml(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    save_pretrained(network(), tmp_path, license='other: "mine" # ö', source="s")
    assert ModelCard((tmp_path / "README.md").read_text()).data.license == 'other: "mine" # ö'


# --- the Hub


def test_push_and_load(hub: HubServer) -> None:
    model = network()
    record = push_to_hub(model, "me/First_Net", figures=FIGURES, **ABOUT)
    commit, files = hub.files("me/First_Net") or ("", {})
    assert len(hub.commits["me/First_Net"]) == 1
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    assert 'create_model("hf-hub:me/First_Net")' in files["README.md"].decode()
    assert (record.tag, record.revision, record.license, record.figures) == ("first_net", commit, "apache-2.0", FIGURES)
    assert "me/First_Net" not in hub.private
    loaded = facezoo.create_model("hf-hub:me/First_Net")
    assert same_weights(model, loaded)
    assert loaded.preprocessing == model.preprocessing

    register_weights(record)
    push_to_hub(network(1), "me/First_Net", **ABOUT)  # the record is of a commit, which stays
    for wanted in (True, "first_net"):
        registered = facezoo.create_model(NAME, pretrained=wanted)
        assert same_weights(model, registered)
        assert registered.preprocessing == model.preprocessing
    assert same_weights(network(1), facezoo.create_model("hf-hub:me/First_Net"))
    assert same_weights(model, facezoo.create_model(f"hf-hub:me/First_Net@{commit}"))


def test_all_files_are_of_one_commit(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody pushes other weights just after config.json has been read."""
    push_to_hub(network(), "me/busy", **ABOUT)
    read = PretrainedConfig.read

    def read_and_push(path: Path, origin: str) -> PretrainedConfig:
        push_to_hub(network(1), "me/busy", **ABOUT)
        return read(path, origin)

    monkeypatch.setattr(PretrainedConfig, "read", read_and_push)
    assert same_weights(network(), facezoo.create_model("hf-hub:me/busy"))
    monkeypatch.undo()
    assert same_weights(network(1), facezoo.create_model("hf-hub:me/busy"))


def test_pushing_with_margin_head_in_private(hub: HubServer) -> None:
    head = facezoo.create_margin("arcface", embedding_dim=5, num_classes=3)
    push_to_hub(network(), "me/secret", head=head, private=True, tag="s", message="By the tests", **ABOUT)
    assert "me/secret" in hub.private
    trained = facezoo.training.load_trained("hf-hub:me/secret")
    assert torch.equal(trained.head.weight, head.weight)


def test_pushing_with_calibration(hub: HubServer, tmp_path: Path) -> None:
    from facezoo.evaluation.calibration import Calibration, find_calibration, fit_calibration

    calibration = fit_calibration([0.9, 0.8, 0.1, 0.2], [1, 1, 0, 0], pairs="p", bootstrap=0)
    calibration.save(tmp_path / "mine.json")
    push_to_hub(network(), "me/calibrated", calibration=tmp_path / "mine.json", **ABOUT)
    found = find_calibration(facezoo.training.load_trained("hf-hub:me/calibrated").path)
    assert found is not None
    assert Calibration.load(found).points == calibration.points
    push_to_hub(network(), "me/plain", **ABOUT)
    assert find_calibration(facezoo.training.load_trained("hf-hub:me/plain").path) is None


def test_a_record_of_a_file_of_another_library(hub: HubServer, tmp_path: Path) -> None:
    """Somebody's timm file, without a config.json: the record says it all."""
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("resnet18", num_classes=10)
    save_file_atomic(tmp_path / "model.safetensors", theirs.state_dict())
    content = (tmp_path / "model.safetensors").read_bytes()
    commit = hub.commit("timm-like/resnet18", {"weights/model.safetensors": content})
    record = a_record(
        model="resnet18",
        tag="of-the-tests",
        repository="timm-like/resnet18",
        revision=commit,
        file="weights/model.safetensors",
        sha256=sha256_of(tmp_path / "model.safetensors"),
        layout="timm",
        model_args={"stem": "imagenet", "embedding_dim": None, "num_classes": 10},
        preprocessing=Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), alignment="none"),
    )
    register_weights(record)
    try:
        loaded = facezoo.create_model("resnet18", pretrained="of-the-tests").eval()
        assert loaded.preprocessing == record.preprocessing
        images = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(loaded(images), theirs.eval()(images), rtol=1e-4, atol=1e-4)
        other = facezoo.create_model("resnet18", pretrained="of-the-tests", num_classes=4, embedding_dim=512)
        assert other.classifier.weight.shape == (4, 512)
        assert torch.equal(other.stem.conv.conv.weight, loaded.stem.conv.conv.weight)
    finally:
        records.WEIGHTS.unregister("resnet18.of-the-tests")


def test_a_file_that_is_not_the_one_of_the_record(hub: HubServer) -> None:
    record = push_to_hub(network(), "me/swapped", **ABOUT)
    register_weights(dataclasses.replace(record, sha256="f" * 64))
    message = error_of(NAME, pretrained=True)
    for part in (f"weights {NAME}.swapped", "model.safetensors", record.sha256, "f" * 64, "delete the file"):
        assert part in message


def test_what_is_not_on_the_hub(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no repository me/nothing" in error_of("hf-hub:me/nothing")
    hub.commit("me/foreign", {"pytorch_model.bin": b"", "README.md": b""})
    assert "me/foreign has no config.json, so it was not written by facezoo" in error_of("hf-hub:me/foreign")
    assert "has no revision 'v9'" in error_of("hf-hub:me/foreign@v9")
    push_to_hub(network(), "me/other", **ABOUT)
    config = (hub.files("me/other") or ("", {}))[1]["config.json"]
    hub.commit("me/pickled", {"config.json": config, "pytorch_model.bin": b""})
    message = error_of("hf-hub:me/pickled")
    assert "me/pickled@" in message
    assert "has no model.safetensors. facezoo reads safetensors only, never pickles" in message
    hub.commit("me/gated", {"config.json": config})
    hub.gated.add("me/gated")
    message = error_of("hf-hub:me/gated")
    assert "ask for access" in message
    assert "hf auth login" in message
    with monkeypatch.context() as environment:
        environment.setenv("HF_TOKEN", "hf_expired")
        message = error_of("hf-hub:me/gated")
    assert "gives no access to me/gated" in message
    assert "hf auth login" in message
    with pytest.raises(HubError, match=r"pytorch_model\.bin is refused"):
        download("me/pickled", "pytorch_model.bin")


def test_what_the_hub_refuses(hub: HubServer) -> None:
    before = len(hub.requests)
    wrong = {
        "license": ("", "license is missing"),
        "source": (" ", "source is empty"),
        "tag": ("A", "a tag consists of"),
    }
    for field, (value, message) in wrong.items():
        with pytest.raises(ValueError, match=message):
            push_to_hub(network(), "me/refused", **{**ABOUT, field: value})
    with pytest.raises(ValueError, match="'owner/name'"):
        push_to_hub(network(), "refused", **ABOUT)
    assert len(hub.requests) == before, "what is wrong shows before anything is sent"
    with pytest.raises(HubError, match=r"not allowed to write to me/refused.*HF_TOKEN"):
        push_to_hub(network(), "me/refused", token="hf_wrong", **ABOUT)
    with pytest.raises(HubError, match="not allowed to write to somebody-else/net"):
        push_to_hub(network(), "somebody-else/net", **ABOUT)
    with pytest.raises(HubError, match='"license" must be one of'):
        push_to_hub(network(), "me/refused", **{**ABOUT, "license": "no-license-at-all"})
    assert "me/refused" not in hub.commits or not hub.commits["me/refused"]


def test_cache_offline_and_a_hub_that_is_down(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push_to_hub(network(), "me/cached", **ABOUT)
    push_to_hub(network(), "me/uncached", **ABOUT)
    home = tmp_path / "home"
    with hub_client(hub.endpoint, home):
        facezoo.create_model("hf-hub:me/cached")
        assert (home / "hub" / "models--me--cached").is_dir()
        hub.requests.clear()
        facezoo.create_model("hf-hub:me/cached")
        assert not [request for request in hub.requests if request.startswith("GET /me")], "it was in the cache"
        assert not [request for request in hub.requests if "/storage/" in request]
    hub.requests.clear()
    with hub_client(hub.endpoint, home, HF_HUB_OFFLINE="1"):
        assert same_weights(network(), facezoo.create_model("hf-hub:me/cached"))
        message = error_of("hf-hub:me/uncached")
        assert "HF_HUB_OFFLINE forbids" in message
        assert str(home) in message
        with pytest.raises(HubError, match="HF_HUB_OFFLINE forbids to upload"):
            push_to_hub(network(), "me/cached", **ABOUT)
    assert hub.requests == []
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # huggingface_hub waits between its attempts
    with unused_endpoint() as nowhere, hub_client(nowhere, home):
        assert same_weights(network(), facezoo.create_model("hf-hub:me/cached"))
        message = error_of("hf-hub:me/uncached")
        for part in ("config.json of me/uncached", nowhere, "cannot be reached", "HF_ENDPOINT", "local-dir:path"):
            assert part in message
        with pytest.raises(HubError, match=r"could not upload to me/cached.*cannot be reached.*push again"):
            push_to_hub(network(), "me/cached", **ABOUT)
    hub.broken = True
    try:
        with hub_client(hub.endpoint, home):
            assert "cannot be reached or broke off (" in error_of("hf-hub:me/uncached")
            with pytest.raises(HubError, match=r"refused the upload to me/cached.*500"):
                push_to_hub(network(), "me/cached", **ABOUT)
    finally:
        hub.broken = False


@pytest.mark.parametrize(
    ("fault", "told"),
    [("500", "500"), ("cut", "Consistency check failed"), ("reset", "body"), ("silent", "timed out")],
)
def test_the_weights_do_not_arrive(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, told: str
) -> None:
    """config.json does, from another host; nothing half is left that would be taken for the whole."""
    push_to_hub(network(), "me/unlucky", **ABOUT)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with hub_client(hub.endpoint, tmp_path):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
        monkeypatch.setattr(hub, "storage_fault", fault)
        message = error_of("hf-hub:me/unlucky")
        for part in ("could not download model.safetensors of me/unlucky@", hub.endpoint, told, "local-dir:path"):
            assert part in message
        assert not list((tmp_path / "hub").rglob("model.safetensors"))
        monkeypatch.setattr(hub, "storage_fault", "")
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 10)
        assert same_weights(network(), facezoo.create_model("hf-hub:me/unlucky"))


def test_weights_that_somebody_swapped_behind_their_config(hub: HubServer) -> None:
    push_to_hub(network(), "me/tampered", **ABOUT)
    _, files = hub.files("me/tampered") or ("", {})
    push_to_hub(network(1), "me/theirs", **ABOUT)
    _, theirs = hub.files("me/theirs") or ("", {})
    commit = hub.commit("me/tampered", {"model.safetensors": theirs["model.safetensors"]})
    message = error_of("hf-hub:me/tampered")
    wanted, got = (hashlib.sha256(f["model.safetensors"]).hexdigest() for f in (files, theirs))
    for part in ("not the file that was published", commit, f"SHA-256 is {got}, expected {wanted}", "do not trust it"):
        assert part in message


@contextlib.contextmanager
def unused_endpoint() -> Iterator[str]:
    """An address where nobody listens while the context lasts."""
    import socket

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # taken, but not listening
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


# --- the command line


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from facezoo.cli import main

    assert main(["info", NAME]) == 0
    assert "weights" not in capsys.readouterr().out.splitlines()[1]
    assert main(["models", "--pretrained", "pretrained_test*"]) == 2
    assert "with weights" in capsys.readouterr().err
    register_weights(a_record(figures=FIGURES, description="Of the tests."))
    assert main(["info", NAME]) == 0
    figures = "LFW accuracy 0.9912; CFP-FP TAR at FAR 1e-4 0.5"
    line = f"weights {NAME}.first: Of the tests., me/net@main, license mit, {figures}, never loaded"
    assert line in capsys.readouterr().out.splitlines()
    assert main(["models", "--pretrained", "pretrained_test*"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == [NAME, "first"]
    save_pretrained(network(), tmp_path / "net", **ABOUT)
    from PIL import Image

    Image.new("RGB", (16, 16), "red").save(tmp_path / "face.png")
    face = str(tmp_path / "face.png")
    assert (
        main(["verify", f"local-dir:{tmp_path}/net", face, face, "--threshold", "0.5", "--json", "--device", "cpu"])
        == 0
    )
    assert json.loads(capsys.readouterr().out)["cosine"] == pytest.approx(1.0, abs=1e-5)


# --- beside huggingface_hub's own mixin


def test_files_of_the_mixin(tmp_path: Path) -> None:
    from huggingface_hub import PyTorchModelHubMixin
    from safetensors.torch import load_model

    class Theirs(nn.Module, PyTorchModelHubMixin):  # type: ignore[misc]
        def __init__(self, embedding_dim: int = 8) -> None:
            super().__init__()
            self.net = facezoo.create_model("mobilenet_v2_035", embedding_dim=embedding_dim)

    torch.manual_seed(0)
    theirs = Theirs()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = facezoo.create_model("mobilenet_v2_035", embedding_dim=8)
    facezoo.load_checkpoint(ours, tmp_path / "theirs" / "model.safetensors")
    assert all(torch.equal(value, theirs.net.state_dict()[key]) for key, value in ours.state_dict().items())

    save_pretrained(ours, tmp_path / "ours", license="mit", source="a test")
    assert {path.name for path in (tmp_path / "ours").iterdir()} == {
        path.name for path in (tmp_path / "theirs").iterdir()
    }
    again = facezoo.create_model(**json.loads((tmp_path / "ours" / "config.json").read_text())["model"])
    assert load_model(again, tmp_path / "ours" / "model.safetensors") == (set(), [])
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in again.state_dict().items())
