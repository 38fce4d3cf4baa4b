from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facezoo.data import open_face_data, read_lfw_pairs
from facezoo.data.sources import DatasetSource
from facezoo.synthetic import (
    ARCFACE_TEMPLATE,
    LFW_IDENTITIES,
    TRAINING_IDENTITIES,
    VERIFICATION_IDENTITIES,
    Conditions,
    Identity,
    SyntheticFaces,
    SyntheticFacesError,
    render_face,
    sample_conditions,
    sample_identity,
    write_synthetic_faces,
)
from facezoo.synthetic import head as head_module
from facezoo.synthetic import writing as writing_module
from facezoo.training.datasets import labels_of

SMALL = {
    "num_identities": 3,
    "images_per_identity": 2,
    "dev_images": 1,
    "test_images": 1,
    "verification_identities": 8,
    "verification_images": 3,
    "num_pairs": 20,
    "lfw_identities": 20,
    "lfw_images": 2,
    "lfw_pairs_per_fold": 2,
    "size": 32,
    "progress": False,
}


# --- parameters -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(-(2**70), 2**70),
    identity=st.integers(0, 2**42),
    image=st.integers(0, 2**40),
    difficulty=st.floats(0, 1),
)
def test_every_parameter_stays_in_its_range(seed: int, identity: int, image: int, difficulty: float) -> None:
    for table in (sample_identity(seed, identity), sample_conditions(seed, identity, image, difficulty)):
        for row in dataclasses.fields(table):
            value = getattr(table, row.name)
            if "probability" in row.metadata:
                assert isinstance(value, bool)
                continue
            low, high, neutral = (row.metadata[key] for key in ("low", "high", "neutral"))
            assert low <= value <= high, row.name
            if neutral is not None:
                assert low <= neutral <= high, row.name
                reach = max(neutral - low, high - neutral)
                assert abs(value - neutral) <= difficulty * reach + 1e-9, row.name


def test_the_easiest_picture_is_neutral_and_uncovered() -> None:
    for image in range(50):
        how = sample_conditions(0, 0, image, 0.0)
        assert how.yaw == how.pitch == how.roll_error == how.shift_x == how.noise == 0.0
        assert not any(getattr(how, row.name) for row in dataclasses.fields(how) if "probability" in row.metadata)


def test_difficulty_scales_one_and_the_same_draw() -> None:
    half, full = (sample_conditions(3, 1, 4, difficulty) for difficulty in (0.5, 1.0))
    assert half.yaw == pytest.approx(0.5 * full.yaw)
    assert half.texture == full.texture
    covered = [[sample_conditions(3, 1, image, d).glasses for image in range(300)] for d in (0.5, 1.0)]
    assert all(b or not a for a, b in zip(*covered, strict=True))
    assert 0 < sum(covered[0]) < sum(covered[1])


def test_streams_do_not_collide() -> None:
    # One number runs into the next if keys are concatenated carelessly: (1, 23) and (12, 3), 2^32 and (0, 1).
    keys = [(1, 23), (12, 3), (0, 2**32), (0, 1), (1, 0), (0, 2**64), (-1, 0)]
    people = [sample_identity(*key) for key in keys]
    assert len(set(people)) == len(keys)
    assert sample_conditions(0, 1, 23, 1.0) != sample_conditions(0, 12, 3, 1.0)


def test_draws_are_pinned() -> None:
    # A change here changes every written set: raise FORMAT_VERSION with it.
    who, how = sample_identity(0, 0), sample_conditions(0, 0, 0, 1.0)
    assert (who.face_width, who.eye_spacing, who.texture) == pytest.approx(
        (33.06960612909772, 17.643521670125324, 0.11939368292874819), abs=1e-9
    )
    assert (how.yaw, how.light_angle, how.texture) == pytest.approx(
        (-0.3491754370352293, 2.7060509405644484, 0.9986863213733053), abs=1e-9
    )


def test_kinds_of_identities_are_disjoint() -> None:
    for a, b in itertools.combinations((TRAINING_IDENTITIES, VERIFICATION_IDENTITIES, LFW_IDENTITIES), 2):
        assert a.stop <= b.start
    numbers = [
        kind.start + k for kind in (TRAINING_IDENTITIES, VERIFICATION_IDENTITIES, LFW_IDENTITIES) for k in range(200)
    ]
    people = np.array([dataclasses.astuple(sample_identity(0, number)) for number in numbers])
    spread = people.std(0)
    distance = np.sqrt(np.square((people[:, None] - people[None]) / spread).mean(-1))
    np.fill_diagonal(distance, 1.0)
    assert distance.min() > 0.5  # nobody is nearly somebody else


# --- geometry -------------------------------------------------------------------------------------------------------------


def _head(image: int, difficulty: float, identity: int = 0, **changes: float) -> head_module.Head:
    how = dataclasses.replace(sample_conditions(0, identity, image, difficulty), **changes)
    return head_module.Head(sample_identity(0, identity), how, 112, np.random.default_rng(0))


def test_similarity_recovers_rotation_scale_and_shift() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(5, 2))
    turn = 0.7
    matrix = 1.9 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    found, offset = head_module._similarity(points, points @ matrix.T + [3.0, -5.0])
    np.testing.assert_allclose(found, matrix, atol=1e-12)
    np.testing.assert_allclose(offset, [3.0, -5.0], atol=1e-12)


def test_similarity_is_least_squares() -> None:
    rng = np.random.default_rng(1)
    source, target = rng.normal(size=(5, 2)), rng.normal(size=(5, 2))
    matrix, offset = head_module._similarity(source, target)
    x, y, zero, one = source[:, 0], source[:, 1], np.zeros(5), np.ones(5)
    design = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, c, d = np.linalg.lstsq(design, np.concatenate([target[:, 0], target[:, 1]]), rcond=None)[0]
    np.testing.assert_allclose(matrix, [[a, -b], [b, a]], atol=1e-12)
    np.testing.assert_allclose(offset, [c, d], atol=1e-12)


def test_frontal_landmarks_lie_near_the_template() -> None:
    errors = []
    for identity in range(60):
        head = _head(0, 0.0, identity)
        who = head.who
        points = np.array(
            [[-who.eye_spacing, who.eye_height], [who.eye_spacing, who.eye_height], [who.nose_bend, who.nose_tip]]
        )
        errors.append(points @ head.to_picture.T + head.offset - ARCFACE_TEMPLATE[:3])
    assert np.abs(np.mean(errors, axis=0)).max() < 2.0
    assert np.abs(errors).max() < 8.0  # noses are long or short


@pytest.mark.parametrize("image", range(5))
def test_skull_coordinates_are_where_the_rays_meet_the_ellipsoid(image: int) -> None:
    head = _head(image, 1.0)
    point = np.stack([head.screen_x, head.screen_y, head.relief], -1) @ head.rotation  # back to head coordinates
    np.testing.assert_allclose(point[..., 0], head.x, atol=1e-3)
    np.testing.assert_allclose(point[..., 1], head.y, atol=1e-3)
    level = np.square(point / head_module._SKULL).sum(-1)
    inside = slice(45, 80)
    np.testing.assert_allclose(level[inside, inside], 1.0, atol=1e-3)


@pytest.mark.parametrize("image", range(5))
def test_alignment_is_the_best_similarity_for_the_posed_landmarks(image: int) -> None:
    still = {"roll_error": 0.0, "scale_error": 0.0, "shift_x": 0.0, "shift_y": 0.0}
    head = _head(image, 1.0, **still)
    who, mouth_y = head.who, head.who.mouth_height + head.corner_lift
    points = [(-who.eye_spacing, who.eye_height), (who.eye_spacing, who.eye_height), (who.nose_bend, who.nose_tip)]
    points += [(-head.mouth_width, mouth_y), (head.mouth_width, mouth_y)]
    depths = [head_module.skull_depth(*point) for point in points]
    depths[2] = head_module.skull_depth(0.0, who.nose_tip) + who.nose_depth
    posed = np.column_stack([points, depths]) @ head.rotation.T
    matrix, offset = head_module._similarity(posed[:, :2], ARCFACE_TEMPLATE)
    np.testing.assert_allclose(head.to_picture, matrix, atol=1e-9)
    np.testing.assert_allclose(head.offset, offset, atol=1e-9)
    shifted = _head(image, 1.0, **{**still, "shift_x": 3.0, "shift_y": -2.0})
    np.testing.assert_allclose(shifted.offset - head.offset, [3.0, -2.0], atol=1e-9)


def test_yaw_moves_the_nose_ahead_of_the_eyes() -> None:
    def nose_against_eyes(yaw: float) -> float:
        head = _head(0, 0.0, yaw=yaw)
        who = head.who
        depth = head_module.skull_depth(0.0, who.nose_tip) + who.nose_depth
        eyes = head_module.skull_depth(who.eye_spacing, who.eye_height)
        points = np.array([[0.0, who.nose_tip, depth], [-who.eye_spacing, 0.0, eyes], [who.eye_spacing, 0.0, eyes]])
        x = (points @ head.rotation.T)[:, :2] @ head.to_picture.T
        return float(x[0, 0] - x[1:, 0].mean())

    assert nose_against_eyes(0.5) > nose_against_eyes(0.0) + 3.0
    assert nose_against_eyes(-0.5) < nose_against_eyes(0.0) - 3.0


def test_a_patch_is_a_view_with_the_coordinates_of_its_pixels() -> None:
    head = _head(2, 1.0)
    patch = head.patch(10.0, -5.0, 6.0)
    near = np.hypot(patch.x - 10.0, patch.y + 5.0)
    assert near.min() < 1.5
    patch.image[:] = 1.0
    assert head.image.sum() == patch.image.size
    assert head.patch(500.0, 0.0, 5.0).image.size == 0  # beside the picture: empty, not wrapped around


# --- pictures -------------------------------------------------------------------------------------------------------------


def test_a_picture_depends_on_its_numbers_alone() -> None:
    first = SyntheticFaces(3, 2, seed=5)
    wanted = {(i, k): first.render(i, k) for i in range(3) for k in range(2)}
    other = SyntheticFaces(50, 7, seed=5)
    for (i, k), picture in reversed(wanted.items()):
        np.testing.assert_array_equal(other.render(i, k), picture)
        np.testing.assert_array_equal(np.asarray(other[i * 7 + k][0]), picture)
    later = SyntheticFaces(1, 1, seed=5, first_identity=2, first_image=1)
    np.testing.assert_array_equal(later.render(0, 0), wanted[2, 1])
    assert not np.array_equal(SyntheticFaces(3, 2, seed=6).render(0, 0), wanted[0, 0])
    pictures = list(wanted.values())
    assert all(not np.array_equal(a, b) for a, b in itertools.combinations(pictures, 2))


def test_threads_draw_the_same_pictures() -> None:
    faces = SyntheticFaces(4, 4)
    alone = [faces.render(k, k) for k in range(16)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda k: faces.render(k, k), range(16)))
    np.testing.assert_array_equal(alone, together)


def test_items_are_pil_images_with_labels_from_zero() -> None:
    faces = SyntheticFaces(3, 2, first_identity=VERIFICATION_IDENTITIES.start, size=48)
    assert len(faces) == 6
    items = list(faces)  # also shows that iteration ends
    assert [label for _, label in items] == [0, 0, 1, 1, 2, 2]
    assert all(isinstance(image, Image.Image) and image.size == (48, 48) and image.mode == "RGB" for image, _ in items)
    assert faces[-1][1] == 2
    assert len(set(faces.classes)) == 3
    with pytest.raises(IndexError, match="6 images"):
        faces[6]
    transformed = SyntheticFaces(1, 1, transform=lambda image: torch.from_numpy(np.array(image)))[0][0]
    assert transformed.shape == (112, 112, 3)
    assert transformed.dtype == torch.uint8


def test_labels_are_known_without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    faces = SyntheticFaces(3, 2, first_identity=5, size=32)
    drawn = [label for _, label in (faces[index] for index in range(len(faces)))]
    monkeypatch.setattr(SyntheticFaces, "render", lambda *_: pytest.fail("a picture was drawn"))
    assert DatasetSource(faces).labels.tolist() == labels_of(faces).tolist() == drawn


def test_data_set_travels_to_workers() -> None:
    faces = SyntheticFaces(2, 2, seed=3, difficulty=0.4)
    again = pickle.loads(pickle.dumps(faces))
    assert repr(again) == repr(faces)
    np.testing.assert_array_equal(again.render(1, 1), faces.render(1, 1))


@pytest.mark.parametrize("size", [32, 64, 100, 160, 224])
def test_any_size_shows_the_same_picture(size: int) -> None:
    for identity in range(3):
        how = dataclasses.replace(sample_conditions(0, identity, 0, 0.2), noise=0.0, jpeg_quality=95.0)
        who = sample_identity(0, identity)
        reference = Image.fromarray(render_face(who, how)).resize((32, 32), Image.Resampling.BOX)
        picture = render_face(who, how, size)
        assert picture.shape == (size, size, 3)
        assert picture.dtype == np.uint8
        small = Image.fromarray(picture).resize((32, 32), Image.Resampling.BOX)
        difference = np.abs(np.asarray(small, np.float64) - np.asarray(reference, np.float64))
        assert difference[4:28, 4:28].mean() < 8.0


def test_extreme_tables_draw_without_warnings() -> None:
    # Every parameter at either end, all things in front of the face at once: no division by zero, no overflow, no empty shape.
    rng = np.random.default_rng(0)
    for trial in range(30):
        tables = []
        for table in (Identity, Conditions):
            values = {}
            for row in dataclasses.fields(table):
                high = trial == 0 or (trial > 1 and rng.random() < 0.5)
                values[row.name] = high if "probability" in row.metadata else row.metadata["high" if high else "low"]
            tables.append(table(**{**values, "texture": 0.5}))
        picture = render_face(*tables)
        assert picture.std() > 2.0, trial


def test_eyes_are_dark_spots_at_the_template() -> None:
    eye, cheek = [], []
    for identity in range(40):
        how = dataclasses.replace(sample_conditions(0, identity, 0, 0.0))
        picture = render_face(sample_identity(0, identity), how).astype(float).mean(-1)
        for x, y in ARCFACE_TEMPLATE[:2].round().astype(int):
            eye.append(picture[y - 2 : y + 3, x - 2 : x + 3].min())
            cheek.append(picture[y + 18 : y + 23, x - 2 : x + 3].mean())
    assert np.mean(np.array(eye) < 0.6 * np.array(cheek)) > 0.95


def _eer(features: np.ndarray, labels: np.ndarray) -> float:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    i, j = np.triu_indices(len(labels), 1)
    scores, same = (unit @ unit.T)[i, j], labels[i] == labels[j]
    genuine, impostor = np.sort(scores[same]), np.sort(scores[~same])
    thresholds = np.sort(scores)
    reject = np.searchsorted(genuine, thresholds) / len(genuine)
    accept = 1 - np.searchsorted(impostor, thresholds) / len(impostor)
    best = np.argmin(np.abs(reject - accept))
    return float(reject[best] + accept[best]) / 2


@pytest.fixture(scope="module")
def verification_pictures() -> tuple[np.ndarray, np.ndarray]:
    faces = SyntheticFaces(40, 6, first_identity=VERIFICATION_IDENTITIES.start)
    pictures = np.stack([np.asarray(image) for image, _ in faces]).astype(np.float64) / 255 - 0.5
    return pictures, np.repeat(np.arange(40), 6)


@pytest.mark.parametrize("name", ["pixels", "centered pixels", "face region", "mean color", "border"])
def test_trivial_features_do_not_tell_identities_apart(
    verification_pictures: tuple[np.ndarray, np.ndarray], name: str
) -> None:
    pictures, labels = verification_pictures
    features = {
        "pixels": pictures.reshape(len(pictures), -1),
        "centered pixels": (pictures - pictures.mean(0)).reshape(len(pictures), -1),
        "face region": (pictures - pictures.mean(0))[:, 28:100, 28:84].reshape(len(pictures), -1),
        "mean color": (pictures - pictures.mean(0)).mean((1, 2)),
        "border": (pictures - pictures.mean(0))[:, :, :6].reshape(len(pictures), -1),
    }[name]
    assert _eer(features, labels) > 0.38


def test_identity_shows_when_conditions_do_not_change() -> None:
    faces = SyntheticFaces(30, 4, difficulty=0.0)
    pictures = np.stack([np.asarray(image) for image, _ in faces]).astype(np.float64)[:, 20:100, 28:84]
    assert _eer((pictures - pictures.mean(0)).reshape(120, -1), np.repeat(np.arange(30), 4)) < 0.1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_identities": 0}, ValueError, "num_identities is an integer of at least 1, got 0"),
        ({"num_identities": 2.0}, ValueError, "num_identities is an integer"),
        ({"images_per_identity": True}, ValueError, "images_per_identity is an integer"),
        ({"first_identity": -1}, ValueError, "first_identity is an integer of at least 0"),
        ({"first_identity": 2**42}, ValueError, "numbers end at"),
        ({"size": 8}, ValueError, "size is an integer of at least 32"),
        ({"difficulty": 1.5}, ValueError, "difficulty must be a fraction"),
        ({"difficulty": float("nan")}, ValueError, "difficulty must be a fraction"),
        ({"seed": "a"}, ValueError, "seed is an integer"),
    ],
)
def test_bad_arguments_of_the_data_set(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SyntheticFaces(**{"num_identities": 2, "images_per_identity": 2, **arguments})


# --- writing --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_faces(tmp_path_factory.mktemp("written") / "faces", **SMALL)


def _lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()]


def test_layout(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == [
        "cls_data", "lfw", "synthetic_faces.json", "test_pairs.txt", "test_pairs_labels.txt", "val_pairs.txt", "ver_data",
    ]  # fmt: skip
    for split, count in {"train": 2, "dev": 1, "test": 1}.items():
        folders = sorted((written / "cls_data" / split).iterdir())
        assert [folder.name for folder in folders] == ["id_00000", "id_00001", "id_00002"]
        assert all(len(list(folder.glob("*.jpg"))) == count for folder in folders)
    assert len(list((written / "ver_data").glob("*.jpg"))) == 8 * 3
    assert len(list((written / "lfw").glob("*/*.jpg"))) == 20 * 2
    for path in written.rglob("*.jpg"):
        with Image.open(path) as image:
            assert (image.size, image.mode, image.format) == ((32, 32), "RGB", "JPEG")
    assert not list(written.parent.glob(".*"))


def test_written_pictures_are_those_of_the_data_set(written: Path) -> None:
    faces = SyntheticFaces(3, 2, size=32)
    with Image.open(written / "cls_data/train/id_00002/0001.jpg") as image:
        difference = np.abs(np.asarray(image, np.float64) - faces.render(2, 1))
    assert difference.mean() < 4.0  # JPEG once more


def test_splits_show_the_same_people_in_other_pictures(written: Path) -> None:
    contents = [path.read_bytes() for path in sorted((written / "cls_data").rglob("*.jpg"))]
    assert len(set(contents)) == len(contents)


def _people_of_ver_data(root: Path) -> dict[str, int]:
    """Which person a file of ver_data shows, found by its picture alone."""
    known = {}
    for person in range(8):
        for image in range(3):
            picture = SyntheticFaces(1, 1, first_identity=VERIFICATION_IDENTITIES.start + person, size=32).render(
                0, image
            )
            known[person, image] = picture.astype(np.float64)
    people = {}
    for path in (root / "ver_data").iterdir():
        with Image.open(path) as picture:
            pixels = np.asarray(picture, np.float64)
        people[path.name] = min(known, key=lambda key: float(np.abs(known[key] - pixels).mean()))[0]
    return people


def test_pair_lists(written: Path) -> None:
    people = _people_of_ver_data(written)
    val, test = _lines(written / "val_pairs.txt"), _lines(written / "test_pairs_labels.txt")
    assert [line[:2] for line in test] == _lines(written / "test_pairs.txt")
    for pairs in (val, test):
        assert len(pairs) == 20
        assert [label for *_, label in pairs].count("1") == 10
        assert len({frozenset(line[:2]) for line in pairs}) == 20
        labels = [label for *_, label in pairs]
        assert labels != sorted(labels)
        assert labels != sorted(labels, reverse=True)
        for a, b, label in pairs:
            assert a != b
            assert (people[a] == people[b]) == (label == "1")
    shown = [{people[name] for line in pairs for name in line[:2]} for pairs in (val, test)]
    assert not shown[0] & shown[1]
    # The order of the names tells nothing.
    in_order = [people[name] for name in sorted(people)]
    assert sum(a == b for a, b in itertools.pairwise(in_order)) < 8


def test_lfw_protocol(written: Path) -> None:
    lines = [line.split("\t") for line in (written / "lfw/pairs.txt").read_text().splitlines()]
    assert lines[0] == ["10", "2"]
    assert len(lines) == 1 + 10 * 4
    people_of_folds = []
    for fold in range(10):
        block = lines[1 + 4 * fold : 5 + 4 * fold]
        assert [len(line) for line in block] == [3, 3, 4, 4]
        names = set()
        for line in block:
            a, first, b, second = line if len(line) == 4 else [line[0], line[1], line[0], line[2]]
            assert (a == b) == (len(line) == 3)
            assert (a, first) != (b, second)
            for name, number in ((a, first), (b, second)):
                assert (written / "lfw" / name / f"{name}_{int(number):04d}.jpg").is_file()
            names |= {a, b}
        people_of_folds.append(names)
    assert sum(map(len, people_of_folds)) == len(set().union(*people_of_folds))


def test_a_second_call_returns_at_once(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing_module, "_write_images", lambda *args: pytest.fail("drew again"))
    assert write_synthetic_faces(str(written), **SMALL) == written


def test_pictures_do_not_depend_on_counts_or_workers(written: Path, tmp_path: Path) -> None:
    more = {**SMALL, "num_identities": 4, "images_per_identity": 3, "lfw_identities": 0, "num_workers": 1}
    root = write_synthetic_faces(tmp_path / "more", **more)
    for path in (written / "cls_data").rglob("*.jpg"):
        assert (root / path.relative_to(written)).read_bytes() == path.read_bytes()
    assert (root / "val_pairs.txt").read_text() == (written / "val_pairs.txt").read_text()
    assert not (root / "lfw").exists()


def test_an_empty_folder_is_taken_and_others_are_left_alone(tmp_path: Path) -> None:
    small = {**SMALL, "lfw_identities": 0}
    empty = tmp_path / "empty"
    empty.mkdir()
    write_synthetic_faces(empty, **small)
    with pytest.raises(SyntheticFacesError, match=r"other synthetic faces \(seed 0, not 1\)"):
        write_synthetic_faces(empty, **{**small, "seed": 1})
    before = sorted(empty.rglob("*"))

    record = json.loads((empty / "synthetic_faces.json").read_text())
    (empty / "synthetic_faces.json").write_text(json.dumps({**record, "version": -1}))
    with pytest.raises(SyntheticFacesError, match="format version -1"):
        write_synthetic_faces(empty, **small)
    (empty / "synthetic_faces.json").write_text("[]")
    with pytest.raises(SyntheticFacesError, match="cannot be understood"):
        write_synthetic_faces(empty, **small)
    assert sorted(empty.rglob("*")) == before

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(SyntheticFacesError, match="not empty and holds no synthetic faces"):
        write_synthetic_faces(foreign, **small)
    assert (foreign / "thesis.txt").read_text() == "years of work"
    with pytest.raises(SyntheticFacesError, match="is not a folder"):
        write_synthetic_faces(foreign / "thesis.txt", **small)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "no space left on the disk of .*free some space"),
        (errno.EACCES, "cannot write .*choose a folder"),
    ],
)
def test_a_failure_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    calls = itertools.count()
    save = Image.Image.save

    def failing(self: Image.Image, target: object, *args: object, **options: object) -> None:
        if isinstance(target, Path) and next(calls) == 5:
            raise OSError(number, "simulated", str(target))
        save(self, target, *args, **options)

    monkeypatch.setattr(Image.Image, "save", failing)
    with pytest.raises(SyntheticFacesError, match=message):
        write_synthetic_faces(tmp_path / "faces", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writing_module, "_write_chunk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic_faces(tmp_path / "faces", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SyntheticFacesError, match="cannot write synthetic faces to"):
        write_synthetic_faces(tmp_path / "file" / "faces", **SMALL)


def test_two_writers_of_one_set_agree(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slower of two writers finds the folder taken: the same set is as good as its own, another one is an error."""
    root = tmp_path / "faces"
    write_images = writing_module._write_images

    def overtaken(seed: int) -> None:
        def draw(*args: object) -> None:
            monkeypatch.setattr(writing_module, "_write_images", write_images)
            write_synthetic_faces(root, **{**SMALL, "seed": seed})
            write_images(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(writing_module, "_write_images", draw)

    overtaken(seed=0)
    assert write_synthetic_faces(root, **SMALL) == root
    root = tmp_path / "others"
    overtaken(seed=1)
    with pytest.raises(SyntheticFacesError, match="other synthetic faces"):
        write_synthetic_faces(root, **SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces", "others"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_pairs": 21}, "num_pairs must be even"),
        ({"num_pairs": 200}, "num_pairs asks for 100 genuine pairs among 4 people with 3 pictures each, which make 12"),
        ({"lfw_pairs_per_fold": 3}, "lfw_pairs_per_fold asks for 3 genuine pairs among 2 people"),
        ({"lfw_identities": 19}, "lfw_identities must be 0 or at least 20"),
        ({"verification_identities": 3}, "verification_identities is an integer of at least 4"),
        ({"num_identities": 2**41}, "num_identities must be at most"),
        ({"num_workers": -1}, "num_workers is an integer of at least 0"),
    ],
)
def test_impossible_requests_fail_before_anything_is_drawn(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_synthetic_faces(tmp_path / "faces", **{**SMALL, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_the_readers_of_the_library_read_it(written: Path) -> None:
    data = open_face_data(written)
    assert len(data.classes) == 3
    assert [len(split) for split in (data.train, data.dev, data.test)] == [6, 3, 3]
    assert len(data.val_pairs) == len(data.test_pairs) == 20
    assert int(data.val_pairs.labels.sum()) == 10
    assert data.test_pairs.labels is None
    lfw = read_lfw_pairs(written / "lfw/pairs.txt", written / "lfw")
    assert len(lfw) == 40
    assert torch.bincount(lfw.folds).tolist() == [4] * 10
    assert torch.bincount(lfw.folds[lfw.labels]).tolist() == [2] * 10
