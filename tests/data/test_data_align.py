"""Alignment beside scikit-image and OpenCV, and on pictures whose points are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facezoo.cli import main
from facezoo.data import DataError
from facezoo.data.align import ARCFACE_POINTS, align_faces, looks_aligned, similarity_transform, template_points
from facezoo.data.aligning import align_folder
from facezoo.data.detection import Detector, Face, YuNet, choose, read_landmarks


def faces(count: int, seed: int = 0) -> np.ndarray:
    """Five points of people who are turned, far, near and off the middle, with errors of a detector."""
    rng = np.random.default_rng(seed)
    angle, scale = rng.uniform(-np.pi, np.pi, count), rng.uniform(0.3, 6, count)
    turn = np.stack([np.stack([np.cos(angle), -np.sin(angle)], -1), np.stack([np.sin(angle), np.cos(angle)], -1)], -2)
    points = np.array(ARCFACE_POINTS) @ (turn * scale[:, None, None]) + rng.uniform(-200, 200, (count, 1, 2))
    return points + rng.normal(0, 2, points.shape) * scale[:, None, None]


def test_the_transform_is_scikit_images() -> None:
    skimage = pytest.importorskip("skimage.transform")
    source = faces(50)
    ours = similarity_transform(torch.from_numpy(source), template_points(112)).numpy()
    for points, matrix in zip(source, ours, strict=True):
        theirs = skimage.SimilarityTransform()
        theirs.estimate(points, np.array(ARCFACE_POINTS)) if not hasattr(
            skimage.SimilarityTransform, "from_estimate"
        ) else None
        if hasattr(skimage.SimilarityTransform, "from_estimate"):
            theirs = skimage.SimilarityTransform.from_estimate(points, np.array(ARCFACE_POINTS))
        np.testing.assert_allclose(matrix, theirs.params[:2], rtol=1e-7, atol=1e-7)


def test_the_transform_is_opencvs_on_points_without_errors() -> None:
    cv2 = pytest.importorskip("cv2")
    angle = 0.4
    turn = 2.5 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    source = np.array(ARCFACE_POINTS) @ turn.T + [30, -20]
    theirs, _ = cv2.estimateAffinePartial2D(source, np.array(ARCFACE_POINTS), method=cv2.LMEDS)
    ours = similarity_transform(torch.from_numpy(source)[None], template_points(112))[0].numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_no_mirror_even_where_one_would_fit_better() -> None:
    mirrored = torch.tensor(ARCFACE_POINTS, dtype=torch.float64) * torch.tensor([-1.0, 1.0])
    matrix = similarity_transform(mirrored[None], template_points(112))[0]
    assert float(torch.linalg.det(matrix[:, :2])) > 0


@pytest.mark.parametrize("size", [112, (112, 96), 224, (256, 256)])
def test_template_of_other_sizes(size: int | tuple[int, int]) -> None:
    points = template_points(size)
    if size == 112:
        assert points.tolist() == [list(point) for point in ARCFACE_POINTS]
    elif size == (112, 96):
        assert torch.allclose(points, template_points(112) - torch.tensor([8.0, 0.0], dtype=torch.float64))
    else:
        side = size if isinstance(size, int) else size[0]
        assert torch.allclose((points + 0.5) / side, (template_points(112) + 0.5) / 112)


def test_the_warp_is_opencvs() -> None:
    cv2 = pytest.importorskip("cv2")
    y, x = np.mgrid[:300, :400]
    image = np.stack(
        [127 + 100 * np.sin(x / 19), 127 + 100 * np.cos(y / 23), 127 + 100 * np.sin((x + y) / 31)], -1
    ).astype(np.uint8)
    source = np.array(ARCFACE_POINTS) * 1.4 + [90, 40]
    matrix = similarity_transform(torch.from_numpy(source)[None], template_points(112))[0].numpy()
    theirs = cv2.warpAffine(image, matrix, (112, 112), flags=cv2.INTER_LINEAR)
    ours = align_faces(torch.from_numpy(image).permute(2, 0, 1)[None], torch.from_numpy(source)[None])[0]
    assert np.abs(ours.permute(1, 2, 0).numpy().astype(int) - theirs).max() <= 3


def blobs(points: np.ndarray, size: int, radius: float) -> np.ndarray:
    x, y = (np.exp(-((np.arange(size) - points[:, axis, None]) ** 2) / (2 * radius**2)) for axis in (0, 1))
    return y[:, :, None] * x[:, None, :]


def test_hundred_pictures_with_known_points() -> None:
    """Each point is a blob of its own channel; where it lies in the crop is the alignment error."""
    rng = np.random.default_rng(1)
    template = np.array(ARCFACE_POINTS)
    errors = []
    for _ in range(100):
        angle, scale = rng.uniform(-0.7, 0.7), rng.uniform(0.7, 3.2)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        source = (template - 56) @ turn.T + 256 + rng.uniform(-40, 40, 2)
        image = torch.from_numpy(blobs(source, 512, 4 * scale)).to(torch.float32)
        crop = align_faces([image], torch.from_numpy(source)[None])[0].numpy()
        y, x = np.mgrid[:112, :112]
        found = np.stack([[(c * x).sum() / c.sum(), (c * y).sum() / c.sum()] for c in crop])
        errors.append(np.linalg.norm(found - template, axis=1).max())
    assert np.median(errors) < 0.02
    assert np.quantile(errors, 0.99) < 0.05


def test_large_faces_are_averaged_and_not_picked() -> None:
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.integers(0, 256, (1, 1, 1120, 1120), dtype=np.uint8))
    points = ((template_points(112) + 0.5) * 10 - 0.5)[None]
    assert float(align_faces(noise, points).float().std()) < 15
    assert float(align_faces(noise, points, antialias=False).float().std()) > 30


def test_gradients_reach_float_images() -> None:
    image = torch.rand(1, 3, 60, 60, requires_grad=True)
    align_faces(image, torch.from_numpy(np.array(ARCFACE_POINTS) / 2)[None]).sum().backward()
    assert image.grad is not None
    assert float(image.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        (torch.zeros(1, 5, 2), "face 0 lie in one place"),
        (torch.full((1, 5, 2), float("nan")), "NaN or infinite"),
        (torch.zeros(2, 5, 2), "1 images and 2 faces"),
        (torch.zeros(1, 5, 3), r"expected \(N, K, 2\)"),
        (torch.zeros(1, 4, 2), "expected"),
    ],
)
def test_landmarks_that_are_none(landmarks: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        align_faces(torch.zeros(1, 3, 8, 8), landmarks)


def test_autocast_changes_no_crop() -> None:
    """The networks around it may run in bfloat16; positions of pixels do not fit in its 8 bits."""
    image = torch.randint(0, 256, (1, 3, 300, 300), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    points = torch.from_numpy(np.array(ARCFACE_POINTS) * 2 + 20.25)[None]
    with torch.autocast("cpu", torch.bfloat16):
        crop = align_faces(image, points)
    assert torch.equal(crop, align_faces(image, points))
    assert align_faces(image.to(torch.bfloat16), points).dtype == torch.bfloat16


def test_aligned_crops_are_known() -> None:
    assert looks_aligned(template_points(112) + 3, (112, 112))
    assert not looks_aligned(template_points(112) * 0.5, (112, 112))
    assert looks_aligned(template_points((112, 96)), (112, 96))


# ------------------------------------------------------------------ folders


def write_photos(root: Path) -> dict[str, list[list[float]]]:
    points = {}
    for number, name in enumerate(("ann/1.jpg", "ann/1.png", "bob/2.png")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(number).integers(0, 256, (150, 200, 3), dtype=np.uint8)
        Image.fromarray(image).save(root / name)
        points[name] = (np.array(ARCFACE_POINTS) + 20 + number).tolist()
    (root / "bob" / "3.jpg").write_bytes(b"broken")
    return points


def test_align_with_landmarks_needs_no_detector(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = write_photos(tmp_path / "photos")
    del points["bob/2.png"]
    (tmp_path / "l.json").write_text(json.dumps(points))
    out = tmp_path / "crops"
    assert (
        main(
            [
                "align",
                str(tmp_path / "photos"),
                "--out",
                str(out),
                "--landmarks",
                str(tmp_path / "l.json"),
                "--size",
                "112x96",
            ]
        )
        == 0
    )
    assert "2 crops of 4 photos; 1 without a face, 1 that cannot be read" in capsys.readouterr().out
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png")) == ["ann/1.png", "ann/1_png.png"]
    assert (out / "report.csv").read_text().count("\n") == 5
    crop = np.asarray(Image.open(out / "ann" / "1_png.png"))
    photo = np.asarray(Image.open(tmp_path / "photos" / "ann" / "1.png"))
    assert np.array_equal(crop, photo[21:133, 29:125])  # shifted by whole pixels, the middle 96 columns


class Fixed(Detector):
    def __call__(self, pixels: np.ndarray) -> list[Face]:
        points = np.array(ARCFACE_POINTS)
        return [Face((0, 0, 50, 50), points, 0.9), Face((60, 40, 80, 80), points + 5, 0.8)]


def test_which_faces(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    sheet = tmp_path / "sheet.png"
    report = align_folder(tmp_path / "photos", tmp_path / "all", detector=Fixed(), which="all", sheet=sheet)
    shown, crops = np.asarray(Image.open(sheet)), [row[1] for row in report.rows[1:] if row[1]]
    assert shown.shape == (112, 112 * len(crops), 3)
    for number, crop in enumerate(crops):
        assert np.array_equal(
            shown[:, 112 * number : 112 * number + 112], np.asarray(Image.open(tmp_path / "all" / crop))
        )
    with pytest.raises(ValueError, match=r"is a \.png or \.jpg"):
        align_folder(tmp_path / "photos", tmp_path / "none", detector=Fixed(), sheet=tmp_path / "sheet.gif")
    assert not (tmp_path / "none").exists()
    assert report.crops == 6
    assert (tmp_path / "all" / "bob" / "2_png_1.png").exists()
    found = Fixed()(np.zeros((150, 200, 3)))
    assert choose(found, "largest", (150, 200)) == [found[1]]
    assert choose(found, "central", (40, 40)) == [found[0]]
    assert choose([], "largest", (1, 1)) == []
    with pytest.raises(ValueError, match="'biggest'"):
        choose(found, "biggest", (1, 1))  # type: ignore[arg-type]


def test_landmark_files(tmp_path: Path) -> None:
    csv = tmp_path / "l.csv"
    row = ",".join(str(number) for number in range(10))
    csv.write_text(f"file,{','.join('xyxyxyxyxy')}\na b.jpg,{row}\n./c.jpg,{row}\n")
    read = read_landmarks(csv)
    assert list(read) == ["a b.jpg", "c.jpg"]
    assert read["c.jpg"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    for text, message in (
        ("a,1,2\n", "line 1: expected five points"),
        (f"a,{row[:-1]}x\n", "no landmarks"),
        (f"a,nan,{row[2:]}\n", "not finite"),
    ):
        csv.write_text(text)
        with pytest.raises(DataError, match=message):
            read_landmarks(csv)
    (tmp_path / "l.json").write_text("[1]")
    with pytest.raises(DataError, match="no landmarks"):
        read_landmarks(tmp_path / "l.json")


def test_yunet_says_what_it_needs(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    with pytest.raises(ValueError, match="--detector-weights"):
        YuNet(None)
    with pytest.raises(FileNotFoundError, match=r"no file of detector weights .*gone\.onnx"):
        YuNet(tmp_path / "gone.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(DataError, match=r"cannot read .*bad\.onnx.* as YuNet"):
        YuNet(tmp_path / "bad.onnx")


def test_every_crop_has_its_own_file(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.jpeg", "b.jpg", "b_1.jpg", "c.png", "c_png.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((150, 200, 3), dtype=np.uint8)).save(path)
    report = align_folder(tmp_path / "photos", tmp_path / "out", detector=Fixed(), which="all")
    crops = [row[1] for row in report.rows[1:]]
    assert report.crops == len(set(crops)) == len(list((tmp_path / "out").rglob("*.png"))) == 12


def test_a_bad_row_of_landmarks_costs_one_photo(tmp_path: Path) -> None:
    points = write_photos(tmp_path / "photos")
    first = next(iter(points))
    points[first] = [[5.0, 5.0]] * 5
    (tmp_path / "l.json").write_text(json.dumps(points))
    report = align_folder(tmp_path / "photos", tmp_path / "out", landmarks=tmp_path / "l.json")
    assert report.without_face == [first]
    assert report.crops == len(points) - 1
    assert [first, "", "1.000", "landmarks: all points of face 0 lie in one place"] in report.rows
    with pytest.raises(ValueError, match="from 1 to 4096 pixels; got 0"):
        align_folder(tmp_path / "photos", tmp_path / "none", landmarks=tmp_path / "l.json", size=0)


def test_landmarks_by_the_names_that_verify_takes_too(tmp_path: Path) -> None:
    points = write_photos(tmp_path / "photos")
    by_path = {f"photos/{name}": values for name, values in points.items()}
    (tmp_path / "path.json").write_text(json.dumps(by_path))
    assert align_folder(tmp_path / "photos", tmp_path / "a", landmarks=tmp_path / "path.json").crops == len(points)
    by_name = {name.rpartition("/")[2]: values for name, values in points.items()}
    (tmp_path / "name.json").write_text(json.dumps(by_name))
    names = [name.rpartition("/")[2] for name in points]
    report = align_folder(tmp_path / "photos", tmp_path / "b", landmarks=tmp_path / "name.json")
    assert report.crops == sum(names.count(name) == 1 for name in names)
    (tmp_path / "other.json").write_text(json.dumps({"x.jpg": by_name[names[0]]}))
    with pytest.raises(DataError, match=r"landmarks of 'x\.jpg'.*of none of the"):
        align_folder(tmp_path / "photos", tmp_path / "c", landmarks=tmp_path / "other.json")
