"""The records of published weights: complete, as the publishers' own packages say, and loadable from a Hub on loopback."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from hub_server import HubServer
from layouts import LAYOUTS, Layout
from PIL import Image
from safetensors.torch import save
from torch import nn

import facezoo
from facezoo.cli import main
from facezoo.counting import without_storage
from facezoo.data import eval_transform
from facezoo.deploy.checking import LFWCheck, check_weights, fingerprint
from facezoo.deploy.converting import convert_registered
from facezoo.deploy.networks import is_random, open_network
from facezoo.models.network import DEFAULTS
from facezoo.synthetic import SyntheticFaces
from facezoo.weights import (
    CheckpointError,
    HubError,
    LicenseNotice,
    Preprocessing,
    WeightsRecord,
    fetch_weights,
    fetching,
    get_weights,
    list_weights,
    records,
    sha256_of,
)
from facezoo.weights.hub import download
from facezoo.weights.pins import Pin, lock_file, read_pin, weights_folder, write_pin

RECORDS = list_weights()
FACES = list_weights(kind="face")
DOWNLOADABLE = [record for record in FACES if record.downloadable]
SMALL = ("vit_tiny_patch8", "convnext_atto_p2")  # the others take seconds each
TINY = get_weights("vit_tiny_patch8", "arcface_ms1mv3")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FACEZOO_HOME", str(tmp_path / "facezoo_home"))
    fetching._notice.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LicenseNotice)
        yield tmp_path / "facezoo_home"


def layout_of(record: WeightsRecord) -> Layout:
    """The publisher's own network."""
    fitting = [layout for layout in LAYOUTS if layout.model == record.model]
    if record.kind == "face":
        return next(layout for layout in fitting if not layout.adapter.startswith(("facezoo", "insightface_pytorch")))
    same_keys = (
        ("torchvision.resnet",) if record.layout == "timm" else ()
    )  # without attention, timm's are torchvision's
    sources = (f"{record.layout}.", *same_keys)
    return next(layout for layout in fitting if layout.adapter.startswith(sources))


def content_of(record: WeightsRecord) -> bytes:
    """A safetensors file with the names and shapes of the publisher's, and zeros."""
    if record.group == "timm":
        with without_storage():
            own = timm.create_model(record.repository.removeprefix("timm/"))
        shapes = {key: tuple(value.shape) for key, value in own.state_dict().items()}
    else:
        shapes = layout_of(record).shapes()
    if record.layout == "cvlface":
        shapes = {f"model.net.{key}": shape for key, shape in shapes.items()}
    counters = {key for key in shapes if key.endswith("num_batches_tracked")}
    return save(
        {
            key: torch.zeros(shape, dtype=torch.int64 if key in counters else torch.float32)
            for key, shape in shapes.items()
        }
    )


# --- what the records say


def test_there_are_faces_and_starts_for_every_family() -> None:
    assert len({record.name for record in RECORDS}) == len(RECORDS)
    assert {record.group for record in FACES} == {
        *("CVLface", "timm-face", "EdgeFace", "insightface", "AuraFace", "facenet-pytorch"),
        "MobileFaceNets of single authors",
    }
    assert {record.group for record in RECORDS if record.kind == "imagenet"} == {"timm", "torchvision"}
    families = {facezoo.models.get_model_spec(record.model).family for record in list_weights(kind="imagenet")}
    published = {
        facezoo.models.get_model_spec(layout.model).family
        for layout in LAYOUTS
        if layout.arguments.get("num_classes") == 1000
    }
    assert published - families == set()
    assert {"resnet", "convnext", "vit", "swin", "vgg", "densenet", "regnet", "efficientnet", "edgenext"} <= families


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_a_record_is_complete(record: WeightsRecord) -> None:
    assert set(record.model_args) <= set(DEFAULTS)
    spec = facezoo.models.get_model_spec(record.model)
    assert record.model_args.get("stem", "face") in spec.stems
    assert record.revision == "main"  # no commit is known
    assert record.training_data
    assert record.address.startswith("https://")
    if record.downloadable or record.bundled:
        assert not record.convert_command
    else:
        assert f"--model {record.model} --pretrained {record.tag}" in record.convert_command
    if record.status == "measured":
        assert record.sha256 is not None
    assert all(0 < figure.value < 1 for figure in record.figures)
    if record.format == "ONNX":
        assert record.layout == "onnx"
    elif record.kind == "drawn":
        assert record.bundled
        assert record.license == "apache-2.0"
    elif record.kind == "imagenet":
        assert {**layout_of(record).arguments, "img_size": 224} == {**record.model_args, "img_size": 224}
    else:
        layout = layout_of(record)
        assert layout.adapter.startswith(record.layout) or record.layout == "auto"
        size = layout.arguments.get("img_size", 112)
        assert record.preprocessing.img_size == (size if isinstance(size, tuple) else (size, size))
        assert record.model_args.get("embedding_dim") == layout.arguments.get("embedding_dim")


def test_timm_says_the_same() -> None:
    for record in list_weights(kind="imagenet"):
        if record.group != "timm":
            continue
        config = timm.models.get_pretrained_cfg(record.repository.removeprefix("timm/"))
        assert config.hf_hub_id == record.repository
        assert config.license == record.license
        assert config.num_classes == record.model_args["num_classes"]
        images = record.preprocessing
        assert (tuple(config.input_size[1:]), tuple(config.mean), tuple(config.std)) == (
            *(images.img_size, images.mean, images.std),
        )


def test_torchvision_says_the_same() -> None:
    names = {"swin_tiny": "swin_t", "swin_small": "swin_s", "swin_base": "swin_b"}
    for record in list_weights(kind="imagenet"):
        if record.group != "torchvision":
            continue
        weights = torchvision.models.get_model_weights(names.get(record.model, record.model))[record.tag.upper()]
        assert weights.url == record.page
        assert weights.url.endswith(f"/{record.file}")
        assert f"-{record.sha256_begins}." in record.file
        assert record.preprocessing.img_size[0] == weights.transforms().crop_size[0]
        assert record.figures[0].value == pytest.approx(weights.meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256_begins": "12"}, "sha256_begins is 8"),
        ({"kind": "dog"}, "kind is one of face, imagenet, drawn"),
        ({"status": "sure"}, "status is one of measured, layout, never"),
        ({"file": " "}, "file is empty"),
    ],
)
def test_new_fields_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


def test_what_may_be_sold() -> None:
    commercial = list_weights(kind="face", commercial=True)
    assert {record.name for record in commercial} == {"iresnet100.auraface_v1", "mobilefacenet_foamliu.foamliu"}
    assert not get_weights("ir_101", "adaface_webface4m").commercial  # MIT, and more terms
    assert not TINY.commercial  # no license


def test_a_wrong_file_of_records_names_the_record(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(
        json.dumps(
            {
                "group": "G",
                "shared": {"license": "mit", "source": "s"},
                "records": [{"model": "m", "tag": "t", "repo": "a/b"}],
            }
        )
    )
    with pytest.raises(ValueError, match=r"G: weights m\.t: .*repo"):
        records.read_records(path)


# --- first use, and the lock


def test_the_first_use_pins_what_the_hub_says(hub: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = content_of(TINY)
    commit = hub.commit(TINY.repository, {"model.safetensors": content})
    hub.requests.clear()
    model = facezoo.create_model("vit_tiny_patch8", pretrained="arcface_ms1mv3")
    assert model.preprocessing == TINY.preprocessing
    assert not any(tensor.any() for tensor in model.state_dict().values())
    asked = [line for line in hub.requests if "/resolve/" in line]
    assert asked[0].startswith("HEAD")
    assert "/resolve/main/" in asked[0]
    assert all(commit in line for line in asked[1:])
    pin = read_pin(TINY)
    assert pin is not None
    assert (pin.revision, pin.repository, pin.file) == (commit, TINY.repository, "model.safetensors")
    assert pin.sha256 == sha256_of(fetch_weights(TINY).path)
    assert [path.name for path in lock_file(TINY).parent.iterdir()] == ["lock.json"]
    assert str(lock_file(TINY)).startswith(str(home))

    changed = content[:-4] + b"\1\0\0\0"
    newer = hub.commit(TINY.repository, {"model.safetensors": changed})  # published anew: the pinned one stays
    assert fetch_weights(TINY).sha256 == pin.sha256
    assert "now has another model.safetensors" in fetching.newer_file(TINY)

    text = lock_file(TINY).read_text()
    lock_file(TINY).write_text(text.replace(pin.sha256, "e" * 64))
    with pytest.raises(CheckpointError, match=r"not the file that was published.*by .*lock\.json"):
        facezoo.create_model("vit_tiny_patch8", pretrained="arcface_ms1mv3")
    for wrong, message in (
        (text.replace(TINY.repository, "me/other"), "are locked to model.safetensors of me/other"),
        (text.replace(pin.sha256, "e" * 63), "cannot be read"),
        (text.replace('"version": 1', '"version": 2'), "cannot be read"),
        ("{", "cannot be read"),
        ('{"format": "facezoo.lock", "version": 1}', "cannot be read"),
    ):
        lock_file(TINY).write_text(wrong)
        with pytest.raises(CheckpointError, match=message) as error:
            fetch_weights(TINY)
        assert "\n" not in str(error.value)
        assert f"delete {lock_file(TINY)}" in str(error.value)
    lock_file(TINY).write_text(text)
    with pytest.raises(CheckpointError, match="the record says ffff"):
        read_pin(dataclasses.replace(TINY, sha256="f" * 64))

    # without a network: with the lock, and without it by what lies in the cache
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetching.newer_file(TINY) == ""
    hub.requests.clear()
    assert fetch_weights(TINY).sha256 == pin.sha256
    lock_file(TINY).unlink()
    with pytest.raises(
        HubError, match="HF_HUB_OFFLINE forbids"
    ):  # nothing says which of the commits in the cache is meant
        fetch_weights(TINY)
    assert hub.requests == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    download(TINY.repository, TINY.file)  # by another program, say
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = fetch_weights(TINY)
    assert read_pin(TINY).revision == newer == found.path.parent.name  # type: ignore[union-attr]


def test_what_the_hub_announced_is_compared(hub: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = get_weights("vit_tiny_patch8", "cosface_ms1mv3")
    hub.commit(record.repository, {"model.safetensors": content_of(record)})
    monkeypatch.setattr(fetching, "look_up", lambda *_, **__: ("main", "d" * 64))
    with pytest.raises(CheckpointError, match=f"is not the file that {record.repository} announced.*d{{64}}"):
        fetch_weights(record)
    assert not lock_file(record).exists()
    monkeypatch.setattr(fetching, "look_up", lambda *_, **__: ("main", None))  # a small file, of which it says nothing
    fetch_weights(record)
    assert lock_file(record).exists()


def test_what_goes_wrong_on_the_hub(hub: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = get_weights("vit_tiny_patch8", "adaface_ms1mv3")
    with pytest.raises(HubError, match=f"no repository {record.repository}"):
        fetch_weights(record)
    hub.commit(record.repository, {"pytorch_model.bin": b"x"})
    with pytest.raises(HubError, match=r"has no model\.safetensors.*never pickles"):
        fetch_weights(record)
    hub.gated.add(record.repository)
    with pytest.raises(HubError, match="is gated: ask for access"):
        fetch_weights(record)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE forbids"):
        fetch_weights(record)
    assert not home.exists()
    hub.gated.clear()
    del hub.commits[record.repository]


def test_a_folder_that_cannot_be_written(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commit(TINY.repository, {"model.safetensors": content_of(TINY)})
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FACEZOO_HOME", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="set FACEZOO_HOME to a folder that can be written"):
        fetch_weights(TINY)


def test_where_the_locks_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FACEZOO_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights_folder(TINY) == tmp_path / "facezoo" / "weights" / TINY.name
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights_folder(TINY) == Path.home() / ".cache" / "facezoo" / "weights" / TINY.name


@pytest.fixture
def publish(hub: HubServer) -> Iterator[Callable[[WeightsRecord], str]]:
    """Publish a record's whole network; what the Hub and its client have of it is removed after the test, since it is large."""
    published = []

    def publish(record: WeightsRecord) -> str:
        published.append(record.repository)
        return hub.commit(record.repository, {"model.safetensors": content_of(record)})

    yield publish
    hub.objects.clear()
    for repository in published:
        hub.commits.pop(repository)
        shutil.rmtree(Path(os.environ["HF_HOME"]) / "hub" / f"models--{repository.replace('/', '--')}")


def when_face(record: WeightsRecord) -> Any:
    """The small ones by default, one file of each other network in .ci/run, the rest as slow tests."""
    if record.model in SMALL:
        return ()
    first = next(other for other in DOWNLOADABLE if other.model == record.model)
    return pytest.mark.ci if record is first else pytest.mark.slow


@pytest.mark.parametrize(
    "record",
    [pytest.param(entry, marks=when_face(entry)) for entry in DOWNLOADABLE],
    ids=lambda record: record.name,
)
def test_faces_load_from_the_hub(record: WeightsRecord, publish: Callable[[WeightsRecord], str]) -> None:
    commit = publish(record)
    model = facezoo.create_model(record.model, pretrained=record.tag)
    filled = {name for name, tensor in model.state_dict().items() if tensor.any()}
    # The adapter of CVLface's ViT makes up for another epsilon in the two batch norms of the head.
    known = {"head.hidden.norm.running_var", "head.embedding_norm.running_var"}
    assert filled == (known if record.model == "cvlface_vit_base" else set())
    assert model.preprocessing == record.preprocessing
    assert read_pin(record).revision == commit  # type: ignore[union-attr]


STARTS = {record.model: record for record in list_weights(kind="imagenet") if record.downloadable}
SMALL_STARTS = (
    *("convnext_femto", "convnextv2_atto", "edgenext_xx_small", "efficientnet_b0", "mobilenet_v2_050"),
    *("mobilenet_v3_small", "repvgg_a0", "resnet18", "resnet18d", "resnet50", "eca_resnet50d", "se_resnet50"),
    *("resnext50_32x4d", "swin_tiny", "vit_tiny_patch16"),
)


def when_start(model: str) -> Any:
    """By default two, in .ci/run the smallest of each kind, the others as slow tests."""
    if model in ("ghostnet_100", "convnext_atto"):
        return ()
    return pytest.mark.ci if model in SMALL_STARTS else pytest.mark.slow


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(entry, marks=when_start(name))
        for name, entry in STARTS.items()
        if not name.startswith(
            ("resnet200", "convnext_large", "convnextv2_large", "vit_base", "resnext101", "swin_base")
        )
    ],
    ids=lambda record: record.name,
)
def test_starts_load_from_the_hub(record: WeightsRecord, publish: Callable[[WeightsRecord], str]) -> None:
    publish(record)
    model = facezoo.create_model(record.model, pretrained=record.tag)
    assert model.num_classes == 1000
    assert model.preprocessing == record.preprocessing
    faces = facezoo.create_model(record.model, pretrained=record.tag, num_classes=7, embedding_dim=64)
    assert faces.classifier.weight.shape == (7, 64)


# --- licenses


def test_a_license_is_said_once(hub: HubServer, home: Path) -> None:
    hub.commit(TINY.repository, {"model.safetensors": content_of(TINY)})
    for expected in (1, 0):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            facezoo.create_model("vit_tiny_patch8", pretrained="arcface_ms1mv3")
        said = [str(entry.message) for entry in caught if entry.category is LicenseNotice]
        assert len(said) == expected
        assert all("state no license" in text and TINY.address in text for text in said)
    for record, expected in ((get_weights("ir_18", "adaface_casia"), 1), (get_weights("iresnet100", "auraface_v1"), 0)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fetching.notice_license(record)
        assert len(caught) == expected
        assert all("license mit; the cards ask to follow" in str(entry.message) for entry in caught)


# --- the network that is part of facezoo


def test_the_bundled_network_knows_drawn_faces(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetching, "download", lambda *_, **__: pytest.fail("nothing is downloaded"))
    (record,) = list_weights(kind="drawn")
    assert Path(records.__file__).with_name(record.file).stat().st_size <= 300_000
    with warnings.catch_warnings():
        warnings.simplefilter("error", LicenseNotice)
        model = facezoo.create_model(record.model, pretrained=True).eval()
    # Another population than that of the training, whose people have the seed 23.
    faces = SyntheticFaces(20, 4, seed=7, size=64, difficulty=0.4, transform=eval_transform(model.preprocessing))
    with torch.inference_mode():
        found = torch.nn.functional.normalize(model.embed(torch.stack([image for image, _ in faces])), dim=1)
    same = torch.from_numpy(faces.labels[:, None] == faces.labels[None])
    cosines, own = found @ found.T, ~torch.eye(len(found), dtype=torch.bool)
    assert cosines[same & own].quantile(0.1) > cosines[~same].quantile(0.9)
    assert check_weights(record).as_recorded
    with pytest.raises(ValueError, match=r"need no conversion.*has them"):
        convert_registered("x.pt", record)
    assert main(["models", "resnet10*", "--pretrained"]) == 0
    assert "in facezoo" in capsys.readouterr().out
    with pytest.raises(ValueError, match="its sha256 is known"):
        dataclasses.replace(record, sha256=None)
    for changed in ({"sha256": "0" * 64}, {"file": "gone.safetensors"}):
        with pytest.raises(CheckpointError, match=r"a part of facezoo, is missing or changed: install facezoo again"):
            fetch_weights(dataclasses.replace(record, **changed))


def test_registered_weights_are_opened_by_their_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (record,) = list_weights(kind="drawn")
    network = open_network(record.name)
    assert network.path.name == record.file
    assert not is_random(record.name)
    assert is_random(record.model)
    with pytest.raises(ValueError, match=r"there is no file resnet10_tiny\.drwan"):
        open_network("resnet10_tiny.drwan")
    faces = SyntheticFaces(3, 3, seed=7, size=112, difficulty=0.2)
    for index, (image, label) in enumerate(faces):
        place = tmp_path / ("people" if index % 3 else "new") / faces.classes[label]
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{index}.png")
    gallery = str(tmp_path / "g.safetensors")
    build = (
        "gallery",
        "build",
        str(tmp_path / "people"),
        "--network",
        record.model,
        "--pretrained",
        record.tag,
        "--out",
        gallery,
    )
    assert main(build) == 0
    assert (
        main(["identify", gallery, str(tmp_path / "new"), "--threshold", "0.3"]) == 0
    )  # the gallery knows its network
    said = [line for line in capsys.readouterr().out.splitlines() if "cosine" in line]
    assert [line.partition(": ")[2].split()[0] for line in said] == list(faces.classes)


# --- files that the user downloads


def edgeface() -> nn.Module:
    torch.manual_seed(1)
    return layout_of(get_weights("edgeface_xxs", "idiap")).build().eval()


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().split("\n")
    assert len(error) == 1
    return error[0]


def test_a_pickle_is_converted_by_the_user(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record, theirs = get_weights("edgeface_xxs", "idiap"), edgeface()
    with pytest.raises(CheckpointError) as error:
        facezoo.create_model("edgeface_xxs", pretrained="idiap")
    for part in ("https://huggingface.co/Idiap/EdgeFace-XXS", "pickles can run code", record.convert_command):
        assert part in str(error.value)
    file = tmp_path / "edgeface_xxs.pt"
    torch.save(theirs.state_dict(), file)
    assert main(record.convert_command.replace("edgeface_xxs.pt", str(file)).split()[1:]) == 0
    assert 'create_model("edgeface_xxs", pretrained="idiap") loads it' in capsys.readouterr().out
    model = facezoo.create_model("edgeface_xxs", pretrained="idiap").eval()
    images = torch.randn(2, 3, 112, 112)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), theirs(images), rtol=1e-4, atol=1e-5)
    config = json.loads((weights_folder(record) / "config.json").read_text())
    assert (config["license"], config["source"], len(config["figures"])) == ("cc-by-nc-sa-4.0", record.source, 5)
    assert read_pin(record).sha256 == sha256_of(file)  # type: ignore[union-attr]

    torch.save(
        {key: value + 1 for key, value in theirs.state_dict().items()}, file
    )  # another file, under the same name
    message = error_of(capsys, "convert", str(file), "--model", "edgeface_xxs", "--pretrained", "idiap")
    assert f"{lock_file(record)} says" in message
    message = error_of(capsys, "convert", str(file), "--model", "edgeface_xxs", "--pretrained", "idiap_8bit")
    assert "the record says 46be7cc7" in message
    message = error_of(capsys, "convert", str(file), "--model", "resnet18", "--pretrained", "imagenet1k_v1")
    assert "begins with f37072fd" in message


def test_converting_is_refused(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = str(tmp_path / "w.pt"), str(tmp_path / "out")
    model = facezoo.create_model("edgeface_xxs")
    torch.save(model.state_dict(), file)
    xxs = ("convert", file, "--model", "edgeface_xxs")
    about = ("--license", "mit", "--source", "me")
    assert "registered weights have --license of their own" in error_of(
        capsys, *xxs, "--pretrained", "idiap", "--license", "mit"
    )
    assert "have --img-size of their own" in error_of(capsys, *xxs, "--pretrained", "idiap", "--img-size", "112")
    assert "--out, --license, --source is missing" in error_of(capsys, *xxs)
    assert "need no conversion" in error_of(
        capsys, "convert", file, "--model", "ir_18", "--pretrained", "adaface_casia"
    )
    assert "is not a file; download edgeface_xxs.pt from" in error_of(
        capsys, "convert", "no.pt", "--model", "edgeface_xxs", "--pretrained", "idiap"
    )
    assert "the source is empty" in error_of(capsys, *xxs, "--out", out, "--license", "mit", "--source", " ")
    assert "no.pt is not a file" in error_of(
        capsys, "convert", "no.pt", "--model", "edgeface_xxs", "--out", out, *about
    )
    assert not Path(out).exists()
    images = ("--mean", "0.4,0.5,0.6", "--channel-order", "bgr", "--crop", "0,8,112,104", "--description", "mine")
    assert main([*xxs, "--out", out, *about, *images, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["create_model"] == f'create_model("local-dir:{out}")'
    loaded = facezoo.create_model(f"local-dir:{out}")
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
    made = loaded.preprocessing
    assert (made.mean, made.channel_order, made.crop) == ((0.4, 0.5, 0.6), "bgr", (0, 8, 112, 104))
    assert "has a config.json already" in error_of(capsys, *xxs, "--out", out, *about)
    record = get_weights("edgeface_xxs", "idiap")  # a folder of another network in the place of converted weights
    weights_folder(record).mkdir(parents=True)
    facezoo.weights.save_pretrained(facezoo.create_model("edgeface_xs"), weights_folder(record), license="mit")
    with pytest.raises(CheckpointError, match="holds a edgeface_xs, not weights"):
        fetch_weights(record)


# --- the command line


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--pretrained"]) == 0
    lines = capsys.readouterr().out.splitlines()
    faces = [line for line in lines if line and not line.startswith(("model ", "*", "and "))]
    assert len(faces) == len(FACES) + 1  # and the one that is part of facezoo
    assert any(line.startswith("resnet10_tiny") and "EER 1.95%" in line for line in faces)
    assert any(line.split()[:2] == ["ir_101", "adaface_webface4m"] and "LFW 99.83%" in line for line in faces)
    assert any("PyTorch, convert" in line and "cc-by-nc-sa-4.0" in line for line in faces)
    starts = len(list_weights(kind="imagenet"))
    assert lines[-1].startswith(f"and {starts} trained on ImageNet")
    assert main(["models", "--pretrained", "--starts", "resnet18"]) == 0
    assert "tv_in1k" in capsys.readouterr().out
    assert main(["models", "--pretrained", "--commercial", "--json"]) == 0
    assert {row["tag"] for row in json.loads(capsys.readouterr().out)} == {"auraface_v1", "foamliu", "drawn"}
    assert main(["models", "--pretrained", "--max-params", "2M", "--json"]) == 0
    assert {row["model"] for row in json.loads(capsys.readouterr().out)} == {
        *("edgeface_xxs", "edgeface_xs", "mobilefacenet_foamliu", "mobilefacenet_paper", "resnet10_tiny")
    }
    assert "--commercial and --starts go with --pretrained" in error_of(capsys, "models", "--commercial")
    assert "no model matches 'vit_l*' with weights" in error_of(capsys, "models", "vit_l*", "--pretrained")
    assert main(["info", "ir_18"]) == 0
    assert "follow the license of the training data" in capsys.readouterr().out


@pytest.mark.ci
def test_weights_check(hub: HubServer, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    state = layout_of(TINY).build().state_dict()
    commit = hub.commit(TINY.repository, {"model.safetensors": save(state)})
    assert main(["weights", "check", TINY.name]) == 0
    assert "first check on this machine" in capsys.readouterr().out
    assert main(["weights", "check", "arcface_ms1mv3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cosine"] == pytest.approx(1, abs=1e-5)
    assert found["newer"] == ""
    path = weights_folder(TINY) / "fingerprint.json"
    values = json.loads(path.read_text())
    assert torch.tensor(values["embeddings"]).shape == (3, 512)
    assert values["sha256"] == read_pin(TINY).sha256  # type: ignore[union-attr]
    distances = torch.pdist(torch.tensor(values["embeddings"]))
    assert float(distances.min()) > 1e-3  # three different images

    hub.commit(TINY.repository, {"model.safetensors": save({key: value + 1 for key, value in state.items()})})
    assert main(["weights", "check", TINY.name]) == 0
    assert "now has another model.safetensors" in capsys.readouterr().out
    assert read_pin(TINY).revision == commit  # type: ignore[union-attr]

    first = values["embeddings"][1]
    values["embeddings"][1] = [0.999 * value for value in first]  # rounding changes the sixth digit
    path.write_text(json.dumps(values))
    assert "(cosine 0.9990" in error_of(capsys, "weights", "check", TINY.name)
    values["embeddings"][1] = [-value for value in first]
    path.write_text(json.dumps(values))
    assert "differ from those of the last check (cosine -1.0000" in error_of(capsys, "weights", "check", TINY.name)
    for broken in ("{", '{"format": "facezoo.fingerprint", "version": 1}', '{"format": "x"}'):
        path.write_text(broken)
        assert "cannot be read" in error_of(capsys, "weights", "check", TINY.name)
    path.write_text(json.dumps({**values, "embeddings": [[0.5]] * 3}))
    assert "embeddings of another shape" in error_of(capsys, "weights", "check", TINY.name)
    path.write_text(json.dumps({**values, "sha256": "0" * 64}))  # of a file that was given up
    assert main(["weights", "check", TINY.name, "--quiet"]) == 0
    assert "did you mean" in error_of(capsys, "weights", "check", "vit_tiny_patch8.arcface_ms1mv2")
    assert "models have weights 'imagenet1k_v1'" in error_of(capsys, "weights", "check", "imagenet1k_v1")


# --- weights check: what the record knows, and LFW's pairs, on drawn faces


def drawn_pairs(folder: Path, people: int = 8) -> Path:
    """Pairs of drawn people in LFW's form: two folds of two genuine and two impostor pairs."""
    faces = SyntheticFaces(people, 2, size=112, seed=5)
    for person in range(people):
        (folder / f"P_{person}").mkdir()
        for image in range(2):
            Image.fromarray(faces.render(person, image)).save(folder / f"P_{person}" / f"P_{person}_000{image + 1}.png")
    lines = ["2 2"]
    for first in (0, 4):
        lines += [f"P_{person}\t1\t2" for person in (first, first + 1)]
        lines += [f"P_{person}\t1\tP_{person + 1}\t2" for person in (first, first + 2)]
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")
    return folder / "pairs.txt"


@pytest.fixture
def small(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[WeightsRecord, Any]]:
    """A small network on the Hub, and its record; its BGR weights look at one channel only, the first."""
    torch.manual_seed(0)
    model = facezoo.create_model("mobilenet_v2", embedding_dim=16, img_size=64)
    hub.commit("somebody/small", {"model.safetensors": save(model.state_dict())})
    record = WeightsRecord(
        model="mobilenet_v2",
        tag="small",
        repository="somebody/small",
        revision="main",
        sha256=None,
        license="mit",
        source="this test",
        layout="facezoo",
        model_args={"embedding_dim": 16},
        preprocessing=Preprocessing(img_size=(64, 64), channel_order="bgr", flip="concat"),
        figures=(records.ReportedFigure("LFW", "accuracy", 0.999, "this test"),),
    )
    facezoo.register_weights(record)
    yield record, model.eval()
    with contextlib.suppress(KeyError):
        del records.WEIGHTS._entries[record.name]


def register_anew(record: WeightsRecord) -> None:
    del records.WEIGHTS._entries[record.name]
    facezoo.register_weights(record)


@pytest.mark.ci
def test_weights_check_on_pairs(
    small: tuple[WeightsRecord, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, own = small
    pairs = drawn_pairs(tmp_path)
    assert main(["weights", "check", record.name, "--pairs", str(pairs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (weights_folder(record) / "fingerprint.json").is_file()
    assert (weights_folder(record) / "lock.json").is_file()
    assert found["as_recorded"] is None
    own.preprocessing = record.preprocessing
    listed = facezoo.data.read_lfw_pairs(pairs, tmp_path)
    expected = facezoo.evaluation.evaluate_pairs(own, listed, flip="concat").kfold
    lfw = found["lfw"]
    assert (lfw["accuracy"], lfw["standard_error"]) == (expected.mean, expected.std_error)
    assert lfw["published"] == [0.999]
    assert lfw["difference"] == pytest.approx(expected.mean - 0.999)
    assert lfw["agrees"] is (abs(expected.mean - 0.999) <= 2 * expected.std_error)
    own.preprocessing = dataclasses.replace(record.preprocessing, channel_order="rgb")
    turned = facezoo.evaluation.evaluate_pairs(own, listed, flip="concat").kfold.mean
    assert lfw["reversed_channels"] == (None if lfw["agrees"] else turned)

    register_anew(dataclasses.replace(record, figures=()))
    assert main(["weights", "check", record.name, "--pairs", str(pairs)]) == 0
    assert "the record has no figure to compare with" in capsys.readouterr().out
    exact = records.ReportedFigure("LFW", "accuracy", expected.mean, "this test")
    other = records.ReportedFigure("LFW", "TAR at FAR 1e-4", 0.1, "this test")
    register_anew(dataclasses.replace(record, figures=(other, exact)))
    assert main(["weights", "check", record.name, "--pairs", str(pairs)]) == 0
    assert f"published {expected.mean:.2%}: within two standard errors" in capsys.readouterr().out
    (tmp_path / "flat.txt").write_text("1\nP_0\t1\t2\nP_0\t1\tP_1\t1\n")
    assert "no folds" in error_of(capsys, "weights", "check", record.name, "--pairs", str(tmp_path / "flat.txt"))
    assert "flat2.txt" in error_of(capsys, "weights", "check", record.name, "--pairs", str(tmp_path / "flat2.txt"))


def test_a_check_says_what_it_found() -> None:
    missed = LFWCheck(0.9, 0.01, (0.95, 0.99), 0.94)
    assert missed.agrees is False
    assert str(missed).startswith("LFW: 90.00% ± 1.00%, published 95.00%, 99.00%: -5.00 points, more than two standard")
    assert "With the channels reversed: 94.00%." in str(missed)
    assert LFWCheck(0.9, 0.026, (0.95,)).agrees is True
    assert LFWCheck(0.9, 0.024, (0.95,)).agrees is False


def test_a_recorded_fingerprint_is_compared(
    small: tuple[WeightsRecord, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    record, own = small
    rows = fingerprint(own, record.preprocessing)[:, :4].clone()
    register_anew(dataclasses.replace(record, fingerprint=tuple(tuple(row) for row in rows.tolist())))
    assert main(["weights", "check", record.name]) == 0
    assert "first check on this machine; as the record says" in capsys.readouterr().out
    rows[2, 3] += 0.01
    register_anew(dataclasses.replace(record, fingerprint=tuple(tuple(row) for row in rows.tolist())))
    assert "differ from the record's (by 0.0100" in error_of(capsys, "weights", "check", record.name)
    for wrong in (((0.1,),), ((0.1,), (0.1,), (0.1, 0.2)), ((2.0,),) * 3, ((),) * 3, ("abc",) * 3):
        with pytest.raises(ValueError, match="a fingerprint is three rows"):
            dataclasses.replace(record, fingerprint=wrong)


def test_measured_records_have_fingerprints() -> None:
    for record in FACES:
        assert bool(record.fingerprint) == (record.status == "measured")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (b'{"conf": {"color_space": "RGB"}}', ""),
        (b'{"conf": {"color_space": "BGR"}}', "states color_space bgr, the record rgb"),
        (b'{"conf": {}}', "states no color_space"),
        (b"[1]", "states no color_space"),
        (b"{", "states no color_space"),
        (None, "states no color_space"),
    ],
)
def test_the_channel_order_that_a_repository_states(hub: HubServer, config: bytes | None, said: str) -> None:
    record = get_weights("ir_18", "adaface_casia")
    hub.commits.pop(record.repository, None)
    hub.commit(record.repository, {"model.safetensors": b"x"} | ({} if config is None else {"config.json": config}))
    found = fetching.stated_otherwise(record)
    assert said in found
    assert bool(found) == bool(said)
    assert fetching.stated_otherwise(TINY) == ""  # of another publisher
    hub.commits.pop(record.repository)


def test_the_registry_itself_loads_the_records() -> None:
    """Whatever is done with it first, also removing a record."""
    code = (
        "from facezoo.weights import WEIGHTS, list_weights\n"
        "name = next(iter(WEIGHTS))\n"
        "WEIGHTS.unregister(name)\n"
        "print(len(WEIGHTS), len(list_weights()), name in WEIGHTS)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count = str(len(facezoo.weights.list_weights()) - 1)
    assert run.stdout.split() == [count, count, "False"]


def test_the_channel_order_is_that_of_the_pinned_commit(hub: HubServer) -> None:
    record = get_weights("ir_18", "adaface_casia")
    hub.commits.pop(record.repository, None)
    pinned = hub.commit(record.repository, {"config.json": b'{"conf": {"color_space": "RGB"}}'})
    write_pin(record, Pin(record.repository, record.file, pinned, "a" * 64))
    hub.commit(record.repository, {"config.json": b'{"conf": {"color_space": "BGR"}}'})
    assert fetching.stated_otherwise(record) == ""
    hub.commits.pop(record.repository)
