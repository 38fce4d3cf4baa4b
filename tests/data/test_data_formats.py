"""Formats of image files: those that are read, and photos of others, which are never left out without a word."""

from __future__ import annotations

import io
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facezoo.data import (
    DataError,
    ImageDecodeError,
    ImageFolder,
    PackOptions,
    TarStream,
    list_images,
    open_face_data,
    open_source,
    pack,
    read_image,
)
from facezoo.data._listing import images_in
from facezoo.data.aligning import align_folder
from facezoo.data.doctor import examine
from facezoo.data.image import UNREAD_EXTENSIONS

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 3), dtype=np.uint8)


def save(path: Path, kind: str | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).save(path, kind, **options)
    return path


def album(root: Path) -> Path:
    """Ann has a photo that is read and one that is not, Ben has only photos that are not."""
    save(root / "ann" / "1.jpg", "PNG")
    for name in ("ann/2.HEIC", "ben/1.heic", "ben/2.dng", "ben/._3.heic"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"not read")
    return root


# -- formats that are read ----------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("a.jfif", "PNG", {}), ("a.jpe", "PNG", {}), ("a.tif", None, {}), ("a.TIFF", "TIFF", {"compression": "tiff_lzw"}),
        ("a.ppm", None, {}),
    ],
)  # fmt: skip
def test_every_extension_of_a_format_is_read(
    tmp_path: Path, name: str, kind: str | None, options: dict[str, object]
) -> None:
    path = save(tmp_path / "ann" / name, kind, **options)
    assert list_images([tmp_path]) == [path]
    np.testing.assert_array_equal(np.asarray(read_image(path)), PIXELS)


def test_gray_maps_and_the_first_picture_of_several_are_read(tmp_path: Path) -> None:
    first, second = (Image.fromarray(np.full((4, 4), value, dtype=np.uint8)) for value in (10, 200))
    first.save(tmp_path / "a.pgm")
    for name in ("a.gif", "a.tif"):
        first.save(tmp_path / name, save_all=True, append_images=[second])
    for path in list_images([tmp_path]):
        assert np.unique(np.asarray(read_image(path))).tolist() == [10], path


def test_an_orientation_tag_of_a_tiff_is_applied_once(tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[0x112] = 6
    path = save(tmp_path / "ann" / "1.tif", exif=tag)
    np.testing.assert_array_equal(np.asarray(read_image(path)), np.rot90(PIXELS, 3))
    assert pack(open_source(tmp_path), tmp_path / "packed", PackOptions(size=(8, 12))).problems["turned"] == 1


def test_deep_tiffs_are_refused(tmp_path: Path) -> None:
    twelve = np.arange(16, dtype=np.uint16).reshape(4, 4)
    Image.fromarray(twelve).save(tmp_path / "gray.tif")
    (tmp_path / "color.tif").write_bytes(deep_color_tiff())
    with Image.open(tmp_path / "color.tif") as image:
        assert image.mode == "RGB"  # Pillow would keep eight of the sixteen bits
    for name in ("gray.tif", "color.tif"):
        with pytest.raises(ImageDecodeError, match="more than 8 bits"):
            read_image(tmp_path / name)


def deep_color_tiff() -> bytes:
    """One pixel of three times 16 bits, written by hand: Pillow writes none."""
    entries = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 3, 134), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 140),
               (277, 3, 1, 3), (278, 3, 1, 1), (279, 4, 1, 6)]  # fmt: skip
    table = b"".join(
        tag.to_bytes(2, "little")
        + kind.to_bytes(2, "little")
        + count.to_bytes(4, "little")
        + value.to_bytes(4, "little")
        for tag, kind, count, value in entries
    )
    head = b"II*\0" + (8).to_bytes(4, "little") + len(entries).to_bytes(2, "little") + table + b"\0" * 4
    return head.ljust(134, b"\0") + b"\x10\0\x10\0\x10\0" + b"\x00\x01\x00\x02\x00\x03"


def test_a_truncated_tiff_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ImageDecodeError, match=r"a[.]tif"):
        read_image(path)


# -- photos that are not read ----------------------------------------


def test_a_folder_of_photos_that_are_not_read_says_so(tmp_path: Path) -> None:
    for number, ending in enumerate(UNREAD_EXTENSIONS):
        (tmp_path / f"{number}{ending}").touch()
    with pytest.raises(DataError, match=r"holds no images; it has 1 [.]heic.*convert them to JPEG or PNG"):
        list_images([tmp_path])
    with pytest.raises(DataError, match=r"1 [.]heic"):
        open_source(tmp_path)
    with pytest.raises(DataError, match=r"1 [.]heic"):
        align_folder(tmp_path, tmp_path / "crops")


def test_listings_warn_of_photos_that_are_not_read(tmp_path: Path) -> None:
    album(tmp_path)
    with pytest.warns(UserWarning, match=r"photos left out: 2 .heic, 1 .dng \(ann/2.HEIC, ben/1.heic, ben/2.dng\)"):
        assert len(list_images([tmp_path])) == 1
    with pytest.warns(UserWarning, match="photos left out: 1"):
        assert images_in(tmp_path / "ann") == [tmp_path / "ann" / "1.jpg"]
    with pytest.raises(DataError, match=r"ben.* it has 1 .heic, 1 .dng"):
        ImageFolder(tmp_path)
    save(tmp_path / "ben" / "3.png")
    with pytest.warns(UserWarning, match="photos left out: 2"):
        assert ImageFolder(tmp_path).unread == ("ann/2.HEIC", "ben/1.heic", "ben/2.dng")


def test_a_folder_without_such_photos_gives_no_warning(tmp_path: Path) -> None:
    save(tmp_path / "ann" / "1.png")
    (tmp_path / "ann" / "notes.txt").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list_images([tmp_path])
        ImageFolder(tmp_path)


def test_pack_names_each_photo_that_is_not_read(tmp_path: Path) -> None:
    source = open_source(album(tmp_path / "photos"))
    report = pack(source, tmp_path / "packed")
    assert (report.images, report.left_out, report.problems["unread_format"]) == (1, 3, 3)
    rows = (tmp_path / "packed" / "problems.csv").read_text().splitlines()
    assert "ben/2.dng,unread_format,convert it to JPEG or PNG" in rows
    assert "3  left out: photos of a format that is not read" in str(report)
    diagnosis = examine(source)
    assert diagnosis.unread == ["ann/2.HEIC", "ben/1.heic", "ben/2.dng"]
    assert "left out      2 .heic, 1 .dng" in str(diagnosis)


def test_pack_names_those_of_a_data_folder(tmp_path: Path) -> None:
    save(tmp_path / "data" / "train" / "ann" / "1.png")
    (tmp_path / "data" / "train" / "ann" / "2.avif").touch()
    with pytest.warns(UserWarning, match=r"1 [.]avif"):
        open_face_data(tmp_path / "data", dev_fraction=0)
    with pytest.warns(UserWarning, match=r"1 [.]avif"):
        source = open_source(tmp_path / "data", "layout")
    assert list(source.unread) == ["train/ann/2.avif"]
    assert pack(source, tmp_path / "packed").problems["unread_format"] == 1


def test_shards_name_theirs(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.fromarray(PIXELS).save(picture, "PNG")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in (("1.png", picture.getvalue()), ("1.cls", b"0"), ("2.heic", b"-"), ("2.cls", b"0")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert list(open_source(tmp_path / "a.tar").unread) == ["a/2.heic"]
    with pytest.warns(UserWarning, match="photos left out: 1"):
        assert len(list(TarStream(tmp_path / "a.tar"))) == 1


def test_align_lists_them(tmp_path: Path) -> None:
    album(tmp_path / "photos")
    (tmp_path / "points.csv").write_text("name,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5\nann/1.jpg,1,1,6,1,4,4,2,7,6,7\n")
    report = align_folder(tmp_path / "photos", tmp_path / "crops", landmarks=tmp_path / "points.csv")
    assert (report.photos, report.crops, len(report.unreadable)) == (4, 1, 3)
    assert "ben/1.heic" in (tmp_path / "crops" / "report.csv").read_text()
