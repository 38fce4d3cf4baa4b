"""From an image file to an 8-bit RGB image, or to an error that names the file."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from facezoo.data.errors import ImageDecodeError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
"""File extensions that count as images, whatever their case."""

MAX_PIXELS = 2**26
"""Most pixels of an image that is read (8192×8192, 268 MB as RGBA); a small file may claim to hold far more."""

MAX_BYTES = 2**28
"""Most bytes of an image file that is read."""

# Only these decoders run, whatever the file is called: Pillow knows formats that start other programs.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")

# Last bytes of a complete file. Pillow notices a plain cut, but not a tail of zeros (what a copy onto a full or crashed disk
# leaves): it decodes the rest of such a JPEG as gray. It notices nothing at all once some other package has set its global
# LOAD_TRUNCATED_IMAGES.
_END_MARKERS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}

# Converting these to RGB clips or rescales the values silently.
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image: a known extension, and no leading dot (macOS's ``._name.jpg``)."""
    return name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".")


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Decode one image file to 8-bit RGB, upright.

    What the orientation tag of a camera says is done; an alpha channel is dropped.

    Args:
        path: a JPEG, PNG, BMP or WebP file. Its content decides, not its extension.

    Returns:
        A PIL image of mode ``"RGB"``, decoded completely.

    Raises:
        ImageDecodeError: the file cannot be read, is no regular file (a pipe, a device), is truncated (even by two bytes, or with
            a tail of zeros), is of another format, has more than 8 bits per channel or more than :data:`MAX_PIXELS`.
    """
    return decode_image(read_bytes(path), path)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of an image file, undecoded. Raises :class:`ImageDecodeError` where :func:`read_image` does before it decodes."""
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
                raise ImageDecodeError(f"cannot read image {_show(path)}: it is {kind}, no file")
            if status.st_size > MAX_BYTES:
                raise ImageDecodeError(
                    f"cannot read image {_show(path)}: {status.st_size} bytes are more than the {MAX_BYTES} allowed"
                )
            return file.read()
    except OSError as error:
        raise ImageDecodeError(f"cannot read image {_show(path)}: {error.strerror or error}") from error


def read_pixels(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """What :func:`read_image` gives, as an array (H, W, 3): by simplejpeg if it is installed, which takes half of Pillow's time.

    The two decoders are builds of one library and differ by at most 1 gray level, as a rule by none.
    """
    return decode_pixels(read_bytes(path), path)


def decode_pixels(content: bytes, name: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Decode the content of an image file as :func:`read_pixels` does. ``name`` is what messages call it."""
    decode = _jpeg_decoder()
    # A plain JPEG; what is turned, cut or broken is Pillow's, which says what is wrong with it.
    if (
        decode is not None
        and content[:2] == b"\xff\xd8"
        and content[-2:] == b"\xff\xd9"
        and b"Exif" not in content[:4096]
    ):
        try:
            height, width = _jpeg_size(content)
            if 0 < height * width <= MAX_PIXELS:
                return decode(content, "RGB")
        except ValueError:
            pass
    return np.asarray(decode_image(content, name))


@cache
def _jpeg_decoder() -> Callable[[bytes, str], NDArray[np.uint8]] | None:
    try:
        import simplejpeg
    except ImportError:
        return None
    decoder: Callable[[bytes, str], NDArray[np.uint8]] = simplejpeg.decode_jpeg
    return decoder


def _jpeg_size(content: bytes) -> tuple[int, int]:
    import simplejpeg

    height, width, space, _ = simplejpeg.decode_jpeg_header(content)
    if space not in ("YCbCr", "Gray", "RGB"):
        raise ValueError(space)
    return int(height), int(width)


def decode_image(content: bytes, name: str | os.PathLike[str]) -> Image.Image:
    """Decode the content of an image file as :func:`read_image` does. ``name`` is what messages call it."""
    try:
        image: Image.Image = Image.open(BytesIO(content), formats=_FORMATS)
        _check_header(image, content, name)
        image.load()
    except ImageDecodeError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, ... for broken files
        reason = "the file is empty" if not content else "not a JPEG, PNG, BMP or WebP image, or its header is damaged"
        if not isinstance(error, UnidentifiedImageError):
            reason = (str(error) or type(error).__name__)[:200]
        raise ImageDecodeError(f"cannot decode image {_show(name)} ({len(content)} bytes): {reason}") from error
    marker = _END_MARKERS.get(image.format or "")
    if marker is not None and content.rfind(marker) < 0:
        raise ImageDecodeError(
            f"cannot decode image {_show(name)} ({len(content)} bytes): truncated, the end-of-image marker is missing; "
            "copy or download the file again, or delete it"
        )
    if "exif" in image.info or "XML:com.adobe.xmp" in image.info:
        image = _upright(image)
    if image.mode == "RGB":
        return image
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns for each such file
    return image.convert("RGB")


def orientation(image: Image.Image) -> int:
    """The orientation tag of an opened image, 1 (upright) to 8; 1 where it says nothing or nonsense."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # a damaged tag says nothing; the pixels are still good
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: Image.Image) -> Image.Image:
    if orientation(image) == 1:
        return image
    turned: Image.Image | None = ImageOps.exif_transpose(image)
    return image if turned is None else turned


def _check_header(image: Image.Image, content: bytes, name: str | os.PathLike[str]) -> None:
    """Refuse, before any pixel is decoded, what takes too much memory or would lose its values."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageDecodeError(
            f"cannot decode image {_show(name)}: {width}x{height} pixels are more than the {MAX_PIXELS} allowed; "
            "scale it down"
        )
    # Pillow keeps the upper 8 of 16 bits of a color PNG: 12-bit values become black.
    deep = image.format == "PNG" and content[24:25] > b"\x08"
    if deep or image.mode in _DEEP_MODES:
        raise ImageDecodeError(
            f"cannot decode image {_show(name)}: pixel mode {image.mode!r} has more than 8 bits per channel; "
            "convert the file to 8 bits, as the right scaling is not known here"
        )


def _show(path: str | os.PathLike[str]) -> str:
    text = Path(path).as_posix()
    return repr(text if len(text) <= 200 else f"…{text[-199:]}")
