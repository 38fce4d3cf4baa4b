"""The record of how an image becomes the input: what it refuses, what it crops, and that it survives JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import facezoo
from facezoo.data import augment_recipe, eval_transform, train_transform
from facezoo.weights import Preprocessing, save_pretrained

NARROW = Preprocessing(img_size=(112, 96), crop=(0, 8, 112, 104), flip="concat")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("img_size", (112,)),
        ("img_size", (112.0, 112)),
        ("img_size", (0, 112)),
        ("img_size", (10**9, 10**9)),
        ("img_size", "ab"),
        ("mean", (0.5, 0.5)),
        ("mean", (float("nan"), 0.5, 0.5)),
        ("mean", ("0.5", 0.5, 0.5)),
        ("mean", ()),
        ("std", (0.5, 0.0, 0.5)),
        ("std", 0.5),
        ("channel_order", "gbr"),
        ("alignment", 3),
        ("crop", (0, 8, 112)),
        ("crop", (0, 104, 112, 8)),
        ("crop", (0, 8, 113, 104)),
        ("crop", (0, 8.0, 112, 104)),
        ("crop", (-1, 8, 112, 104)),
        ("flip", "mirror"),
    ],
)
def test_what_is_no_preprocessing(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        Preprocessing(**{field: value})
    with pytest.raises(ValueError, match=field):
        Preprocessing.from_dict(NARROW.to_dict() | {field: list(value) if isinstance(value, tuple) else value})


@pytest.mark.parametrize("values", [[], "text", None, {"meen": [0.5]}, {"mean": [0.5] * 10**5}])
def test_damaged_dictionaries_are_told_in_one_short_line(values: Any) -> None:
    with pytest.raises(ValueError, match=r"preprocessing|mean") as caught:
        Preprocessing.from_dict(values)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_json_and_what_older_versions_wrote() -> None:
    assert Preprocessing.from_dict(json.loads(json.dumps(NARROW.to_dict()))) == NARROW
    old = {key: value for key, value in NARROW.to_dict().items() if key not in ("crop", "flip")}
    assert Preprocessing.from_dict(old) == Preprocessing(img_size=(112, 96))


def test_of_an_aligned_face_the_named_columns_are_seen() -> None:
    image = torch.arange(3 * 112 * 112).reshape(3, 112, 112).remainder(251).to(torch.uint8)
    expected = eval_transform(Preprocessing())(image)[:, :, 8:104]
    for transform in (eval_transform(NARROW), train_transform(NARROW, augment_recipe("none"))):
        torch.testing.assert_close(transform(image), expected, rtol=0, atol=0)
        already: Tensor = transform(image[:, :, 8:104])  # cut out before: nothing more is
        torch.testing.assert_close(already, expected, rtol=0, atol=0)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    torch.testing.assert_close(eval_transform(NARROW)(picture), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((112, 112), (0, 8, 112, 104)),
        ((224, 224), (0, 16, 224, 208)),
        ((112, 96), None),
        ((224, 112), (0, 8, 224, 104)),
        ((1, 1), (0, 0, 1, 1)),
    ],
)
def test_of_other_sizes_the_same_fractions(size: tuple[int, int], box: tuple[int, ...] | None) -> None:
    assert NARROW.crop_of(size) == box
    assert Preprocessing().crop_of(size) is None


def test_of_tiny_images_a_pixel_is_left() -> None:
    assert Preprocessing(crop=(0, 50, 112, 54)).crop_of((4, 4)) == (0, 2, 4, 3)
    assert Preprocessing(crop=(110, 110, 112, 112)).crop_of((4, 4)) == (3, 3, 4, 4)


def test_a_network_keeps_what_it_is_told_and_takes_it_along(tmp_path: Path) -> None:
    model = facezoo.create_model("mobilefacenet_paper", embedding_dim=128, img_size=(112, 96))
    model.preprocessing = NARROW
    save_pretrained(model, tmp_path / "net", card=False)
    assert facezoo.create_model(f"local-dir:{tmp_path / 'net'}").preprocessing == NARROW


def test_a_network_of_bgr_gets_bgr(tmp_path: Path) -> None:
    """``model.preprocessing`` can be set, and whoever embeds files follows it: in Python, saved, and exported."""
    pixels = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "face.png")
    model = facezoo.create_model("mobilefacenet_paper", img_size=16, embedding_dim=4).eval()
    model.preprocessing = Preprocessing((16, 16), (0.1, 0.2, 0.3), (0.5,) * 3, "bgr")
    seen: list[Tensor] = []
    stem = model.stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    facezoo.evaluation.embed_images(model, [tmp_path / "face.png"])
    stem.remove()
    expected = (pixels.permute(2, 0, 1).flip(0) / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / 0.5
    torch.testing.assert_close(seen[-1][0], expected)
    save_pretrained(model, tmp_path / "net", card=False)
    assert facezoo.create_model(f"local-dir:{tmp_path / 'net'}").preprocessing == model.preprocessing
