# ruff: noqa: PT018
"""TrivialAugment and affine maps beside torchvision's, with the same parameters; drawings on faces beside OpenCV's polygons."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from facezoo.data import AUGMENT_RECIPES, AugmentConfig, augment_recipe
from facezoo.data.augment_batches import Normalization, augment_batch, normalized_batch
from facezoo.data.augment_images import augment_image
from facezoo.data.augment_plan import Plan, columns_of, plan, uniforms
from facezoo.data.occluders import _CLOTH, OCCLUDERS, Shape, mask, occlude

FILL = (128, 100, 90)
BILINEAR = v2.InterpolationMode.BILINEAR
BACKENDS = ("pil", "cv2", "batch")
NAMES = tuple(v2.TrivialAugmentWide._AUGMENTATION_SPACE)


def smooth(height: int = 112, width: int = 112) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + y / 17), np.cos(x / 13 - y / 8), np.sin((x + y) / 11)]
    return np.stack([127 + 100 * wave for wave in waves], axis=-1).astype(np.uint8)


def run(pixels: np.ndarray, drawn: Plan, backend: str, index: int = 0) -> np.ndarray:
    if backend == "batch":
        result = augment_batch(torch.from_numpy(np.stack([pixels] * (index + 1))), drawn.part(slice(0, index + 1)))
        return result[index].round().clamp(0, 255).permute(1, 2, 0).numpy().astype(np.uint8)
    if backend == "cv2":
        pytest.importorskip("cv2")
    return augment_image(pixels, drawn, index, backend)  # type: ignore[arg-type]


def drawn_for(config: AugmentConfig, count: int, size: tuple[int, int] = (112, 112)) -> tuple[Plan, np.ndarray]:
    numbers = uniforms(3, 0, np.arange(count), columns_of(config))
    return plan(config, numbers, size, FILL), numbers


def apart(result: np.ndarray, expected: np.ndarray, margin: int) -> float:
    part = slice(margin, -margin)
    return float(np.abs(result[part, part].astype(float) - expected[part, part]).max())


# ------------------------------------------------------------------ affine


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(112, 112), (96, 113)])
def test_affine_is_torchvisions(backend: str, size: tuple[int, int]) -> None:
    config = AugmentConfig(affine=1, affine_rotation=25, affine_translate=0.1, affine_scale=(0.8, 1.3), affine_shear=12)
    drawn, numbers = drawn_for(config, 8, size)
    names = ("rotation", "x", "y", "scale", "shear_x", "shear_y")
    from facezoo.data.augment_plan import _AT

    for index in range(8):
        angle, x, y, scale, shear_x, shear_y = (numbers[index, _AT[f"affine_{name}"]] for name in names)
        shift = [round((2 * x - 1) * 0.1 * size[1]), round((2 * y - 1) * 0.1 * size[0])]
        shear = [(2 * shear_x - 1) * 12, (2 * shear_y - 1) * 12]
        expected = F.affine(
            Image.fromarray(smooth(*size)), (2 * angle - 1) * 25, shift, 0.8 + 0.5 * scale, shear,
            interpolation=BILINEAR, fill=list(FILL),
        )  # fmt: skip
        result = run(smooth(*size), drawn, backend, index)
        assert apart(result, np.asarray(expected), 34) <= 3
        assert np.abs(result.astype(float) - np.asarray(expected)).mean() < 1.5  # the corners too are filled alike


def test_affine_draws_have_torchvisions_distribution() -> None:
    """Angle, shift and scale of 4,000 draws of each: the same ranges and the same means of the squares, within 6 %."""
    config = AugmentConfig(affine=1, affine_rotation=20, affine_translate=0.1, affine_scale=(0.7, 1.2), affine_shear=8)
    drawn, _ = drawn_for(config, 4000)
    assert drawn.matrix is not None
    forward = np.linalg.inv(drawn.matrix)
    torch.manual_seed(0)
    peer = [_peer_matrix() for _ in range(4000)]
    ours = {"scale": np.sqrt(np.linalg.det(forward[:, :2, :2])), "x": (forward @ [55.5, 55.5, 1])[:, 0] - 55.5}
    theirs = {"scale": np.array([m[0] for m in peer]), "x": np.array([m[1] for m in peer])}
    for name in ours:
        assert abs(ours[name].min() - theirs[name].min()) < 0.02 * np.ptp(theirs[name])
        assert abs(ours[name].max() - theirs[name].max()) < 0.02 * np.ptp(theirs[name])
        assert abs(ours[name].mean() - theirs[name].mean()) < 0.03 * np.ptp(theirs[name])
        assert ours[name].std() == pytest.approx(theirs[name].std(), rel=0.06)


def _peer_matrix() -> tuple[float, float]:
    params = v2.RandomAffine(20, (0.1, 0.1), (0.7, 1.2), 8).make_params([torch.zeros(3, 112, 112, dtype=torch.uint8)])
    return params["scale"], params["translate"][0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_affine_map_that_does_nothing(backend: str) -> None:
    config = AugmentConfig(affine=1, affine_rotation=0, affine_translate=0, affine_scale=(1, 1), affine_shear=0)
    assert apart(run(smooth(), drawn_for(config, 1)[0], backend), smooth(), 1) <= 1
    never, _ = drawn_for(dataclasses.replace(config, affine=0.0), 1)
    assert never.matrix is None


# ------------------------------------------------------------------ TrivialAugment


@pytest.mark.parametrize("operation", range(14))
@pytest.mark.parametrize("bin_", [1, 9, 20, 30])
@pytest.mark.parametrize("sign", [-1, 1])
def test_trivial_augment_is_torchvisions(operation: int, bin_: int, sign: int) -> None:
    transform = v2.TrivialAugmentWide(interpolation=BILINEAR, fill=list(FILL))
    magnitudes, signed = transform._AUGMENTATION_SPACE[NAMES[operation]]
    table = magnitudes(31, 112, 112)
    magnitude = 0.0 if table is None else float(table[bin_]) * (sign if signed else 1)
    fill = {Image.Image: list(FILL), "others": list(FILL)}
    expected = np.asarray(
        transform._apply_image_or_video_transform(
            Image.fromarray(smooth()), NAMES[operation], magnitude, interpolation=BILINEAR, fill=fill
        )
    )
    drawn = Plan((112, 112), FILL, trivial_augment=np.array([[operation, sign * bin_ / 30]]))
    difference = np.abs(run(smooth(), drawn, "pil").astype(float) - expected)
    # where the fill begins, Pillow's and torchvision's own arithmetic of a shear differ by a pixel
    assert np.quantile(difference, 0.97) <= 2
    assert difference.mean() < 1


def test_trivial_augment_draws_each_operation_strength_and_sign_alike() -> None:
    config = AugmentConfig(trivial_augment=1.0)
    drawn, _ = drawn_for(config, 14_000)
    assert drawn.trivial_augment is not None and drawn.has_policy
    operation, strength = drawn.trivial_augment.T
    counts = Counter(operation.tolist())
    assert set(counts) == set(range(len(NAMES)))
    assert max(abs(count - 1000) for count in counts.values()) < 160  # five standard deviations
    bins = np.bincount(np.rint(np.abs(strength) * 30).astype(int), minlength=31)
    assert len(bins) == 31 and np.abs(bins - 14_000 / 31).max() < 110
    assert abs((strength > 0).sum() / (strength != 0).sum() - 0.5) < 0.02
    half, _ = drawn_for(AugmentConfig(trivial_augment=0.5), 14_000)
    assert half.trivial_augment is not None
    assert (half.trivial_augment[:, 0] == 0).mean() == pytest.approx(0.5 + 0.5 / 14, abs=0.02)


# ------------------------------------------------------------------ what is drawn on the face


@pytest.mark.parametrize("size", [(112, 112), (64, 80), (112, 96)])
def test_a_drawn_polygon_is_opencvs(size: tuple[int, int]) -> None:
    """The cloth of the mask: inside exactly its color, outside nothing, along the edge in between."""
    cv2 = pytest.importorskip("cv2")
    cloth = next(shape for shape in mask(0.3) if shape.kind == "polygon")
    OCCLUDERS.register("cloth", lambda kind: (cloth,))
    try:
        result = occlude(smooth(*size), "cloth", 0)
    finally:
        OCCLUDERS.unregister("cloth")
    scale = max(size) / 112  # 112x96 is the middle of 112x112
    points = (np.array(cloth.points) + 0.5) * scale - 0.5 - [(112 * scale - side) / 2 for side in reversed(size)]
    area = np.zeros(size, dtype=np.uint8)
    cv2.fillPoly(area, [np.round(points * 256).astype(np.int32)], 255, shift=8)
    inside = cv2.erode(area, np.ones((5, 5), np.uint8)) > 0  # OpenCV's polygons hold their edges' pixels
    outside = cv2.dilate(area, np.ones((3, 3), np.uint8)) == 0
    assert (result[inside] == cloth.color).all()
    assert np.array_equal(result[outside], smooth(*size)[outside])
    assert inside.mean() > 0.13
    assert ((area > 0) & ~inside).sum() + (~outside & (area == 0)).sum() < 0.12 * area.size
    covered = (
        np.abs(result.astype(float) - smooth(*size)).sum()
        / np.abs(np.array(cloth.color) - smooth(*size).astype(float)).sum(axis=2)[area > 0].sum()
    )
    assert covered == pytest.approx(1, abs=0.03)  # the edge is halved, not thickened


@pytest.mark.parametrize("name", ["mask", "glasses", "sunglasses"])
def test_drawings_lie_where_they_should(name: str) -> None:
    gray = np.full((112, 112, 3), 180, dtype=np.uint8)
    for kind in (0.0, 0.4, 0.7, 0.99):
        changed = (occlude(gray, name, kind) != gray).any(axis=2)
        eyes, mouth = changed[44:60, 28:84].mean(), changed[84:100, 42:70].mean()
        if name == "mask":
            assert mouth == 1 and eyes == 0
        else:
            assert mouth == 0 and (eyes > 0.8 if name == "sunglasses" else 0.05 < eyes < 0.5)
    left, right = (occlude(gray, name, 0, x=x) for x in (0.0, np.nextafter(1.0, 0)))
    assert np.array_equal(left[:, :-4], right[:, 4:])  # two pixels to either side


@pytest.mark.parametrize("backend", BACKENDS)
def test_occluders_move_with_the_face(backend: str) -> None:
    config = AugmentConfig(occlusion=0.6, horizontal_flip=1, crop_padding=6)
    drawn, _ = drawn_for(config, 40)
    assert drawn.occluded is not None and drawn.matrix is not None
    hidden = drawn.occluded[:, 0] >= 0
    assert 0.4 < hidden.mean() < 0.8
    assert set(drawn.occluded[hidden, 0]) == {0, 1, 2}
    for index in (int(np.flatnonzero(hidden)[0]), int(np.flatnonzero(~hidden)[0])):
        which, kind, x, y = drawn.occluded[index]
        before = occlude(smooth(), config.occluders[int(which)], kind, x, y) if hidden[index] else smooth()
        plain = dataclasses.replace(drawn, occluded=None)
        assert np.array_equal(run(smooth(), drawn, backend, index), run(before, plain, backend, index))


def test_occluders_are_named_and_open() -> None:
    with pytest.raises(ValueError, match="did you mean 'mask'"):
        AugmentConfig(occluders=("masc",))
    with pytest.raises(ValueError, match="name at least one"):
        AugmentConfig(occluders=())
    OCCLUDERS.register(
        "hand", lambda kind: (Shape("polygon", ((0, 80), (60, 80), (60, 111), (0, 111)), (200, 150, 120)),)
    )
    try:
        drawn, _ = drawn_for(AugmentConfig(occlusion=1, occluders=("hand",)), 1)
        assert (augment_image(smooth(), drawn, 0)[90:105, 5:50] == (200, 150, 120)).all()
    finally:
        OCCLUDERS.unregister("hand")
    assert len(
        {tuple(shape.color) for kind in np.arange(4) / 4 for shape in mask(kind) if shape.kind == "polygon"}
    ) == len(_CLOTH)
    assert augment_recipe("occluded").occlusion == 0.3 and augment_recipe("trivial").trivial_augment == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_padding": 2.5}, "crop_padding: expected a whole number, got 2.5"),
        ({"rand_augment_ops": 1.5}, "rand_augment_ops: expected a whole number, got 1.5"),
        ({"jpeg_quality": 50}, "jpeg_quality: expected 0 < smallest <= largest <= 100, got 50"),
        ({"rotation": "5"}, "rotation: expected 0 to 180, got '5'"),
        ({"occluders": "mask"}, "occluders: expected names, such as"),
    ],
)
def test_values_of_a_wrong_type_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**options)  # type: ignore[arg-type]


# ------------------------------------------------------------------ batches


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", sorted(AUGMENT_RECIPES))
def test_an_image_comes_out_the_same_in_any_batch_and_from_wherever_it_lies(name: str, reverse: bool) -> None:
    """One block, arrays that may not be written, and one image after the other, with more images than are changed at once."""
    images = np.random.default_rng(4).integers(0, 256, (19, 40, 31, 3), dtype=np.uint8)
    before = images.copy()
    images.flags.writeable = False
    config = dataclasses.replace(augment_recipe(name), occlusion=0.3)
    drawn, _ = drawn_for(config, len(images), (40, 31))
    to_input = Normalization(torch.full((3, 1, 1), 1 / 64), torch.tensor([-2.0, -1.9, -1.8]).view(3, 1, 1), reverse)
    block = normalized_batch(torch.from_numpy(images.copy()), drawn, to_input)
    assert torch.equal(normalized_batch(list(images), drawn, to_input), block)
    alone = [normalized_batch([images[row]], drawn.part(slice(row, row + 1)), to_input) for row in range(len(images))]
    assert torch.equal(torch.cat(alone), block)
    assert np.array_equal(images, before)
    assert normalized_batch([], drawn.part(slice(0, 0)), to_input).shape == (0, 3, 40, 31)
