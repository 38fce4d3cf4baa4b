"""Decode image files to 8-bit RGB; every error names the file."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from facezoo.data.errors import ImageDecodeError, ImageReadError

Pixels = NDArray[np.uint8]
"""An image (H, W, 3), R, G, B, or several (N, H, W, 3)."""

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".pgm", ".ppm")
"""File extensions that count as images, whatever their case."""

UNREAD_EXTENSIONS = (
    ".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".tga", ".psd",
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2",
)  # fmt: skip
"""File extensions of photos that are not read. Listings leave them out and say so."""

MAX_PIXELS = 2**26
"""Largest number of pixels that is read (8192×8192, 268 MB as RGBA); a small file may claim far more."""

MAX_BYTES = 2**28
"""Largest image file that is read, bytes."""

# Only these decoders are used, whatever the file name: some of Pillow's formats start other programs.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")

# Last bytes of a complete file. Pillow detects a truncated file, but not one that ends in zeros (from a copy to a full or
# crashed disk): it decodes the rest of such a JPEG as gray. It detects neither if another package has set its global
# LOAD_TRUNCATED_IMAGES.
_END_MARKERS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}

# Converting these to RGB clips or rescales the values silently.
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image: a known extension, and no leading dot (macOS's ``._name.jpg``)."""
    return name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".")


def is_unread_photo(name: str) -> bool:
    """Whether a file of this name is a photo of a format that is not read: one of :data:`UNREAD_EXTENSIONS`."""
    return name.lower().endswith(UNREAD_EXTENSIONS) and not name.startswith(".")


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Decode one image file to 8-bit RGB, upright.

    The camera's orientation tag is applied; an alpha channel is dropped.

    Args:
        path: a JPEG, PNG, BMP, WebP, GIF, TIFF, PGM or PPM file. The format is detected from the content, not from the extension.
            Of a GIF or TIFF with several pictures the first is read.

    Returns:
        A PIL image of mode ``"RGB"``, decoded completely.

    Raises:
        ImageDecodeError: the file cannot be read, is no regular file (a pipe, a device), is truncated (a JPEG even by two bytes, or
            with a tail of zeros), is of another format, has more than 8 bits per channel or more than :data:`MAX_PIXELS`. That the
            second half of another format's file is zeros is not always noticed.
    """
    return decode_image(read_bytes(path), path)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of an image file, not decoded.

    Raises:
        ImageReadError: the system cannot read the file.
        ImageDecodeError: it is no regular file, or too large.
    """
    try:
        # O_NONBLOCK: opening a pipe without a writer would block
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
                raise ImageDecodeError(f"cannot read image {_show(path)}: it is {kind}, not a file")
            if status.st_size > MAX_BYTES:
                raise ImageDecodeError(
                    f"cannot read image {_show(path)}: {status.st_size} bytes are more than the {MAX_BYTES} allowed"
                )
            return file.read()
    except OSError as error:
        raise ImageReadError(f"cannot read image {_show(path)}: {error.strerror or error}") from error


def read_pixels(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Like :func:`read_image`, but returns an array (H, W, 3).

    Uses simplejpeg if it is installed, which takes half of Pillow's time, else TorchCodec from 0.16 on. All build on the same
    library; their results differ by at most 1 gray level, usually not at all.
    """
    return decode_pixels(read_bytes(path), path)


def decode_pixels(content: bytes, name: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Decode the content of an image file as :func:`read_pixels` does. ``name`` is used in messages."""
    decode = _jpeg_decoder()
    # Only plain JPEGs; truncated and damaged files and those that may be rotated go to Pillow, which reports what is wrong.
    if (
        decode is not None
        and content[:2] == b"\xff\xd8"
        and content[-2:] == b"\xff\xd9"
        and not any(mark in content for mark in _MARKS_OF_ROTATION)
    ):
        with suppress(ValueError, RuntimeError, OSError):
            return decode(content)
    return np.asarray(decode_image(content, name))


_MARKS_OF_ROTATION = (b"Exif\0\0", b"http://ns.adobe.com/xap/")  # of segments, of which there may be many before it


@cache
def _jpeg_decoder() -> Callable[[bytes], NDArray[np.uint8]] | None:
    """The fastest decoder that is installed, but for Pillow. It raises for what it does not decode."""
    with suppress(ImportError):
        import simplejpeg

        return partial(_by_simplejpeg, simplejpeg)
    # Another version of torch, or a missing library, are RuntimeError or OSError.
    with suppress(ImportError, RuntimeError, OSError):
        from torchcodec.decoders import decode_jpeg

        return partial(_by_torchcodec, decode_jpeg)
    return None


def _by_simplejpeg(simplejpeg: Any, content: bytes) -> NDArray[np.uint8]:
    height, width, space, _ = simplejpeg.decode_jpeg_header(content)
    _require_plain(height, width, space in ("YCbCr", "Gray", "RGB"))
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, "RGB")
    return pixels


def _by_torchcodec(decode_jpeg: Any, content: bytes) -> NDArray[np.uint8]:
    with Image.open(BytesIO(content), formats=("JPEG",)) as header:
        _require_plain(header.height, header.width, header.mode in ("RGB", "L"))
    pixels: NDArray[np.uint8] = decode_jpeg(content, mode="RGB").permute(1, 2, 0).contiguous().numpy()
    return pixels


def _require_plain(height: int, width: int, plain: bool) -> None:
    if not plain or not 0 < height * width <= MAX_PIXELS:
        raise ValueError("for Pillow")


def decode_image(content: bytes, name: str | os.PathLike[str]) -> Image.Image:
    """Decode the content of an image file as :func:`read_image` does. ``name`` is used in messages."""
    try:
        image: Image.Image = Image.open(BytesIO(content), formats=_FORMATS)
        _check_header(image, content, name)
        image.load()
    except ImageDecodeError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, ... for broken files
        reason = (
            "the file is empty"
            if not content
            else f"not an image of a format that is read ({', '.join(_FORMATS)}), or its header is damaged"
        )
        if not isinstance(error, UnidentifiedImageError):
            reason = (str(error) or type(error).__name__)[:200]
        raise ImageDecodeError(f"cannot decode image {_show(name)} ({len(content)} bytes): {reason}") from error
    marker = _END_MARKERS.get(image.format or "")
    if marker is not None and content.rfind(marker) < 0:
        raise ImageDecodeError(
            f"cannot decode image {_show(name)} ({len(content)} bytes): truncated, the end-of-image marker is missing; "
            "copy or download the file again, or delete it"
        )
    if any(key in image.info for key in ("exif", "xmp", "XML:com.adobe.xmp")):
        image = _upright(image)
    if image.mode == "RGB":
        return image
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns about a direct conversion to RGB
    return image.convert("RGB")


def orientation(image: Image.Image) -> int:
    """The orientation tag of an opened image, 1 (upright) to 8; 1 if it is missing or invalid."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # the tag is damaged, but the pixels are still good
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: Image.Image) -> Image.Image:
    if orientation(image) == 1:
        return image
    turned: Image.Image | None = ImageOps.exif_transpose(image)
    return image if turned is None else turned


def _check_header(image: Image.Image, content: bytes, name: str | os.PathLike[str]) -> None:
    """Refuse images that are too large or would lose precision, before decoding any pixel."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageDecodeError(
            f"cannot decode image {_show(name)}: {width}x{height} pixels are more than the {MAX_PIXELS} allowed; "
            "scale it down"
        )
    # Pillow keeps the upper 8 of 16 bits of a color PNG or TIFF: 12-bit values become black.
    deep = image.format == "PNG" and content[24:25] > b"\x08"
    tags = getattr(image, "tag_v2", None)  # of a TIFF; 258: bits per sample
    if tags is not None:
        deep = max(tags.get(258, (8,))) > 8
    if deep or image.mode in _DEEP_MODES:
        raise ImageDecodeError(
            f"cannot decode image {_show(name)}: pixel mode {image.mode!r} has more than 8 bits per channel; "
            "convert the file to 8 bits, as the right scaling is not known here"
        )


def _show(path: str | os.PathLike[str]) -> str:
    text = Path(path).as_posix()
    return repr(text if len(text) <= 200 else f"…{text[-199:]}")


def transformed(pixels: Pixels, transform: Callable[[Any], Any] | None) -> Any:
    """Apply ``transform`` to a writable copy of uint8 pixels (H, W, 3): facezoo's own take the array, others get a PIL image.

    Without a transform, the copy itself.
    """
    pixels = np.array(pixels)
    if transform is None:
        return pixels
    return transform(pixels if getattr(transform, "takes_pixels", False) else Image.fromarray(pixels))
