"""Weights out of ONNX files: the authors' networks, exported as they export them, into facezoo's."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peer_networks import InsightfaceIResNet, InsightfaceMobileFaceNet
from PIL import Image
from torch import nn

import facezoo
from choosing import others_in_ci
from facezoo.cli import main
from facezoo.weights import CheckpointError, get_weights, load_checkpoint
from facezoo.weights.pins import weights_folder

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def lively(network: nn.Module) -> nn.Module:
    """Statistics, scales and slopes of its own in every channel, so that a layer in the wrong place shows."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            if module.weight is not None and module.weight.requires_grad:
                nn.init.uniform_(module.weight, 0.5, 1.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.1)
        elif isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.1, 0.4)
    return network.eval()


def write(network: nn.Module, path: Path, *, folded: bool = True, size: int = 112) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mode = torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, size, size),),
            path,
            dynamo=False,
            opset_version=12,
            training=mode,
            do_constant_folding=folded,
        )
    return path


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "iresnet18": InsightfaceIResNet,
    "mobilefacenet": InsightfaceMobileFaceNet,
}


@pytest.fixture(scope="module", params=others_in_ci(NETWORKS, ("mobilefacenet",)))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    torch.manual_seed(0)
    network = lively(NETWORKS[request.param]())
    return request.param, network, write(network, tmp_path_factory.mktemp("onnx") / "theirs.onnx")


def operations(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_folded_norms_are_undone(exported: tuple[str, Any, Path]) -> None:
    name, theirs, path = exported
    assert 0 <= operations(path).count("BatchNormalization") <= 10  # of 30 and 50
    model = facezoo.create_model(name)
    before = [module.training for module in model.modules()]
    report = load_checkpoint(model, path)
    assert report.source == "onnx"
    assert report.loaded == sum(not key.endswith(".num_batches_tracked") for key in model.state_dict())
    assert [module.training for module in model.modules()] == before
    images = torch.randn(3, 3, 112, 112)
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(images), theirs(images), rtol=1e-4, atol=1e-5)
    classes = facezoo.create_model(name, num_classes=4)
    own = classes.classifier.weight.clone()
    with pytest.raises(CheckpointError, match=r"without num_classes, or pass replace=\('classifier',\)"):
        load_checkpoint(classes, path)
    assert load_checkpoint(classes, path, replace=("classifier",)).replaced == ("classifier",)
    assert torch.equal(classes.classifier.weight, own)
    assert torch.equal(classes.stem.conv.conv.weight, model.stem.conv.conv.weight)
    with pytest.raises(ValueError, match="leave out source='insightface'"):
        load_checkpoint(model, path, source="insightface")


def test_norms_that_were_not_folded_are_taken_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = lively(InsightfaceIResNet())
    path = write(theirs, tmp_path / "whole.onnx", folded=False)
    assert operations(path).count("BatchNormalization") == sum(
        isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in theirs.modules()
    )
    model = facezoo.create_model("iresnet18").eval()
    load_checkpoint(model, path)
    assert torch.equal(model.stages[2].blocks[1].conv1.norm.running_var, theirs.layer3[1].bn2.running_var)
    images = torch.randn(1, 3, 112, 112)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), theirs(images), rtol=1e-4, atol=1e-5)


def changed(path: Path, out: Path, change: Callable[[Any], None]) -> Path:
    proto = onnx.load(path)
    change(proto)
    out.write_bytes(proto.SerializeToString())
    return out


def test_what_does_not_fit_is_refused(exported: tuple[str, Any, Path], tmp_path: Path) -> None:
    name, _, path = exported
    model = facezoo.create_model(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}

    def flat(proto: Any) -> None:  # the slopes of one layer
        tensors = {entry.name: entry for entry in proto.graph.initializer}
        slopes = [tensors[node.input[1]] for node in proto.graph.node if node.op_type == "PRelu"]
        other = slopes[-1]
        other.raw_data = bytes(len(other.raw_data))

    def scaled(proto: Any) -> None:  # what the network does besides its layers
        node = proto.graph.node[-1]
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1.01), "factor"))
        made, node.output[0] = node.output[0], "inside"
        proto.graph.node.append(onnx.helper.make_node("Mul", ["inside", "factor"], [made]))

    def outside(proto: Any) -> None:
        tensor = proto.graph.initializer[0]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="elsewhere")

    def cut(proto: Any) -> None:
        tensor = next(entry for entry in proto.graph.initializer if len(entry.dims) == 4)
        tensor.raw_data = tensor.raw_data[:-4]

    other = "mobilefacenet" if name != "mobilefacenet" else "iresnet18"
    out = tmp_path / "changed.onnx"
    for wrong, model_, message in (
        (changed(path, out, scaled), model, "its layers have their places .* but the outputs differ by"),
        (changed(path, tmp_path / "o.onnx", outside), model, "in other files, which facezoo does not open"),
        (changed(path, tmp_path / "c.onnx", cut), model, "is damaged"),
        (path, facezoo.create_model(other), f"does not fit this {other}: the file has no "),
        (path, facezoo.create_model(name, embedding_dim=64), "no Gemm of 64×"),
    ):
        with pytest.raises(CheckpointError, match=message) as error:
            load_checkpoint(model_, wrong)
        assert "\n" not in str(error.value)
    load_checkpoint(model, changed(path, tmp_path / "s.onnx", flat))  # another network, and a consistent one
    model.load_state_dict(before)
    (tmp_path / "text.onnx").write_bytes(b"\x08\x07\x12\x01" + bytes(40))
    for name_, message in (("text.onnx", "not a readable ONNX file|graph is empty"), ("none.onnx", "does not exist")):
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(model, tmp_path / name_)
    (tmp_path / "pointer.onnx").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        load_checkpoint(model, tmp_path / "pointer.onnx")
    with pytest.raises(CheckpointError, match="whole networks of facezoo"):
        load_checkpoint(nn.Linear(2, 2), path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_one_layer_more_or_less(tmp_path: Path) -> None:
    """A file of a deeper network has layers left over, one of a shallower network lacks some."""
    torch.manual_seed(0)
    deeper = write(lively(InsightfaceIResNet((2, 2, 3, 2))), tmp_path / "deeper.onnx")
    model = facezoo.create_model("iresnet18")
    with pytest.raises(CheckpointError, match=r"of its layers have no place in it, first a .*--model NAME"):
        load_checkpoint(model, deeper)


def test_insightface_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's download of a pack, converted once."""
    monkeypatch.setenv("FACEZOO_HOME", str(tmp_path / "home"))
    torch.manual_seed(0)
    theirs = lively(InsightfaceMobileFaceNet())
    path = write(theirs, tmp_path / "w600k_mbf.onnx")
    record = get_weights("mobilefacenet", "buffalo_s")
    with pytest.raises(CheckpointError, match="its SHA-256 is not known"):
        facezoo.weights.fetch_weights(record)
    assert main(["convert", str(path), "--model", "mobilefacenet", "--pretrained", "buffalo_s", "--quiet"]) == 0
    facezoo.weights.fetching._notice.cache_clear()
    with pytest.warns(facezoo.weights.LicenseNotice, match="non-commercial research only"):
        model = facezoo.create_model("mobilefacenet", pretrained="buffalo_s")
    images = torch.randn(1, 3, 112, 112)
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(images), theirs(images), rtol=1e-4, atol=1e-5)
    assert model.preprocessing == dataclasses.replace(record.preprocessing)
    assert (weights_folder(record) / "model.safetensors").is_file()


def test_a_foreign_file_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever a network is wanted; its preprocessing is said on the command line."""
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.Flatten(), nn.Linear(4 * 4 * 4, 8)).eval()
    path = write(theirs, tmp_path / "foreign.onnx", size=16)
    pictures = []
    draw = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / name)
        pictures.append(str(tmp_path / name))
    assert main(["embed", str(path), *pictures, "--out", str(tmp_path / "e.safetensors")]) == 2
    assert "--mean and --std" in capsys.readouterr().err
    said = ["--mean", "0.5", "--std", "0.25", "--channel-order", "bgr"]
    assert main(["embed", str(path), *said, *pictures, "--out", str(tmp_path / "e.safetensors"), "--quiet"]) == 0
    (got,) = (v for v in facezoo.weights.read_state_dict(tmp_path / "e.safetensors").values() if v.is_floating_point())
    pixels = torch.stack([torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1) for file in pictures])
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(theirs((pixels.flip(1) / 255 - 0.5) / 0.25))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert main(["embed", str(path), *said, "--embedding-dim", "4", *pictures, "--out", str(tmp_path / "f.npz")]) == 2
    assert "--embedding-dim" in capsys.readouterr().err


def test_tensors_whose_sizes_contradict_each_other(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = write(lively(InsightfaceIResNet()), tmp_path / "whole.onnx", folded=False)

    def shorter(place: int) -> Callable[[Any], None]:
        """The given input of every batch norm behind a convolution loses a number."""

        def change(proto: Any) -> None:
            tensors = {entry.name: entry for entry in proto.graph.initializer}
            made = {node.output[0]: node.op_type for node in proto.graph.node}
            norms = [
                n for n in proto.graph.node if n.op_type == "BatchNormalization" and made.get(n.input[0]) == "Conv"
            ]
            for place_ in range(1, 5) if place == 0 else (place,):
                tensor = tensors[norms[0].input[place_]]
                values = onnx.numpy_helper.to_array(tensor)[:-1]
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

        return change

    for place, message in (
        (0, "a batch norm of 63 reads 64 channels"),
        (2, "in the form that|no place|differ|cannot be run"),
    ):
        with pytest.raises(CheckpointError, match=message) as error:
            load_checkpoint(facezoo.create_model("iresnet18"), changed(path, tmp_path / "c.onnx", shorter(place)))
        assert "\n" not in str(error.value)


def test_a_linear_layer_in_three_nodes(tmp_path: Path) -> None:
    """Some exporters write it as the transposed weight, a product and a sum."""
    torch.manual_seed(0)
    theirs = lively(InsightfaceIResNet())

    def split(proto: Any) -> None:
        (place, gemm) = next((i, node) for i, node in enumerate(proto.graph.node) if node.op_type == "Gemm")
        image, weight, bias = gemm.input
        made = gemm.output[0]
        del proto.graph.node[place]
        nodes = [
            onnx.helper.make_node("Transpose", [weight], ["turned"], perm=[1, 0]),
            onnx.helper.make_node("MatMul", [image, "turned"], ["product"]),
            onnx.helper.make_node("Add", ["product", bias], [made]),
        ]
        for node in reversed(nodes):
            proto.graph.node.insert(place, node)

    path = changed(write(theirs, tmp_path / "one.onnx", folded=False), tmp_path / "three.onnx", split)
    model = facezoo.create_model("iresnet18").eval()
    load_checkpoint(model, path)
    images = torch.randn(1, 3, 112, 112)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), theirs(images), rtol=1e-4, atol=1e-5)
