from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from facezoo.data import AUGMENT_RECIPES, AugmentConfig, augment_recipe, eval_transform, train_transform
from facezoo.preprocessing import Preprocessing

DEFAULT = Preprocessing()
ODD = Preprocessing(img_size=(96, 112), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def picture(height: int = 112, width: int = 112) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def as_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def reference(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    return v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(preprocessing.mean, preprocessing.std)]
    )(image)


@pytest.mark.parametrize("preprocessing", [DEFAULT, ODD])
@pytest.mark.parametrize("kind", ["pil", "tensor"])
def test_eval_transform_equals_torchvision(preprocessing: Preprocessing, kind: str) -> None:
    image = picture(*preprocessing.img_size)
    output = eval_transform(preprocessing)(image if kind == "pil" else as_tensor(image))
    assert type(output) is Tensor
    assert output.dtype == torch.float32
    assert output.is_contiguous()
    torch.testing.assert_close(output, reference(image, preprocessing).as_subclass(Tensor), rtol=0, atol=1e-6)


def test_default_normalization_is_exact_at_the_ends() -> None:
    extremes = torch.tensor([0, 255], dtype=torch.uint8).repeat(3, 112, 56)
    output = eval_transform(DEFAULT)(extremes)
    assert output.unique().tolist() == [-1.0, 1.0]


def test_bgr_reverses_the_channels_and_reads_mean_in_that_order() -> None:
    image = picture()
    rgb = dataclasses.replace(ODD, img_size=(112, 112))
    bgr = dataclasses.replace(rgb, channel_order="bgr", mean=rgb.mean[::-1], std=rgb.std[::-1])
    assert torch.equal(eval_transform(bgr)(image), eval_transform(rgb)(image).flip(0))
    assert not torch.equal(eval_transform(bgr)(image), eval_transform(rgb)(image))
    assert torch.equal(
        train_transform(bgr, AugmentConfig())(image), train_transform(rgb, AugmentConfig())(image).flip(0)
    )


def test_resizes_only_when_the_size_differs() -> None:
    small = picture(56, 60)
    output = eval_transform(DEFAULT)(small)
    expected = eval_transform(DEFAULT)(small.resize((112, 112), Image.Resampling.BILINEAR))
    assert output.shape == (3, 112, 112)
    assert torch.equal(output, expected)
    assert eval_transform(ODD)(picture()).shape == (3, 96, 112)
    assert train_transform(ODD)(picture()).shape == (3, 96, 112)


def test_inputs_are_left_as_they_are() -> None:
    image = as_tensor(picture())
    before = image.clone()
    for seed in range(5):
        torch.manual_seed(seed)
        train_transform(DEFAULT, augment_recipe("strong"))(image)
        eval_transform(DEFAULT)(image)
    assert torch.equal(image, before)


@pytest.mark.parametrize("name", list(AUGMENT_RECIPES))
@pytest.mark.parametrize("kind", ["pil", "tensor"])
def test_recipes(name: str, kind: str) -> None:
    image = picture() if kind == "pil" else as_tensor(picture())
    transform = train_transform(DEFAULT, augment_recipe(name))
    outputs = []
    for seed in (0, 1, 2, 3, 0):
        torch.manual_seed(seed)
        outputs.append(transform(image))
    assert all(output.shape == (3, 112, 112) and output.dtype == torch.float32 for output in outputs)
    assert all(bool(output.isfinite().all()) and output.abs().max() <= 1 for output in outputs)
    assert torch.equal(outputs[0], outputs[4])
    assert any(not torch.equal(outputs[0], output) for output in outputs[1:4]) == (name != "none")


def test_no_augmentation_is_evaluation() -> None:
    assert torch.equal(train_transform(DEFAULT, augment_recipe("none"))(picture()), eval_transform(DEFAULT)(picture()))


def test_the_standard_recipe_is_the_default() -> None:
    torch.manual_seed(0)
    first = train_transform(DEFAULT)(picture())
    torch.manual_seed(0)
    assert torch.equal(first, train_transform(DEFAULT, augment_recipe("standard"))(picture()))


STEPS: Mapping[str, AugmentConfig] = {
    "flip": AugmentConfig(horizontal_flip=1),
    "perspective": AugmentConfig(perspective=0.3, perspective_probability=1),
    "rotation": AugmentConfig(rotation=20),
    "crop": AugmentConfig(crop_padding=8),
    "rand_augment": AugmentConfig(rand_augment_ops=2),
    "brightness": AugmentConfig(brightness=0.4),
    "contrast": AugmentConfig(contrast=0.4),
    "saturation": AugmentConfig(saturation=0.4),
    "hue": AugmentConfig(hue=0.2),
    "grayscale": AugmentConfig(grayscale=1),
    "erasing": AugmentConfig(erasing=1),
    "resized_crop": AugmentConfig(resized_crop=1),
    "low_resolution": AugmentConfig(low_resolution=1),
    "blur": AugmentConfig(blur=1),
    "jpeg": AugmentConfig(jpeg=1),
}


@pytest.mark.parametrize("name", list(STEPS))
def test_each_augmentation_does_something(name: str) -> None:
    torch.manual_seed(3)
    assert not torch.equal(train_transform(DEFAULT, STEPS[name])(picture()), eval_transform(DEFAULT)(picture()))


def test_flip_is_a_flip_and_grayscale_is_gray() -> None:
    plain = eval_transform(DEFAULT)(picture())
    assert torch.equal(train_transform(DEFAULT, AugmentConfig(horizontal_flip=1))(picture()), plain.flip(2))
    gray = train_transform(DEFAULT, AugmentConfig(grayscale=1))(picture())
    assert torch.equal(gray[0], gray[1])
    assert torch.equal(gray[0], gray[2])


def test_what_comes_from_outside_the_image_is_the_mean_color() -> None:
    # Mean and image are exact 8-bit values, so that the fill is exactly 0 for the network.
    preprocessing = Preprocessing(mean=(51 / 255, 102 / 255, 153 / 255), channel_order="bgr")
    white = Image.new("RGB", (112, 112), (255, 255, 255))
    for config in (AugmentConfig(crop_padding=40), AugmentConfig(rotation=45), AugmentConfig(erasing=1)):
        torch.manual_seed(4)
        output = train_transform(preprocessing, config)(white)
        outside = (output - eval_transform(preprocessing)(white)).abs().amax(0) > 1e-6
        assert 50 < int(outside.sum()) < 112 * 112
        assert bool((output.abs().amax(0) < 1e-6).any())


def test_erased_area_is_within_its_limits() -> None:
    white = Image.new("RGB", (112, 112), (255, 255, 255))
    transform = train_transform(DEFAULT, AugmentConfig(erasing=1, erasing_area=(0.1, 0.1)))
    shares = []
    for seed in range(20):
        torch.manual_seed(seed)
        shares.append(float((transform(white)[0] == 0).float().mean()))
    assert all(0.09 < share < 0.11 for share in shares)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"horizontal_flip": 1.5}, "horizontal_flip: expected 0 to 1, got 1.5"),
        ({"rotation": -1}, "rotation: expected 0 to 180, got -1"),
        ({"hue": 0.6}, "hue: expected 0 to 0.5"),
        ({"rand_augment_magnitude": 31}, "rand_augment_magnitude: expected 0 to 30"),
        ({"erasing_area": (0.3, 0.2)}, "erasing_area"),
        ({"crop_padding": -1}, "crop_padding"),
    ],
)
def test_config_checks_itself(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**values)  # type: ignore[arg-type]


def test_unknown_recipe() -> None:
    with pytest.raises(ValueError, match="unknown augmentation 'standart'; did you mean 'standard'"):
        augment_recipe("standart")


def test_wrong_inputs() -> None:
    for transform in (eval_transform(DEFAULT), train_transform(DEFAULT), train_transform(DEFAULT, AugmentConfig())):
        for wrong in (torch.zeros(3, 112, 112), np.zeros((112, 112, 3), dtype=np.float32)):
            with pytest.raises(TypeError, match=r"8-bit image.*float32"):
                transform(wrong)
        for gray in (Image.new("L", (112, 112)), np.zeros((112, 112, 1), dtype=np.uint8)):
            with pytest.raises(ValueError, match=r"RGB image.*\(1, 112, 112\)"):
                transform(gray)
    with pytest.raises(ValueError, match="preprocessing has 1"):
        train_transform(Preprocessing(mean=(0.5,), std=(0.5,)))
