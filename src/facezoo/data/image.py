"""From an image file to an 8-bit RGB image, or to an error that names the file."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from facezoo.data.errors import ImageDecodeError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
"""File extensions that count as images, whatever their case."""

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
    """Decode one image file to 8-bit RGB.

    The orientation tag is ignored, as aligned crops have none; an alpha channel is dropped.

    Args:
        path: a JPEG, PNG, BMP or WebP file. Its content decides, not its extension.

    Returns:
        A PIL image of mode ``"RGB"``, decoded completely.

    Raises:
        ImageDecodeError: the file cannot be read, is truncated (even by two bytes, or with a tail of zeros), is of another
            format, or has more than 8 bits per channel.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            content = file.read()
    except OSError as error:
        raise ImageDecodeError(f"cannot read image {_show(path)}: {error.strerror or error}") from error
    try:
        image: Image.Image = Image.open(BytesIO(content), formats=_FORMATS)
        image.load()
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, ... for broken files
        reason = "the file is empty" if not content else "not a JPEG, PNG, BMP or WebP image, or its header is damaged"
        if not isinstance(error, UnidentifiedImageError):
            reason = str(error) or type(error).__name__
        raise ImageDecodeError(f"cannot decode image {_show(path)} ({len(content)} bytes): {reason}") from error
    marker = _END_MARKERS.get(image.format or "")
    if marker is not None and content.rfind(marker) < 0:
        raise ImageDecodeError(
            f"cannot decode image {_show(path)} ({len(content)} bytes): truncated, the end-of-image marker is missing; "
            "copy or download the file again, or delete it"
        )
    if image.mode == "RGB":
        return image
    if image.mode in _DEEP_MODES:
        raise ImageDecodeError(
            f"cannot decode image {_show(path)}: pixel mode {image.mode!r} has more than 8 bits per channel; "
            "convert the file to 8 bits, as the right scaling is not known here"
        )
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns for each such file
    return image.convert("RGB")


def _show(path: str | os.PathLike[str]) -> str:
    return repr(Path(path).as_posix())
