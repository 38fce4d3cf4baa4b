"""Folders, images and lists as they come from outside: one listing, one decision, and a line that says what is wrong."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facezoo.data import (
    MAX_PIXELS,
    DataError,
    ImageDecodeError,
    ImageFolder,
    LabeledImages,
    is_lfw_list,
    list_images,
    open_face_data,
    read_image,
    read_lfw_pairs,
    read_pairs,
)


def save(path: Path, color: tuple[int, int, int] = (10, 20, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), color).save(path, "PNG")
    return path


# ------------------------------------------------------------------ one listing


def hostile_folder(root: Path) -> list[str]:
    """A folder with everything that two listings once disagreed on; the names that are images."""
    kept = ["a/1.jpg", "a/2.PNG", "a/session/3.jpg", "a/x.jpg/inner.jpg", "b/1.jpg"]
    for name in (*kept, "a/._1.jpg", "a/__MACOSX/1.jpg", "a/.hidden/1.jpg", "a/notes.txt", "__MACOSX/b/1.jpg"):
        save(root / name)
    return kept


def test_training_and_the_list_of_images_agree(tmp_path: Path) -> None:
    kept = hostile_folder(tmp_path)
    assert list(ImageFolder(tmp_path).names) == kept
    assert [path.relative_to(tmp_path).as_posix() for path in list_images([tmp_path])] == kept


def test_linked_folders_are_followed_and_links_back_up_are_not(tmp_path: Path) -> None:
    elsewhere = save(tmp_path / "elsewhere" / "e.jpg").parent
    root = tmp_path / "root"
    save(root / "a" / "1.jpg")
    (root / "a" / "linked").symlink_to(elsewhere)
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "b").symlink_to(elsewhere)
    (root / "a" / "same.jpg").symlink_to(root / "a" / "1.jpg")
    expected = ["a/1.jpg", "a/linked/e.jpg", "a/same.jpg", "b/e.jpg"]
    assert list(ImageFolder(root).names) == expected
    assert [path.relative_to(root).as_posix() for path in list_images([root])] == expected


def test_sessions_below_identities_are_a_layout(tmp_path: Path) -> None:
    for name in ("p/s1/1.jpg", "p/s2/1.jpg", "q/s1/1.jpg"):
        save(tmp_path / name)
    data = open_face_data(tmp_path, dev_fraction=0)
    assert data.classes == ("p", "q")
    assert data.train.names == ("p/s1/1.jpg", "p/s2/1.jpg", "q/s1/1.jpg")


def test_a_folder_above_the_data_is_no_identity(tmp_path: Path) -> None:
    save(tmp_path / "hw" / "train" / "a" / "1.jpg")
    with pytest.raises(DataError, match=r"Did you mean .*hw"):
        open_face_data(tmp_path)


@pytest.mark.parametrize("kind", ["fifo", "zero", "broken"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    save(tmp_path / "a" / "1.jpg")
    path = tmp_path / "a" / "x.jpg"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "zero" else tmp_path / "gone")
    for listing in (lambda: ImageFolder(tmp_path), lambda: list_images([tmp_path])):
        with pytest.raises(DataError, match=r"x\.jpg.*is not a file"):
            listing()
    with pytest.raises(ImageDecodeError, match=r"x\.jpg"):
        read_image(path)
    if kind != "broken":
        with pytest.raises(DataError, match=r"x\.jpg.*pipe or a device"):
            list_images([path])


# ------------------------------------------------------------------ one image


def png_header(width: int, height: int, depth: int = 8, color: int = 6) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(13_300, 13_300), (MAX_PIXELS + 1, 1), (30_000, 60_000)])
def test_more_pixels_than_stated_are_refused_before_they_are_decoded(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(*size))
    with pytest.raises(ImageDecodeError, match=r"bomb\.png"):
        read_image(tmp_path / "bomb.png")


def test_the_pixel_limit_is_said(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(MAX_PIXELS + 1, 1))
    with pytest.raises(ImageDecodeError, match=f"{MAX_PIXELS + 1}x1 pixels are more than the {MAX_PIXELS} allowed"):
        read_image(tmp_path / "bomb.png")
    (tmp_path / "most.png").write_bytes(png_header(MAX_PIXELS, 1))
    with pytest.raises(ImageDecodeError) as error:
        read_image(tmp_path / "most.png")
    assert "allowed" not in str(error.value)


@pytest.mark.parametrize("color", [2, 6])
def test_color_of_sixteen_bits_is_refused_and_not_made_black(tmp_path: Path, color: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + struct.pack(">H", 4000) * (4 * (3 if color == 2 else 4))
    body = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, color, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(row * 4))
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b""))
    with Image.open(tmp_path / "deep.png") as image:
        assert np.asarray(image.convert("RGB")).max() <= 15  # what was read before: black
    with pytest.raises(ImageDecodeError, match=r"deep\.png.*more than 8 bits"):
        read_image(tmp_path / "deep.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_is_read_upright(tmp_path: Path, kind: str, turn: int) -> None:
    upright = np.zeros((24, 16, 3), dtype=np.uint8)
    upright[:8, :8] = 255  # a light corner, top left
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[turn]
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / f"a.{kind.lower()}"
    options = {"quality": 100} if kind != "PNG" else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(path, kind, exif=exif, **options)
    read = np.asarray(read_image(path)).astype(int)
    assert read.shape == upright.shape
    assert np.abs(read - upright).mean() < 4


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_orientation_does_not_lose_the_image(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (16, 8)).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_image(path).size == (16, 8)


# ------------------------------------------------------------------ lists


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("a b.png", "c,d.png", 'e"f.png', "g.png", "h.png"):
        save(tmp_path / "img" / name)
    return tmp_path / "img"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "a b.png\tc,d.png\t1\ng.png\th.png\t0\n"),
        ("p.csv", 'image1,image2,label\na b.png,"c,d.png",1\ng.png,h.png,0\n'),
        ("p.csv", 'a b.png,"c,d.png",1\ng.png,h.png,0\n'),
        ("p.txt", 'file1,file2,same\na b.png,"c,d.png",1\ng.png,h.png,0\n'),
        ("p.txt", '"a b.png","c,d.png",1\n"g.png","h.png",0\n'),
        ("p.tsv", "img1\timg2\ttarget\na b.png\tc,d.png\t1\ng.png\th.png\t0\n"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_names_with_spaces_and_commas(images: Path, tmp_path: Path, name: str, text: str, encoding: str) -> None:
    pairs = read_pairs(write(tmp_path / name, text, encoding), images)
    assert [path.name for path in pairs.paths] == ["a b.png", "c,d.png", "g.png", "h.png"]
    assert pairs.labels is not None
    assert pairs.labels.tolist() == [True, False]


def test_commas_in_names_of_a_plain_list_stay(images: Path, tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path / "p.txt", "c,d.png g.png 1\nh.png c,d.png 0\n"), images)
    assert [path.name for path in pairs.paths] == ["c,d.png", "g.png", "h.png"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.txt", "a b.png 7\nc,d.png 9\n"),
        ("l.txt", "a b.png\t7\nc,d.png\t9\n"),
        ("l.csv", 'file,label\na b.png,7\n"c,d.png",9\n'),
        ("l.txt", 'filename,identity\na b.png,7\n"c,d.png",9\n'),
    ],
)
def test_labels_with_spaces_and_commas(images: Path, tmp_path: Path, name: str, text: str) -> None:
    data = LabeledImages(images, write(tmp_path / name, text))
    assert data.names == ("a b.png", "c,d.png")
    assert data.classes == ("7", "9")


def test_a_header_alone_and_open_quotes_are_errors(images: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="header and no line"):
        read_pairs(write(tmp_path / "p.csv", "image1,image2,label\n"), images)
    with pytest.raises(DataError, match="not CSV"):
        read_pairs(write(tmp_path / "p.csv", '"a b.png,g.png,1\n'), images)


@pytest.mark.parametrize("outside", ["/etc/passwd", "../x.png", "a/../../x.png", "C:\\x.png", "..\\x.png"])
def test_names_that_leave_the_folder_are_refused(images: Path, tmp_path: Path, outside: str) -> None:
    save(tmp_path / "x.png")
    with pytest.raises(DataError, match="1 images outside of"):
        read_pairs(write(tmp_path / "p.csv", f"g.png,{outside},1\n"), images)
    with pytest.raises(DataError, match="1 images outside of"):
        LabeledImages(images, write(tmp_path / "l.csv", f"g.png,0\n{outside},1\n"))


def test_dots_that_stay_inside_are_fine(images: Path, tmp_path: Path) -> None:
    save(images / "s" / "k.png")
    assert len(read_pairs(write(tmp_path / "p.txt", "./g.png s/../h.png 1\n"), images)) == 1


@pytest.mark.parametrize("second", ["g.png h.png 0", "h.png g.png 0"])
def test_contradicting_pairs_name_both_lines(images: Path, tmp_path: Path, second: str) -> None:
    with pytest.raises(DataError, match=r"line 3: the pair of .* is labeled 0, but 1 on line 1"):
        read_pairs(write(tmp_path / "p.txt", f"g.png h.png 1\n\n{second}\n"), images)


def test_an_image_that_is_not_itself_is_an_error(images: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: 'g\.png' with itself is labeled 0"):
        read_pairs(write(tmp_path / "p.txt", "g.png g.png 0\n"), images)


def test_duplicates_and_self_pairs_warn_with_their_lines(images: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "p.txt", "g.png h.png 1\nh.png g.png 1\ng.png g.png 1\n")
    with pytest.warns(UserWarning, match="pairs are") as caught:
        assert len(read_pairs(file, images)) == 3
    assert [str(warning.message).split(": ", 1)[1] for warning in caught] == [
        "1 pairs are an image with itself (lines 3): they are right whatever the network is, and make the figures too good",
        "1 pairs are the same as an earlier pair (lines 2): they make the intervals of the figures too narrow",
    ]


def test_a_test_list_may_repeat_itself(images: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_pairs(write(tmp_path / "p.txt", "g.png h.png\ng.png h.png\n"), images)) == 2


LFW = "1 1\nAnn\t1\t2\nAnn\t1\tBo\t1\n"


@pytest.fixture
def lfw(tmp_path: Path) -> Path:
    for name in ("Ann/Ann_0001.png", "Ann/Ann_0002.png", "Bo/Bo_0001.png"):
        save(tmp_path / "lfw" / name)
    return tmp_path / "lfw"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("blank", ["", "\n\r\n"])
def test_an_lfw_list_is_known_however_it_is_encoded(lfw: Path, tmp_path: Path, encoding: str, blank: str) -> None:
    file = write(tmp_path / "pairs.txt", blank + LFW, encoding)
    assert is_lfw_list(file)
    assert len(read_lfw_pairs(file, lfw)) == 2
    assert not is_lfw_list(write(tmp_path / "other.txt", blank + "a.jpg b.jpg\n", encoding))
    assert not is_lfw_list(write(tmp_path / "other.txt", blank + "² 1\n", encoding))


def test_one_fold_is_none(lfw: Path, tmp_path: Path) -> None:
    assert read_lfw_pairs(write(tmp_path / "pairs.txt", LFW), lfw).folds is None
    assert read_lfw_pairs(write(tmp_path / "pairs.txt", LFW[2:]), lfw).folds is None


def test_lfw_contradictions_and_duplicates(lfw: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 3: the pair of .*labeled 0, but 1 on line 2"):
        read_lfw_pairs(write(tmp_path / "pairs.txt", "1\nAnn 1 2\nAnn 1 Ann 2\n"), lfw)
    with pytest.warns(UserWarning, match="2 pairs are the same as an earlier pair"):
        read_lfw_pairs(write(tmp_path / "pairs.txt", "2 1\n" + "Ann 1 2\nAnn 1 Bo 1\n" * 2), lfw)


def test_messages_repeat_little_of_the_input(images: Path, tmp_path: Path) -> None:
    for text in ("x " * 5000 + "\n", "g.png h.png " + "9" * 5000 + "\n"):
        with pytest.raises(DataError) as error:
            read_pairs(write(tmp_path / "p.txt", text), images)
        assert len(str(error.value)) < 700
