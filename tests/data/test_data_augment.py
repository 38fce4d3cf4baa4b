# ruff: noqa: PT018
"""Each operation beside torchvision's with the same parameters, on each backend; draws as statistics."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from facezoo.data import (
    AUGMENT_RECIPES,
    AugmentConfig,
    augment_batches,
    augment_images,
    augment_recipe,
    register_augmentation,
)
from facezoo.data.augment_batches import Normalization, _inside, augment_batch, erase, normalized_batch
from facezoo.data.augment_images import augment_image
from facezoo.data.augment_plan import Plan, columns_of, plan, stays_inside, uniforms
from facezoo.data.image import decode_pixels, read_image, read_pixels

FILL = (128, 100, 90)
OWN = Normalization(torch.tensor([0.01, 0.02, 0.03]).view(3, 1, 1), torch.tensor([-1.0, -2.0, 0.5]).view(3, 1, 1))
BILINEAR = v2.InterpolationMode.BILINEAR
BACKENDS = ("pil", "cv2", "batch")


def smooth(height: int = 112, width: int = 112) -> np.ndarray:
    """A colorful picture of waves, without the noise on which interpolation and rounding differ most."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + y / 17), np.cos(x / 13 - y / 8), np.sin((x + y) / 11)]
    return np.stack([127 + 100 * wave for wave in waves], axis=-1).astype(np.uint8)


def tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def run(pixels: np.ndarray, drawn: Plan, backend: str) -> np.ndarray:
    if backend == "batch":
        result = augment_batch(torch.from_numpy(pixels).unsqueeze(0), drawn)
        assert result.shape == (1, 3, *pixels.shape[:2])
        return result[0].round().clamp(0, 255).permute(1, 2, 0).numpy()
    if backend == "cv2":
        pytest.importorskip("cv2")
    return augment_image(pixels, drawn, 0, backend)  # type: ignore[arg-type]


def drawn_for(config: AugmentConfig, size: tuple[int, int] = (112, 112), seed: int = 0) -> Plan:
    return plan(config, uniforms(seed, 0, np.arange(1), columns_of(config)), size, FILL)


def inner(pixels: np.ndarray, margin: int) -> np.ndarray:
    return pixels[margin:-margin, margin:-margin].astype(float)


def one(**values: object) -> Plan:
    return Plan(size=(112, 112), fill=FILL, **{name: np.array([value]) for name, value in values.items()})  # type: ignore[arg-type]


# ------------------------------------------------------------------ geometry


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("angle", [-30.0, -5.0, 3.0, 45.0])
@pytest.mark.parametrize("size", [(112, 112), (96, 113)])
def test_rotation_is_torchvisions(backend: str, angle: float, size: tuple[int, int]) -> None:
    pixels = smooth(*size)
    config = AugmentConfig(rotation=abs(angle))
    numbers = np.full((1, columns_of(config)), 0.0 if angle < 0 else np.nextafter(1.0, 0))
    result = run(pixels, plan(config, numbers, size, FILL), backend)
    expected = np.asarray(Image.fromarray(pixels).rotate(angle, Image.Resampling.BILINEAR, fillcolor=FILL))
    assert np.abs(inner(result, 30) - inner(expected, 30)).max() <= 3
    assert np.abs(result.astype(float) - expected).mean() < 1.5  # the corners too are filled and not stretched


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(4))
def test_perspective_is_torchvisions(backend: str, seed: int) -> None:
    pixels = smooth(96, 112)
    config = AugmentConfig(perspective=0.4, perspective_probability=1)
    numbers = uniforms(seed, 0, np.arange(1), columns_of(config))
    moved = np.floor(numbers[0, 2:10].reshape(4, 2) * [int(0.4 * 56) + 1, int(0.4 * 48) + 1]).astype(int)
    start = np.array([[0, 0], [111, 0], [111, 95], [0, 95]])
    end = start + moved * [[1, 1], [-1, 1], [-1, -1], [1, -1]]
    expected = F.perspective(
        Image.fromarray(pixels), start.tolist(), end.tolist(), interpolation=BILINEAR, fill=list(FILL)
    )
    result = run(pixels, plan(config, numbers, (96, 112), FILL), backend)
    assert np.abs(inner(result, 30) - inner(np.asarray(expected), 30)).max() <= 3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(4))
def test_resized_crop_is_torchvisions(backend: str, seed: int) -> None:
    pixels = smooth()
    drawn = drawn_for(AugmentConfig(resized_crop=1), seed=seed)
    assert drawn.matrix is not None
    (scale_x, _, x), (_, scale_y, y), _ = drawn.matrix[0]
    box = [y + 0.5 - scale_y / 2, x + 0.5 - scale_x / 2, scale_y * 112, scale_x * 112]
    assert np.allclose(box, np.rint(box))
    expected = F.resized_crop(tensor(pixels), *(round(side) for side in box), size=[112, 112], antialias=False)
    assert np.abs(run(pixels, drawn, backend).astype(float) - expected.permute(1, 2, 0).numpy()).max() <= 3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(8))
def test_a_crop_of_a_white_image_is_white(backend: str, seed: int) -> None:
    """Up to its edge: a crop comes from within the image, so there is nothing to fill."""
    white = np.full((112, 112, 3), 255, dtype=np.uint8)
    drawn = drawn_for(AugmentConfig(resized_crop=1, resized_crop_area=(0.9, 1.0), horizontal_flip=0.5), seed=seed)
    assert (run(white, drawn, backend) == 255).all()


def test_batches_of_inference_mode_leave_the_next_ones_alone() -> None:
    """What is kept from batch to batch belongs to no mode."""
    config = AugmentConfig(rotation=20, brightness=0.3, crop_padding=3)
    drawn = plan(config, uniforms(1, 0, np.arange(3), columns_of(config)), (40, 31), FILL)
    images = torch.from_numpy(np.stack([smooth(40, 31)] * 3))

    def in_both_modes() -> None:
        with torch.inference_mode():
            expected = augment_batch(images, drawn).clone()
        assert torch.equal(augment_batch(images, drawn), expected)

    with ThreadPoolExecutor(1) as fresh:  # a thread that has kept nothing
        fresh.submit(in_both_modes).result()


@given(
    seed=st.integers(0, 1000),
    crop=st.booleans(),
    rotation=st.sampled_from([0.0, 3.0, 30.0]),
    shift=st.sampled_from([0, 6]),
)
def test_a_map_stays_inside_if_all_of_its_pixels_do(seed: int, crop: bool, rotation: float, shift: int) -> None:
    size = (20, 28)
    config = AugmentConfig(resized_crop=float(crop), rotation=rotation, crop_padding=shift, perspective=0.3)
    drawn = plan(config, uniforms(seed, 0, np.arange(4), columns_of(config)), size, FILL)
    maps = np.broadcast_to(np.eye(3), (4, 3, 3)) if drawn.matrix is None else drawn.matrix
    y, x = np.mgrid[: size[0], : size[1]]
    points = maps @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    at = points[:, :2] / points[:, 2:]
    most = np.array([size[1] - 1, size[0] - 1]).reshape(1, 2, 1)
    within = (at >= -0.5 - 1e-6) & (at <= most + 0.5 + 1e-6)
    assert np.array_equal(stays_inside(maps, size), within.all(axis=(1, 2)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(12))
def test_flip_and_crop_are_exact(backend: str, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 32, 3), dtype=np.uint8)
    config = AugmentConfig(horizontal_flip=0.5, crop_padding=6)
    drawn = drawn_for(config, (40, 32), seed)
    assert drawn.matrix is not None
    flipped = drawn.matrix[0, 0, 0] < 0
    right = 31 - drawn.matrix[0, 0, 2] if flipped else drawn.matrix[0, 0, 2]
    down = drawn.matrix[0, 1, 2]
    image = tensor(pixels).flip(2) if flipped else tensor(pixels)
    padded = F.pad(image, [6], fill=list(FILL))
    expected = F.crop(padded, int(down) + 6, int(right) + 6, 40, 32).permute(1, 2, 0).numpy()
    assert np.array_equal(run(pixels, drawn, backend), expected)


@pytest.mark.parametrize("backend", ["pil", "cv2"])
def test_a_shift_beyond_the_image_leaves_the_fill(backend: str) -> None:
    drawn = dataclasses.replace(one(sampled=False), matrix=np.array([[[1.0, 0, 150], [0, 1, 0], [0, 0, 1]]]))
    assert (run(smooth(), drawn, backend) == FILL).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_flip_rotation_and_shift_compose_in_torchvisions_order(backend: str) -> None:
    config = AugmentConfig(horizontal_flip=1, rotation=10, crop_padding=6)
    drawn = drawn_for(config, seed=5)
    numbers = uniforms(5, 0, np.arange(1), columns_of(config))[0]
    image = Image.fromarray(smooth()).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.rotate((2 * numbers[10] - 1) * 10, Image.Resampling.BILINEAR, fillcolor=FILL)
    right, down = (int(np.floor(numbers[column] * 13)) for column in (11, 12))
    expected = np.asarray(F.crop(F.pad(image, [6], fill=list(FILL)), down, right, 112, 112))
    assert np.abs(inner(run(smooth(), drawn, backend), 25) - inner(expected, 25)).max() <= 3


# ------------------------------------------------------------------ color


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("brightness", F.adjust_brightness),
        ("contrast", F.adjust_contrast),
        ("saturation", F.adjust_saturation),
    ],
)
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.3, 2.0])
def test_color_is_torchvisions(backend: str, name: str, operation: object, factor: float) -> None:
    expected = operation(tensor(smooth()), factor).permute(1, 2, 0).numpy()  # type: ignore[operator]
    result = run(smooth(), one(**{name: factor}), backend)
    assert np.abs(result.astype(float) - expected).max() <= 2  # torchvision cuts fractions off, twice


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.25, 0.4])
def test_hue_is_torchvisions(backend: str, shift: float) -> None:
    if backend == "batch":
        expected, allowed = F.adjust_hue(tensor(smooth()), shift).permute(1, 2, 0).numpy(), 1
    else:
        expected, allowed = np.asarray(F.adjust_hue(Image.fromarray(smooth()), shift)), 0
    assert np.abs(run(smooth(), one(hue=shift), backend).astype(float) - expected).max() <= allowed


@pytest.mark.parametrize("backend", BACKENDS)
def test_gray_is_torchvisions(backend: str) -> None:
    expected = F.rgb_to_grayscale(tensor(smooth()), 3).permute(1, 2, 0).numpy()
    assert np.abs(run(smooth(), one(gray=True), backend).astype(float) - expected).max() <= 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_brightness_contrast_and_saturation_together(backend: str) -> None:
    expected = tensor(smooth())
    for operation, factor in ((F.adjust_brightness, 0.9), (F.adjust_contrast, 0.85), (F.adjust_saturation, 1.15)):
        expected = operation(expected, factor)
    result = run(smooth(), one(brightness=0.9, contrast=0.85, saturation=1.15), backend)
    assert np.abs(result.astype(float) - expected.permute(1, 2, 0).numpy()).max() <= 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_changes_nothing(backend: str) -> None:
    same = one(brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0, gray=False, low_resolution=1.0, blur=0.0, jpeg=0)
    same = dataclasses.replace(same, matrix=np.eye(3)[None], sampled=np.array([False]))
    assert np.array_equal(run(smooth(), same, backend), smooth())


# ------------------------------------------------------------------ resolution, blur, JPEG, erasing


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_blur_is_torchvisions(backend: str, sigma: float) -> None:
    expected = F.gaussian_blur(tensor(smooth()), [9, 9], [sigma, sigma]).permute(1, 2, 0).numpy()
    assert np.abs(run(smooth(), one(blur=sigma), backend).astype(float) - expected).max() <= 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_low_resolution_is_two_resizes(backend: str) -> None:
    small = F.resize(Image.fromarray(smooth()), [28, 28], interpolation=BILINEAR, antialias=True)
    expected = np.asarray(F.resize(small, [112, 112], interpolation=BILINEAR, antialias=True))
    assert np.array_equal(run(smooth(), one(low_resolution=0.25), backend), expected)


@pytest.mark.filterwarnings("ignore:.*encoding capabilities of TorchVision")
@pytest.mark.parametrize("backend", BACKENDS)
def test_jpeg_is_torchvisions(backend: str) -> None:
    expected = F.jpeg(tensor(smooth()), 40).permute(1, 2, 0).numpy()
    assert np.abs(run(smooth(), one(jpeg=40), backend).astype(float) - expected).mean() < 1


def test_erased_boxes_lie_in_the_image_and_have_their_area() -> None:
    config = AugmentConfig(erasing=0.3, erasing_area=(0.05, 0.15))
    drawn = plan(config, uniforms(0, 0, np.arange(4000), columns_of(config)), (96, 112), FILL)
    boxes = drawn.erase
    assert boxes is not None
    there = boxes[:, 2] > 0
    assert abs(there.mean() - 0.3) < 0.03
    top, left, bottom, right = boxes[there].T
    assert (top >= 0).all() and (left >= 0).all() and (bottom <= 96).all() and (right <= 112).all()
    area = (bottom - top) * (right - left) / (96 * 112)
    assert area.min() > 0.045 and area.max() < 0.155
    assert abs(area.mean() - 0.1) < 0.005
    ratio = (bottom - top) / (right - left)
    assert ratio.min() > 0.28 and ratio.max() < 3.6
    assert abs(np.log(ratio).mean()) < 0.1
    batch = erase(torch.ones(4000, 1, 96, 112), drawn)
    assert torch.equal(
        (batch == 0).sum(dim=(1, 2, 3))[torch.from_numpy(there)], torch.from_numpy((bottom - top) * (right - left))
    )
    assert bool((batch[torch.from_numpy(~there)] == 1).all())
    on_a_gpu = torch.ones(4000, 1, 96, 112).masked_fill_(_inside(torch.as_tensor(boxes), (96, 112)), 0.0)
    assert torch.equal(on_a_gpu, batch)


# ------------------------------------------------------------------ what is drawn


def test_draws_depend_on_seed_epoch_position_and_nothing_else() -> None:
    whole = uniforms(3, 2, np.arange(1000), 40)
    assert np.array_equal(uniforms(3, 2, np.array([17, 900]), 40), whole[[17, 900]])
    assert np.array_equal(uniforms(3, 2, np.arange(1000), 12), whole[:, :12])
    for other in (
        uniforms(2, 3, np.arange(1000), 40),
        uniforms(3, 3, np.arange(1000), 40),
        uniforms(4, 2, np.arange(1000), 40),
    ):
        assert not (other == whole).any()


def test_uniform_numbers_are_uniform_and_unrelated() -> None:
    numbers = uniforms(0, 0, np.arange(20_000), 6)
    assert numbers.min() >= 0 and numbers.max() < 1
    for column in numbers.T:
        counts = np.histogram(column, 50, (0, 1))[0]
        assert ((counts - 400) ** 2 / 400).sum() < 100  # chi-square with 49 degrees: 1 in 20,000
    assert np.abs(np.corrcoef(numbers.T) - np.eye(6)).max() < 0.03
    assert np.abs(np.corrcoef(numbers[1:, 0], numbers[:-1, 0])[0, 1]) < 0.03


def test_standard_is_what_it_says() -> None:
    standard = augment_recipe("standard")
    assert standard == AugmentConfig(
        horizontal_flip=0.5, rotation=5, crop_padding=6, brightness=0.2, contrast=0.2, saturation=0.2, erasing=0.3
    )
    drawn = plan(standard, uniforms(1, 0, np.arange(5000), columns_of(standard)), (112, 112), FILL)
    assert drawn.matrix is not None and drawn.brightness is not None and drawn.erase is not None
    flipped = drawn.matrix[:, 0, 0] < 0
    assert abs(flipped.mean() - 0.5) < 0.03
    angle = np.degrees(np.arctan2(drawn.matrix[:, 1, 0], drawn.matrix[:, 1, 1]))
    assert 4.9 < angle.max() <= 5 and -5 <= angle.min() < -4.9 and abs(angle.std() - 10 / 12**0.5) < 0.1
    center = drawn.matrix @ np.array([55.5, 55.5, 1])
    shift = np.hypot(center[:, 0] - 55.5, center[:, 1] - 55.5)
    assert 8 < shift.max() <= 6 * 2**0.5 + 1e-9
    for factor in (drawn.brightness, drawn.contrast, drawn.saturation):
        assert factor is not None and 0.8 <= factor.min() < 0.81 and 1.19 < factor.max() <= 1.2
        assert abs(factor.mean() - 1) < 0.01
    assert abs((drawn.erase[:, 2] > 0).mean() - 0.3) < 0.03
    assert drawn.hue is drawn.gray is drawn.blur is drawn.jpeg is drawn.low_resolution is drawn.rand_augment is None


def test_shifts_take_every_whole_number_alike() -> None:
    config = AugmentConfig(crop_padding=6)
    drawn = plan(config, uniforms(1, 0, np.arange(13_000), columns_of(config)), (112, 112), FILL)
    assert drawn.matrix is not None
    for axis in (0, 1):
        values, counts = np.unique(drawn.matrix[:, axis, 2], return_counts=True)
        assert values.tolist() == list(range(-6, 7))
        assert np.abs(counts - 1000).max() < 150


def test_magnitude_nine_is_9_degrees_in_one_and_27_in_the_other() -> None:
    config = AugmentConfig(rand_augment_ops=1)
    for strength, degrees in (("torchvision", 9), ("timm", 27)):
        chosen = dataclasses.replace(config, rand_augment_strength=strength)  # type: ignore[arg-type]
        drawn = plan(chosen, uniforms(0, 0, np.arange(500), columns_of(chosen)), (112, 112), FILL).rand_augment
        assert drawn is not None
        assert set(np.round(np.abs(drawn[:, 0, 1]) * 30, 9)) == {degrees}
        assert set(drawn[:, 0, 0]) == set(range(14))
    with pytest.raises(ValueError, match="goes from 0 to 10"):
        AugmentConfig(rand_augment_strength="timm", rand_augment_magnitude=11)


TORCHVISION_NAMES = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness",
    "Posterize", "Solarize", "AutoContrast", "Equalize",
)  # fmt: skip


@pytest.mark.parametrize("operation", range(14))
@pytest.mark.parametrize("sign", [-1, 1])
def test_rand_augment_is_torchvisions(operation: int, sign: int) -> None:
    transform = v2.RandAugment(interpolation=BILINEAR, fill=list(FILL))
    name = TORCHVISION_NAMES[operation]
    magnitudes, signed = transform._AUGMENTATION_SPACE[name]
    table = magnitudes(31, 112, 112)
    magnitude = 0.0 if table is None else float(table if table.ndim == 0 else table[9])
    if name == "Posterize":
        magnitude = int(magnitude)
    if signed:
        magnitude *= sign
    expected = transform._apply_image_or_video_transform(
        Image.fromarray(smooth()),
        name,
        magnitude,
        interpolation=BILINEAR,
        fill={Image.Image: list(FILL), "others": list(FILL)},
    )
    drawn = dataclasses.replace(one(), rand_augment=np.array([[[operation, sign * 9 / 30]]]))
    result = augment_image(smooth(), drawn, 0, "pil")
    assert np.abs(inner(result, 20) - inner(np.asarray(expected), 20)).max() <= 2


@pytest.mark.parametrize("operation", range(14))
@pytest.mark.parametrize("field", ["rand_augment", "trivial_augment"])
def test_policies_on_batches_are_those_on_images(operation: int, field: str) -> None:
    """Colors, gray values and shifts to the number; shears and rotations but for the border, where the fill is mixed in."""
    noise = np.random.default_rng(operation).integers(0, 256, (6, 112, 112, 3), dtype=np.uint8)
    noise[1] = 90 + noise[1] // 5  # few values, not the whole range
    noise[2, :, :, 1] = 17  # a channel of one value
    noise[3] = noise[3] // 250 * 250  # nearly all pixels are equal
    moved = operation in (1, 2, 5)
    images = np.stack([smooth()] * 6) if moved else noise
    strengths = np.array([-1, -0.55, -0.1, 0.1, 0.3, 1.0])
    rows = np.stack([np.full(6, operation), strengths], axis=1)
    drawn = Plan((112, 112), FILL, **{field: rows[:, None] if field == "rand_augment" else rows})
    batch = augment_batch(torch.from_numpy(images), drawn).permute(0, 2, 3, 1).numpy()
    single = np.stack([augment_image(image, drawn, index, "pil") for index, image in enumerate(images)])
    if not moved:
        np.testing.assert_array_equal(batch, single)
        return
    difference = np.abs(batch - single)
    assert (difference > 1).mean() < 0.02  # the border
    assert (batch != images).mean() > 0.5


@pytest.mark.parametrize("name", list(AUGMENT_RECIPES))
def test_all_backends_agree_on_every_named_set(name: str) -> None:
    pixels = np.stack([smooth()] * 12)
    config = augment_recipe(name)
    drawn = plan(config, uniforms(9, 1, np.arange(12), columns_of(config)), (112, 112), FILL)
    batch = augment_batch(torch.from_numpy(pixels), drawn).round().permute(0, 2, 3, 1).numpy()
    for index in range(12):
        for backend in ("pil", "cv2"):
            single = augment_image(pixels[index], drawn, index, backend)  # type: ignore[arg-type]
            difference = np.abs(inner(single, 25) - inner(batch[index], 25))
            # equalizing after a warp counts the border too, where the backends differ
            assert (difference.mean() if drawn.has_policy else difference.max()) <= 4


@settings(max_examples=25)
@given(
    count=st.integers(1, 40),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    shift=st.integers(0, 50),
    colors=st.sampled_from(
        [{}, {"brightness": 0.2, "contrast": 0.3, "saturation": 0.2}, {"hue": 0.1, "contrast": 0.3}]
    ),
    reverse=st.booleans(),
)
def test_batches_are_the_same_bit_for_bit_with_and_without_opencv(
    count: int, size: tuple[int, int], shift: int, colors: dict[str, float], reverse: bool
) -> None:
    pytest.importorskip("cv2")
    pixels = np.random.default_rng(count).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    config = AugmentConfig(horizontal_flip=0.5, crop_padding=shift, erasing=0.3, **colors)
    drawn = plan(config, uniforms(3, 0, np.arange(count), columns_of(config)), size, FILL)
    normalization = dataclasses.replace(OWN, reverse=reverse)
    with_opencv = normalized_batch(list(pixels), drawn, normalization)
    with pytest.MonkeyPatch.context() as patch:
        for module in (augment_batches, augment_images):
            patch.setattr(module, "fastest", lambda: "pil")
        without = normalized_batch(list(pixels), drawn, normalization)
    torch.testing.assert_close(with_opencv, without, rtol=0, atol=0)
    # every other row of larger images, and memory that the caller gives
    wide = torch.from_numpy(np.repeat(pixels, 2, axis=1).copy())
    own = torch.full_like(with_opencv, torch.nan)
    normalized_batch(wide[:, ::2], drawn, normalization, own)
    torch.testing.assert_close(own, with_opencv, rtol=0, atol=0)
    assert np.array_equal(wide, np.repeat(pixels, 2, axis=1))


def test_an_opencv_that_ignores_the_memory_given_splits_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(augment_images, "_cv2", lambda: SimpleNamespace(split=lambda pixels, _: cv2.split(pixels)))
    planes = np.zeros((3, 112, 112), np.uint8)
    augment_images.split_channels(smooth(), planes)
    assert np.array_equal(planes, smooth().transpose(2, 0, 1))


def test_autocast_rounds_no_pixels() -> None:
    pixels = torch.from_numpy(np.stack([smooth()] * 17))
    config = dataclasses.replace(augment_recipe("standard"), rotation=0)
    drawn = plan(config, uniforms(9, 1, np.arange(17), columns_of(config)), (112, 112), FILL)
    plain = normalized_batch(pixels, drawn, OWN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(normalized_batch(pixels, drawn, OWN), plain, rtol=0, atol=0)


def test_memory_that_does_not_fit_the_images_is_an_error() -> None:
    pixels = torch.from_numpy(np.stack([smooth()] * 20))
    config = AugmentConfig(brightness=0.2)
    drawn = plan(config, uniforms(9, 1, np.arange(20), columns_of(config)), (112, 112), FILL)
    with pytest.raises(IndexError):
        normalized_batch(pixels, drawn, OWN, torch.empty(16, 3, 112, 112))
    with pytest.raises(IndexError):
        normalized_batch(pixels, drawn.part(slice(16)), OWN)
    with pytest.raises(RuntimeError, match="view"):
        normalized_batch(pixels, drawn, OWN, torch.empty(20, 3, 112, 120)[..., :112])


# ------------------------------------------------------------------ decoders


def test_the_fast_decoder_gives_the_same_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index, (mode, options) in enumerate(
        [
            ("RGB", {"quality": 95}),
            ("RGB", {"quality": 30, "progressive": True}),
            ("L", {}),
            ("RGB", {"subsampling": 0}),
            ("CMYK", {}),
        ]
    ):
        noisy = (smooth(61, 53) * 0.7 + rng.integers(0, 60, (61, 53, 3))).astype(np.uint8)
        path = tmp_path / f"{index}.jpg"
        Image.fromarray(noisy).convert(mode).save(path, "JPEG", **options)
        fast, plain = read_pixels(path), np.asarray(read_image(path))
        assert fast.shape == plain.shape == (61, 53, 3)
        assert np.abs(fast.astype(int) - plain).max() <= 1


def test_the_fast_decoder_says_the_same_about_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth()).save(path, quality=95)
    content = path.read_bytes()
    for broken in (
        content[:-1],
        content[:-100] + bytes(100),
        b"\xff\xd8\xff\xd9",
        b"",
    ):
        with pytest.raises(ValueError, match=r"cannot decode image 'x\.jpg'"):
            decode_pixels(broken, "x.jpg")


def test_an_augmentation_of_a_third_party_goes_by_its_name():
    register_augmentation("tilted", AugmentConfig(rotation=20.0))
    try:
        assert augment_recipe("tilted").rotation == 20.0
        with pytest.raises(ValueError, match="registered already"):
            register_augmentation("tilted", AugmentConfig())
        with pytest.raises(TypeError, match="is an AugmentConfig"):
            register_augmentation("other", {"rotation": 20.0})
        with pytest.raises(ValueError, match="did you mean 'tilted'"):
            augment_recipe("titled")
    finally:
        AUGMENT_RECIPES.unregister("tilted")
