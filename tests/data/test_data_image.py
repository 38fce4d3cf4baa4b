from __future__ import annotations

import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from facezoo.data import DataError, ImageDecodeError, read_image
from facezoo.data.image import _jpeg_decoder, decode_pixels


def picture(size: int = 32, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def jpeg_bytes() -> bytes:
    buffer = BytesIO()
    picture(64).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["a.png", "B.PNG", "c.bmp", "d.BMP"])
def test_lossless_formats_come_back_exactly(tmp_path: Path, name: str) -> None:
    picture().save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(picture()))


@pytest.mark.parametrize("name", ["a.jpg", "b.JPG", "c.jpeg", "d.webp", "jpeg_called.png"])
def test_lossy_formats_equal_pillow(tmp_path: Path, name: str) -> None:
    picture().save(tmp_path / name, "JPEG" if name.endswith("png") else None)
    with Image.open(tmp_path / name) as expected:
        assert np.array_equal(np.asarray(read_image(str(tmp_path / name))), np.asarray(expected.convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    picture().convert(mode).save(path)
    assert read_image(path).mode == "RGB"


def test_palette_with_transparency_does_not_warn(tmp_path: Path) -> None:
    picture().convert("P").save(tmp_path / "a.png", transparency=bytes(range(256)))
    assert read_image(tmp_path / "a.png").mode == "RGB"


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ImageDecodeError, match=r"deep\.png.*8 bits"):
        read_image(tmp_path / "deep.png")


@pytest.mark.parametrize("cut", [1, 2, 100, 1500])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("lenient_pillow", [False, True])
def test_truncated_jpeg_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int, zeros: bool, lenient_pillow: bool
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient_pillow)
    path = tmp_path / "face 0001.jpg"
    path.write_bytes(jpeg_bytes()[:-cut] + bytes(cut if zeros else 0))
    with pytest.raises(ImageDecodeError, match=r"face 0001\.jpg"):
        read_image(path)


@pytest.mark.parametrize("lenient_pillow", [False, True])
def test_truncated_png_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lenient_pillow: bool) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient_pillow)
    picture().save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-500])
    with pytest.raises(ImageDecodeError, match=r"cut\.png"):
        read_image(tmp_path / "cut.png")


def test_bytes_after_the_end_are_no_truncation(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes() + b"\0" * 100)
    assert read_image(tmp_path / "a.jpg").size == (64, 64)


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty"), (b"<html>404</html>", "not an image")])
def test_no_image(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageDecodeError, match=rf"a\.jpg.*{reason}"):
        read_image(tmp_path / "a.jpg")


def test_only_the_formats_named_are_decoded(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.jpg", "EPS")  # Pillow would start another program
    with pytest.raises(ImageDecodeError, match=r"not an image of a format that is read \(JPEG, PNG"):
        read_image(tmp_path / "a.jpg")


def test_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(ImageDecodeError, match=r"gone\.jpg.*No such file"):
        read_image(tmp_path / "gone.jpg")


def test_the_error_survives_a_loader_worker() -> None:
    # torch rebuilds a worker's exception from its type and one string.
    assert str(ImageDecodeError("message")) == "message"
    assert issubclass(ImageDecodeError, DataError)
    assert issubclass(DataError, ValueError)


@pytest.fixture
def torchcodec(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """No simplejpeg, and a TorchCodec that decodes by Pillow; the list has what it decoded."""
    calls: list[str] = []

    def decode_jpeg(content: bytes, mode: str) -> torch.Tensor:
        calls.append(mode)
        if b"broken" in content:
            raise RuntimeError("damaged")
        with Image.open(BytesIO(content)) as image:
            return torch.from_numpy(np.array(image.convert(mode))).permute(2, 0, 1)

    module = ModuleType("torchcodec.decoders")
    module.decode_jpeg = decode_jpeg  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "simplejpeg", None)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
    _jpeg_decoder.cache_clear()
    yield calls
    _jpeg_decoder.cache_clear()


def test_torchcodec_decodes_plain_jpegs(torchcodec: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = decode_pixels(jpeg_bytes(), "a.jpg")
    with Image.open(BytesIO(jpeg_bytes())) as image:
        assert np.array_equal(pixels, np.asarray(image))
    assert pixels.flags.c_contiguous
    assert torchcodec == ["RGB"]
    gray, cmyk, png = BytesIO(), BytesIO(), BytesIO()
    picture().convert("L").save(gray, "JPEG")
    picture().convert("CMYK").save(cmyk, "JPEG")
    picture().save(png, "PNG")
    assert decode_pixels(gray.getvalue(), "gray.jpg").shape == (32, 32, 3)
    assert len(torchcodec) == 2
    for content in (cmyk.getvalue(), png.getvalue()):  # these are for Pillow
        assert decode_pixels(content, "x").shape == (32, 32, 3)
    assert len(torchcodec) == 2
    decode_pixels(jpeg_bytes()[:-2] + b"broken\xff\xd9", "a.jpg")  # refused by TorchCodec, not by Pillow
    assert len(torchcodec) == 3
    with pytest.raises(ImageDecodeError, match="truncated"):
        decode_pixels(jpeg_bytes()[:-9], "a.jpg")
    monkeypatch.setattr("facezoo.data.image.MAX_PIXELS", 100)
    with pytest.raises(ImageDecodeError, match="64x64 pixels are more than the 100 allowed"):
        decode_pixels(jpeg_bytes(), "a.jpg")
    assert len(torchcodec) == 3


@pytest.mark.parametrize("why", ["older", "broken"])
def test_a_torchcodec_that_cannot_do_it_is_left_alone(
    torchcodec: list[str], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "older":
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", ModuleType("torchcodec.decoders"))
    else:  # of another version of torch
        monkeypatch.delitem(sys.modules, "torchcodec.decoders")
        monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    assert _jpeg_decoder() is None
    assert decode_pixels(jpeg_bytes(), "a.jpg").shape == (64, 64, 3)
    assert torchcodec == []


class Refusing:
    """An importer whose TorchCodec finds no libraries."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "torchcodec.decoders":
            raise RuntimeError("Could not load libtorchcodec")
