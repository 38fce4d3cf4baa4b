from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facezoo.cli import main
from facezoo.data import DataError, open_source
from facezoo.data.doctor import contact_sheet, examine


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    for number in range(6):
        path = tmp_path / "faces" / f"p{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
    return tmp_path / "faces"


def test_the_sheet_shows_images_as_they_are_and_augmented(faces: Path, tmp_path: Path) -> None:
    assert main(["preview", str(faces), "--out", str(tmp_path / "s.png"), "--images", "3", "--variants", "2"]) == 0
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    assert sheet.shape == (3 * 40, 3 * 48, 3)
    source = open_source(faces)
    for row, index in enumerate((0, 2, 5)):
        assert np.array_equal(sheet[40 * row : 40 * row + 40, :48], source.pixels(index))
        assert not np.array_equal(sheet[40 * row : 40 * row + 40, 48:96], source.pixels(index))
    contact_sheet(source, tmp_path / "n.png", augment="none", images=1, variants=1)
    plain = np.asarray(Image.open(tmp_path / "n.png"))
    assert np.array_equal(plain[:, :48], plain[:, 48:])
    with pytest.raises(ValueError, match=r"is a \.png or \.jpg; got .*s\.gif"):
        contact_sheet(source, tmp_path / "s.gif")


def test_the_doctor_finds_what_is_there(faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (faces / "p0" / "copy.png").write_bytes((faces / "p0" / "0.png").read_bytes())
    (faces / "p1" / "copy.png").write_bytes((faces / "p0" / "2.png").read_bytes())
    (faces / "p1" / "broken.png").write_bytes(b"x")
    Image.new("RGB", (20, 20)).save(faces / "p1" / "small.png")
    found = examine(open_source(faces))
    assert (found.images, found.looked_at, found.identities, found.splits) == (10, 10, 2, {"train": 10})
    assert found.per_identity == (4, 5.0, 6)
    assert found.sizes == [((40, 48), 8 / 9), ((20, 20), 1 / 9)]
    assert found.unreadable == ["p1/broken.png"]
    assert found.duplicates == [("p0/2.png", "p1/copy.png"), ("p0/0.png", "p0/copy.png")]
    assert found.contradictions == 1
    source = open_source(faces)
    pixels = np.concatenate(
        [source.pixels(n).reshape(-1, 3) for n in range(10) if n != source_index(source, "p1/broken.png")]
    )
    assert found.mean == pytest.approx((pixels / 255).mean(0).tolist())
    assert found.std == pytest.approx((pixels / 255).std(0).tolist())
    assert main(["doctor", str(faces)]) == 0
    said = capsys.readouterr().out
    assert "2 with the same pixels, 1 of them of different identities: p0/2.png = p1/copy.png" in said
    assert examine(source, most=2).looked_at == 2


def source_index(source: object, name: str) -> int:
    return next(n for n in range(len(source)) if source.name(n) == name)  # type: ignore[attr-defined,arg-type]


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="no image can be read"):
        examine(open_source(tmp_path))
