"""The error of weight files, and the shortening of their content for messages."""

from __future__ import annotations

LONGEST = 200  # largest number of characters of a file's content in a message


class CheckpointError(RuntimeError):
    """A weight file cannot be read or written, or does not belong to the network. The message names the file."""


def shorten(text: object, length: int = LONGEST) -> str:
    """``text`` on one line with at most ``length`` characters, for messages that quote a file."""
    line = " ".join(str(text)[: 4 * length].split())
    return line if len(line) <= length else line[: length - 1] + "…"
