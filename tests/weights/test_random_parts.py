"""Published weights are used whole, with the preprocessing that they came with, or not at all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from PIL import Image

import facezoo
from facezoo.cli import main
from facezoo.deploy.networks import open_network
from facezoo.weights import load_checkpoint, save_file_atomic, save_pretrained

NAME = "resnet10_tiny"


def test_no_part_is_random_without_a_word(tmp_path: Path) -> None:
    save_pretrained(facezoo.create_model(NAME), tmp_path / "own", card=False)
    for name, tag in ((NAME, "drawn"), (f"local-dir:{tmp_path / 'own'}", None)):
        for given, part in (
            ({"embedding_dim": 48}, "embedding"),
            ({"in_chans": 1}, "stem"),
            ({"num_classes": 5}, "classifier"),
        ):
            with pytest.raises(ValueError, match=rf"with --\S+ the .*{part}.* would have random weights"):
                open_network(name, pretrained=tag, arguments=given)
    assert open_network(NAME, pretrained="drawn", arguments={"img_size": 112, "num_classes": 0}).model.embedding_dim > 0


def test_logits_are_no_embeddings(tmp_path: Path) -> None:
    model = facezoo.create_model(NAME, num_classes=4).eval()
    facezoo.export(model, tmp_path / "logits.pt2", output="logits")
    with pytest.raises(ValueError, match=r"logits\.pt2 was exported with output='logits'"):
        open_network(tmp_path / "logits.pt2")


def test_other_channels_keep_the_rest_of_the_preprocessing(tmp_path: Path) -> None:
    model = facezoo.create_model(NAME, img_size=(112, 96))
    own = dataclasses.replace(
        model.preprocessing,
        mean=(0.3, 0.4, 0.5),
        crop=(0, 8, 112, 104),
        channel_order="bgr",
        flip="sum",
        alignment="mine",
    )
    model.preprocessing = own
    save_pretrained(model, tmp_path, card=False)
    gray = facezoo.create_model(f"local-dir:{tmp_path}", in_chans=1).preprocessing
    assert gray == dataclasses.replace(own, mean=gray.mean, std=gray.std)
    assert (gray.mean, gray.std) == (pytest.approx((0.4,)), pytest.approx(own.std[:1]))


def test_an_exported_file_keeps_its_preprocessing(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = facezoo.create_model(NAME).eval()
    model.preprocessing = dataclasses.replace(model.preprocessing, mean=(0.4, 0.4, 0.4), channel_order="bgr")
    facezoo.export(model, tmp_path / "own.onnx")
    other = facezoo.create_model(NAME)
    assert load_checkpoint(other, tmp_path / "own.onnx").preprocessing
    assert other.preprocessing == model.preprocessing


def test_the_image_size_of_a_checkpoint_is_saved_too(tmp_path: Path) -> None:
    large = facezoo.create_model(NAME, img_size=128)
    weights = {f"model.{key}": value for key, value in large.state_dict().items()}
    header = {"network": json.dumps({"preprocessing": large.preprocessing.to_dict()})}
    save_file_atomic(tmp_path / "run.safetensors", weights, header)
    model = facezoo.create_model(NAME)
    load_checkpoint(model, tmp_path / "run.safetensors")
    save_pretrained(model, tmp_path / "again", card=False)
    assert facezoo.create_model(f"local-dir:{tmp_path / 'again'}").preprocessing == large.preprocessing


def test_features_have_no_embedding() -> None:
    with pytest.raises(ValueError, match="leave out num_classes, embedding_dim, global_pool and drop_rate"):
        facezoo.create_model(NAME, features_only=True, embedding_dim=128)


def test_a_calibration_never_lies_in_the_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abcd":
        Image.new("RGB", (112, 112)).save(tmp_path / f"{name}.png")
    (tmp_path / "pairs.txt").write_text("a.png b.png 1\nc.png d.png 0\n")
    for name in ([f"{NAME}.drawn"], [NAME, "--pretrained", "drawn"]):
        assert main(["calibrate", *name, str(tmp_path / "pairs.txt")]) == 2
        assert "has no folder of its own: say --out FILE" in capsys.readouterr().err
