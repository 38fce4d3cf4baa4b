"""Exported files give the network's outputs, say how their images are made, and are whole or not there."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import facezoo
import tiny_faces  # noqa: F401  (registers the tiny networks)
from facezoo.cli import main
from facezoo.cli.effects import is_exported
from facezoo.data import read_pairs
from facezoo.deploy import ExportedNetwork, ExportError, compare_recognition, exporting, open_network, recognition
from facezoo.evaluation import evaluate_pairs, verification_metrics
from facezoo.evaluation.calibration import network_fingerprint
from facezoo.models import MODELS, Preprocessing
from facezoo.synthetic import SyntheticFaces
from facezoo.weights import save_file_atomic

AsTrained = Callable[..., nn.Module]
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))
needs_onnx = pytest.mark.skipif(
    not HAS_ONNX, reason="the export extra (onnx, onnxruntime, onnxscript) is not installed"
)
FORMATS = [pytest.param("onnx", marks=needs_onnx), "pt2"]


def tiny(as_trained: AsTrained, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return as_trained(facezoo.create_model("tiny_face", img_size=16, embedding_dim=8, **options))


def relative_difference(result: Tensor, expected: Tensor) -> float:
    return float(((result - expected).abs().max() / expected.abs().max()).detach())


@pytest.mark.parametrize("kind", FORMATS)
def test_outputs_and_metadata(kind: str, tmp_path: Path, as_trained: AsTrained) -> None:
    model = tiny(as_trained, num_classes=5)
    model.preprocessing = Preprocessing((16, 16), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "bgr", "arcface")
    report = facezoo.export(model, tmp_path / "deep" / f"net.{kind}")
    assert report.path == tmp_path / "deep" / f"net.{kind}"
    assert (report.format, report.precision, report.num_bytes) == (kind, "float32", report.path.stat().st_size)
    assert 0 <= report.max_rel < 1e-5
    assert report.min_cosine > 0.99999
    assert [path.name for path in report.path.parent.iterdir()] == [f"net.{kind}"]
    network = ExportedNetwork(report.path, threads=1)
    for batch in (1, 2, 7):
        images = torch.randn(batch, 3, 16, 16)
        assert relative_difference(network(images), model.embed(images)) < 1e-5
    assert network.preprocessing == model.preprocessing
    assert network.fingerprint == network_fingerprint(network) == network_fingerprint(model)
    assert network.embedding_dim == 8
    assert network.metadata["model"] == json.loads(json.dumps(model.config))
    assert {key: network.metadata[key] for key in ("facezoo", "output", "precision", "fused")} == {
        "facezoo": facezoo.__version__, "output": "embedding", "precision": "float32", "fused": True,
    }  # fmt: skip
    assert model.stages[0].blocks[0].norm.running_mean is not None  # left alone


@pytest.mark.ci
@needs_onnx
@pytest.mark.skipif(torch.__version__ < (2, 7), reason="torch 2.6 and today's onnxscript disagree about batch norm")
def test_logits_without_fusing_in_onnx_itself(tmp_path: Path, as_trained: AsTrained) -> None:
    import onnx

    model = tiny(as_trained, num_classes=5).to(torch.bfloat16, memory_format=torch.channels_last).train()
    facezoo.export(model, tmp_path / "a.onnx", output="logits", fused=False)
    proto = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(proto, full_check=True)
    (entry,) = proto.graph.input
    assert entry.name == "images"
    assert [dim.dim_param or dim.dim_value for dim in entry.type.tensor_type.shape.dim] == ["batch", 3, 16, 16]
    assert [output.name for output in proto.graph.output] == ["logits"]
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    assert str(Path(facezoo.__file__).parent) not in str(proto.SerializeToString())
    properties = {entry.key: json.loads(entry.value) for entry in proto.metadata_props}
    assert properties["facezoo.fused"] is False
    assert properties["facezoo.preprocessing"]["channel_order"] == "rgb"
    assert model.training
    assert next(model.parameters()).dtype == torch.bfloat16
    images = torch.randn(4, 3, 16, 16)
    assert relative_difference(ExportedNetwork(tmp_path / "a.onnx")(images), model.float().eval()(images)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS.list() if not MODELS[name].family.startswith("tiny")])
def test_every_network_of_the_zoo_as_an_archive(name: str, tmp_path: Path, as_trained: AsTrained) -> None:
    torch.manual_seed(0)  # as ONNX: tests/models/test_contract.py
    facezoo.export(as_trained(facezoo.create_model(name)), tmp_path / "net.pt2", tolerance=1e-3)


def test_a_file_that_computes_something_else_is_not_written(tmp_path: Path, as_trained: AsTrained, monkeypatch) -> None:
    target = tmp_path / "net.pt2"
    target.write_bytes(b"old")
    monkeypatch.setattr(exporting, "fuse", lambda network: as_trained(copy.deepcopy(network), seed=1))  # other weights
    with pytest.raises(ExportError, match=r"net\.pt2 was not written: its outputs differ .* the tolerance is 0\.0001"):
        facezoo.export(tiny(as_trained), target)
    assert target.read_bytes() == b"old"


def test_an_old_file_survives_a_failure(tmp_path: Path, as_trained: AsTrained, monkeypatch) -> None:
    target = tmp_path / "net.pt2"
    target.write_bytes(b"old")

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("facezoo.files.os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        facezoo.export(tiny(as_trained), target)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt2"]


def test_what_cannot_be_exported(tmp_path: Path, as_trained: AsTrained) -> None:
    model = tiny(as_trained)
    with pytest.raises(ValueError, match=r"use \.onnx \(ONNX\) or \.pt2"):
        facezoo.export(model, tmp_path / "net.pth")
    with pytest.raises(ValueError, match="no classifier"):
        facezoo.export(model, tmp_path / "net.pt2", output="logits")
    with pytest.raises(ValueError, match="output is 'embedding' or 'logits'"):
        facezoo.export(model, tmp_path / "net.pt2", output="features")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="8-bit files are written as ONNX"):
        facezoo.export(model, tmp_path / "net.pt2", calibration=torch.randn(4, 3, 16, 16))
    with pytest.raises(TypeError, match="got Linear"):
        facezoo.export(nn.Linear(2, 2), tmp_path / "net.pt2")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@needs_onnx
@pytest.mark.parametrize("opset", [13, 17, 18.0, True])
def test_an_opset_that_torch_does_not_write_is_refused(opset: Any, tmp_path: Path, as_trained: AsTrained) -> None:
    with pytest.raises(ValueError, match=rf"opset is a whole number from 18 on, got {opset}"):
        facezoo.export(tiny(as_trained), tmp_path / "net.onnx", opset=opset)
    assert list(tmp_path.iterdir()) == []


@needs_onnx
def test_another_opset_than_asked_for_is_refused(tmp_path: Path, as_trained: AsTrained, monkeypatch) -> None:
    import onnx

    proto = onnx.helper.make_model(onnx.GraphProto(), opset_imports=[onnx.helper.make_opsetid("", 18)])
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **options: types.SimpleNamespace(model_proto=proto))
    with pytest.raises(ValueError, match=r"opset 20 was asked for, and torch .* wrote 18"):
        facezoo.export(tiny(as_trained), tmp_path / "net.onnx", opset=20)


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_names_the_extra(missing: str, tmp_path: Path, as_trained: AsTrained, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if name != missing and not HAS_ONNX:
            monkeypatch.setitem(sys.modules, name, json)
    with pytest.raises(ImportError, match=rf"needs {missing}, .* pip install 'facezoo\[export\]'"):
        facezoo.export(tiny(as_trained), tmp_path / "net.onnx")


def test_files_that_are_not_ours(tmp_path: Path, as_trained: AsTrained) -> None:
    with pytest.raises(FileNotFoundError, match="no exported network"):
        ExportedNetwork(tmp_path / "a.pt2")
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.randn(1, 2),)), tmp_path / "foreign.pt2")
    with pytest.raises(ValueError, match="not written by facezoo"):
        ExportedNetwork(tmp_path / "foreign.pt2")


def foreign(path: Path, *, batch: int | str = "N", dtype: str = "FLOAT", outputs: int = 1, last: bool = False) -> Path:
    """An ONNX file of another program: images of 16×16 to the means of their channels."""
    import onnx
    from onnx import helper

    kind = getattr(onnx.TensorProto, dtype)
    shape = [batch, 16, 16, 3] if last else [batch, 3, 16, 16]
    names = [f"out{number}" for number in range(outputs)]
    nodes = [
        helper.make_node("ReduceMean", ["data"], [name], axes=[2, 3], keepdims=number)
        for number, name in enumerate(names)
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("data", kind, shape)],
        [helper.make_tensor_value_info(name, kind, None) for name in names],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_suffix_in_capitals(tmp_path: Path, as_trained: AsTrained) -> None:
    model = tiny(as_trained)
    facezoo.export(model, tmp_path / "net.PT2")
    assert open_network(tmp_path / "net.PT2").preprocessing == model.preprocessing
    for name in ("net.PT2", "net.ONNX"):
        assert is_exported(name)


HALVES = {"mean": (0.5,), "std": (0.5,)}


@needs_onnx
@pytest.mark.parametrize("dtype", ["FLOAT", "FLOAT16", "DOUBLE"])
@pytest.mark.parametrize("batch", ["N", 1, 2, 4])
@pytest.mark.parametrize("suffix", ["onnx", "ONNX"])
def test_foreign_files_of_any_batch_and_type(batch: int | str, dtype: str, suffix: str, tmp_path: Path) -> None:
    network = open_network(foreign(tmp_path / f"theirs.{suffix}", batch=batch, dtype=dtype), images=HALVES)
    images = torch.randn(5, 3, 16, 16)
    for count in (1, 4, 5):
        result = network.model(images[:count])
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, images[:count].mean(dim=(2, 3)), atol=2e-3, rtol=0)


@needs_onnx
@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"outputs": 2}, r"has 2 outputs \(out0, out1\); .*onnx\.utils\.extract_model\(path, new_path, \['data'\]"),
        ({"dtype": "INT32"}, r"goes from tensor\(int32\) to tensor\(int32\); .*export it anew"),
        ({"last": True}, r"shape \['N', 16, 16, 3\], the channels last; .*Transpose in front"),
    ],
)
def test_foreign_files_of_another_form_say_what_to_do(form: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"theirs\.onnx {'takes images of ' if 'last' in form else ''}{message}"):
        open_network(foreign(tmp_path / "theirs.onnx", **form), images=HALVES)


# -- 8-bit integers -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic persons of 16 pixels, two images each, and a list of genuine and impostor pairs of them."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("faces")
    images = SyntheticFaces(num_identities=24, images_per_identity=2, size=32, seed=3)
    names: list[list[str]] = [[] for _ in range(24)]
    for index in range(len(images)):
        image, label = images[index]
        names[label].append(f"{label}_{len(names[label])}.png")
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image.permute(1, 2, 0).numpy())
        picture.resize((16, 16)).save(folder / names[label][-1])
    lines = [f"{a} {b} 1" for a, b in names] + [
        f"{names[i][0]} {names[(i + step) % 24][1]} 0" for step in (1, 2) for i in range(24)
    ]
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")
    return folder


@needs_onnx
def test_8_bit_integers_and_their_recognition(tmp_path: Path, faces: Path, as_trained: AsTrained) -> None:
    model = tiny(as_trained)
    files = sorted(str(path) for path in faces.glob("*.png"))
    report = facezoo.export(model, tmp_path / "net.onnx", calibration=files, calibration_images=20)
    assert report.precision == "int8"
    assert "20 images" in report.inputs
    assert 0.9 < report.min_cosine < 1
    assert 1e-4 < report.max_rel < 0.3  # it is another network now
    network = ExportedNetwork(tmp_path / "net.onnx")
    assert network.metadata["precision"] == "int8"
    assert network.fingerprint != network_fingerprint(model)
    assert "galleries and calibrations of the network are not valid for this file" in str(report)
    assert network.preprocessing == model.preprocessing
    drop = compare_recognition(model, network, read_pairs(faces / "pairs.txt", faces), bootstrap=20)
    assert drop.num_pairs == 72
    assert report.min_cosine - 0.1 < drop.min_cosine <= drop.mean_cosine < 1
    assert 0 < drop.max_score_change < 0.2
    low, high = drop.eer_change_interval
    assert low <= high
    assert abs(drop.eer_change) < 0.1
    assert drop.eer_change == drop.eer_candidate - drop.eer_reference


def test_comparing_a_network_with_itself_and_with_another(faces: Path, as_trained: AsTrained) -> None:
    model = tiny(as_trained)
    pairs = read_pairs(faces / "pairs.txt", faces)
    same = compare_recognition(model, model, pairs, bootstrap=10)
    assert (same.eer_change, same.eer_change_interval, same.max_score_change) == (0, (0, 0), 0)
    assert same.min_cosine == pytest.approx(1)
    noise = compare_recognition(model, lambda images: torch.randn(len(images), 8), pairs, bootstrap=50)
    assert abs(noise.mean_cosine) < 0.3
    assert noise.eer_change == noise.eer_candidate - noise.eer_reference
    assert noise.eer_change_interval[0] < noise.eer_change < noise.eer_change_interval[1]
    assert "EER" in str(noise)


def test_the_change_of_scores_and_its_interval(faces: Path) -> None:
    def first(images: Tensor) -> Tensor:
        return images.flatten(1)[:, :40]

    def second(images: Tensor) -> Tensor:
        return images.flatten(1)[:, 20:60]

    pairs = read_pairs(faces / "pairs.txt", faces)
    there, back = (compare_recognition(*both, pairs, bootstrap=60) for both in ((first, second), (second, first)))
    scores = [evaluate_pairs(network, pairs, bootstrap=0).scores for network in (first, second)]
    assert there.max_score_change == back.max_score_change == float((scores[1] - scores[0]).abs().max())
    labels, rng, changes = pairs.labels, np.random.default_rng(0), []
    assert labels is not None
    kinds = [np.flatnonzero(labels.numpy()), np.flatnonzero(~labels.numpy())]
    for _ in range(60):
        drawn = np.concatenate([rng.choice(kind, len(kind)) for kind in kinds])
        rates = [verification_metrics(one[drawn], labels[drawn], bootstrap=0).eer for one in scores]
        changes.append(rates[1] - rates[0])
    assert there.eer_change_interval == tuple(np.quantile(changes, [0.025, 0.975]))
    assert there.eer_change == -back.eer_change


def test_the_figures_of_a_comparison(faces: Path, as_trained: AsTrained, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(as_trained)

    def other(images: torch.Tensor) -> torch.Tensor:
        return model.embed(images) + images.mean(dim=(1, 2, 3)).unsqueeze(1)

    other.preprocessing = model.preprocessing  # type: ignore[attr-defined]
    pairs = read_pairs(faces / "pairs.txt", faces)
    found = compare_recognition(model, other, pairs, bootstrap=1)
    first, second = (facezoo.evaluation.embed_images(each, list(pairs.paths)) for each in (model, other))
    cosines = (first * second).sum(dim=1)
    changes = [((each[pairs.left] * each[pairs.right]).sum(dim=1)) for each in (first, second)]
    assert found.min_cosine == pytest.approx(float(cosines.min()), abs=1e-5)
    assert found.mean_cosine == pytest.approx(float(cosines.mean()), abs=1e-5)
    assert found.min_cosine < found.mean_cosine
    assert found.max_score_change == pytest.approx(float((changes[1] - changes[0]).abs().max()), abs=1e-5)
    assert compare_recognition(other, model, pairs, bootstrap=1).max_score_change == found.max_score_change

    rates = iter([0.1, 0.2, *(rate for number in range(41) for rate in (number / 100, 0.0))])
    monkeypatch.setattr(recognition, "_eer", lambda scores, labels: next(rates))
    drop = compare_recognition(model, other, pairs, bootstrap=41)
    assert drop.eer_change == pytest.approx(0.1)
    assert drop.eer_change_interval == pytest.approx((0.01, 0.39))


@needs_onnx
def test_threads_of_onnx_runtime(tmp_path: Path, as_trained: AsTrained, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    facezoo.export(tiny(as_trained), tmp_path / "a.onnx")
    own, seen = onnxruntime.InferenceSession, []

    def session(data: bytes, options: Any, **others: Any) -> Any:
        seen.append(options.intra_op_num_threads)
        return own(data, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    ExportedNetwork(tmp_path / "a.onnx", threads=3)
    ExportedNetwork(tmp_path / "a.onnx")
    assert seen == [3, 0]  # 0: as many as the runtime likes


def test_images_of_a_calibration_are_spread_evenly(as_trained: AsTrained) -> None:
    images = torch.arange(20.0).view(20, 1, 1, 1).expand(20, 3, 16, 16)
    (batch,) = exporting._calibration_batches(tiny(as_trained), images, 4)
    assert batch[:, 0, 0, 0].tolist() == [0, 6, 13, 19]
    with pytest.raises(ValueError, match="calibration_images is at least 1, got 0"):
        next(exporting._calibration_batches(tiny(as_trained), images, 0))


def test_a_difference_that_is_no_number_is_no_small_one() -> None:
    exporting._require_near(Path("a.onnx"), 1e-4, 1e-3, "noise")
    for difference in (math.nan, 2e-3):
        with pytest.raises(ExportError, match=r"a\.onnx was not written"):
            exporting._require_near(Path("a.onnx"), difference, 1e-3, "noise")


# -- the command --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_the_command_exports_a_named_network(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / f"net.{kind}"
    assert main(["export", "tiny_face", "--img-size", "16", "--out", str(target)]) == 0
    captured = capsys.readouterr()
    assert f"{target}: {kind}, float32" in captured.out
    assert "max. difference" in captured.out
    assert "random weights" in captured.err
    assert ExportedNetwork(target).embedding_dim == 512


@pytest.mark.ci
@needs_onnx
def test_the_command_quantizes_a_weight_file_and_measures_it(
    tmp_path: Path, faces: Path, as_trained: AsTrained, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = as_trained(facezoo.create_model("tiny_face", img_size=16))
    save_file_atomic(tmp_path / "weights.safetensors", model.state_dict())
    arguments = ["export", str(tmp_path / "weights.safetensors"), "--model", "tiny_face", "--img-size", "16", "--int8"]
    arguments += ["--calibration", str(faces), "--pairs", str(faces / "pairs.txt"), "--out", str(tmp_path / "a.onnx")]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "int8" in captured.out
    assert "the 48 images of the calibration" in captured.out
    assert "72 pairs" in captured.out
    assert "EER" in captured.out
    assert "random weights" not in captured.err


def test_errors_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["tiny_fase", "--out", "a.pt2"], "no file tiny_fase; unknown model 'tiny_fase'; did you mean 'tiny_face'"),
        (["tiny_face", "--out", "a.pt2", "--output", "logits"], "no classifier"),
        (["tiny_face", "--out", "a.pth"], r"a.pth"),
        (["tiny_face", "--out", "a.onnx", "--int8"], "--calibration"),
        (["tiny_face", "--out", "a.onnx", "--pairs", "p.txt"], "--int8"),
    ):
        assert main(["export", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("facezoo: error: ")
        assert message in captured.err


@pytest.mark.parametrize(
    "precision", [pytest.param("int8", marks=needs_onnx), pytest.param("onnx", marks=needs_onnx), "pt2"]
)
def test_an_exported_file_refuses_what_a_network_refuses(precision: str, tmp_path: Path, as_trained: AsTrained) -> None:
    model = tiny(as_trained)
    images = torch.randn(3, 3, 16, 16)
    suffix = "pt2" if precision == "pt2" else "onnx"
    facezoo.export(model, tmp_path / f"a.{suffix}", calibration=images if precision == "int8" else None)
    network = ExportedNetwork(tmp_path / f"a.{suffix}")
    raw = (images * 50 + 100).clamp(0, 255).to(torch.uint8)
    for each in (model, network):
        with pytest.raises(
            TypeError, match=r"expected normalized floating-point images, got torch.uint8: divide by 255"
        ):
            each(raw)
        with pytest.raises(ValueError, match=r"expected images of shape \(N, 3, .*got \(3, 1, 16, 16\)"):
            each(images[:, :1])
    broken = images.clone()
    broken[2, 1, 4, 4] = float("nan")
    with pytest.raises(ValueError, match=r"image 2 holds NaN or infinite values \(1 such"):
        network(broken)
    with pytest.raises((ValueError, RuntimeError), match=r"image 2.* NaN or infinite"):
        facezoo.evaluation.embed_images(network, broken)
    with pytest.raises(TypeError, match="expected a tensor of images, got ndarray"):
        network(images.numpy())
    assert bool(torch.isfinite(network(images.half().double())).all())


@needs_onnx
def test_calibration_refuses_what_a_network_refuses(tmp_path: Path, as_trained: AsTrained) -> None:
    model = tiny(as_trained)
    images = torch.randn(20, 3, 16, 16)
    with pytest.raises(TypeError, match=r"floating-point images, got torch.uint8"):
        facezoo.export(model, tmp_path / "a.onnx", calibration=images.to(torch.uint8))
    images[18] = float("inf")
    with pytest.raises(ValueError, match="image 18 holds NaN or infinite values"):
        facezoo.export(model, tmp_path / "a.onnx", calibration=images)
    with pytest.raises(ValueError, match=r"of shape \(N, 3, 16, 16\), got \(4, 3, 8, 8\)"):
        facezoo.export(model, tmp_path / "a.onnx", calibration=torch.randn(4, 3, 8, 8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [pytest.param("onnx", marks=needs_onnx), "pt2"])
def test_a_damaged_exported_file_has_one_error_that_names_it(
    suffix: str, tmp_path: Path, as_trained: AsTrained
) -> None:
    path = tmp_path / f"whole.{suffix}"
    facezoo.export(tiny(as_trained), path)
    whole, broken = path.read_bytes(), tmp_path / f"broken.{suffix}"
    for content in (b"", b"\x00" * 64, whole[: len(whole) // 2], whole[:200]):
        broken.write_bytes(content)
        with pytest.raises(ValueError, match=rf"broken\.{suffix}.*(damaged|says nothing)") as problem:
            ExportedNetwork(broken)
        assert len(str(problem.value)) < 600


@needs_onnx
def test_what_an_exported_file_says_about_itself_is_checked(tmp_path: Path, as_trained: AsTrained) -> None:
    import onnx

    path = tmp_path / "a.onnx"
    facezoo.export(tiny(as_trained), path)
    proto = onnx.load(str(path))
    entries = {entry.key.removeprefix("facezoo."): entry for entry in proto.metadata_props}
    for name, value in (
        ("preprocessing", "[]"), ("preprocessing", "{"), ("embedding_dim", '"many"'), ("embedding_dim", "0"), ("model", "[" * 9999),
    ):  # fmt: skip
        whole, entries[name].value = entries[name].value, value
        path.write_bytes(proto.SerializeToString())
        with pytest.raises(ValueError, match=r"a\.onnx: its metadata are damaged"):
            ExportedNetwork(path)
        entries[name].value = whole
    path.write_bytes(proto.SerializeToString())
    ExportedNetwork(path)
