"""Lists of pairs on the command line."""

from __future__ import annotations

from pathlib import Path


def is_lfw_list(path: Path) -> bool:
    """Whether a list of pairs has LFW's header, see :func:`facezoo.data.is_lfw_list`."""
    from facezoo.data import is_lfw_list as has_header

    return has_header(path)
