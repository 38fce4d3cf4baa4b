from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facezoo.data import DataError, ImageFolder, ImageList, eval_transform, mean_std
from facezoo.preprocessing import Preprocessing


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, np.ndarray]:
    random = np.random.default_rng(0)
    pixels = []
    for number, size in enumerate([(8, 9), (16, 5), (30, 30)]):
        image = random.integers(0, [256, 100, 20], (*size, 3)).astype(np.uint8)
        (tmp_path / "train" / str(number)).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / "train" / str(number) / "a.png")
        pixels.append(image.reshape(-1, 3))
    return tmp_path / "train", np.concatenate(pixels).astype(np.float64) / 255


@pytest.mark.parametrize("kind", ["folder", "list", "tensors"])
def test_over_all_pixels(folder: tuple[Path, np.ndarray], kind: str) -> None:
    root, pixels = folder
    data: object = ImageFolder(root)
    if kind == "list":
        data = ImageList(sorted(root.glob("*/*")))
    if kind == "tensors":
        data = ImageFolder(root, transform=lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1))
    mean, std = mean_std(data, progress=False)  # type: ignore[arg-type]
    np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=0), rtol=1e-12)


def test_result_standardises_the_data(folder: tuple[Path, np.ndarray]) -> None:
    root, _ = folder
    mean, std = mean_std(ImageFolder(root), progress=False)
    values = []
    for number, (height, width) in enumerate([(8, 9), (16, 5), (30, 30)]):
        transform = eval_transform(Preprocessing((height, width), mean, std))
        values.append(ImageFolder(root, transform)[number][0].flatten(1))
    together = torch.cat(values, dim=1)
    torch.testing.assert_close(together.mean(1), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(together.std(1, correction=0), torch.ones(3), rtol=0, atol=1e-5)


def test_constant_image_has_no_deviation(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (255, 77, 0)).save(tmp_path / "a.png")
    assert mean_std(ImageList([tmp_path / "a.png"]), progress=False) == ((1.0, 77 / 255, 0.0), (0.0, 0.0, 0.0))


def test_progress_bar(folder: tuple[Path, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    mean_std(ImageFolder(folder[0]), progress=False)
    assert capsys.readouterr().err == ""
    mean_std(ImageFolder(folder[0]))
    assert "mean and std" in capsys.readouterr().err


def test_wrong_data(folder: tuple[Path, np.ndarray]) -> None:
    root, _ = folder
    with pytest.raises(
        TypeError, match=r"got torch.float32 tensor \(3, 112, 112\); open the data set without its transform"
    ):
        mean_std(ImageFolder(root, transform=eval_transform(Preprocessing())), progress=False)
    with pytest.raises(DataError, match="empty"):
        mean_std(ImageList([]), progress=False)
