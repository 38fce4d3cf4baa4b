"""The one error of weight files, and the one way of repeating what stands in them."""

from __future__ import annotations

LONGEST = 200  # characters of a file's content that a message repeats


class CheckpointError(RuntimeError):
    """A weight file that cannot be read or written, or does not belong to the network. The message names the file."""


def shorten(text: object, length: int = LONGEST) -> str:
    """``text`` on one line, of at most ``length`` characters: what a file holds must not fill the screen."""
    line = " ".join(str(text)[: 4 * length].split())
    return line if len(line) <= length else line[: length - 1] + "…"
