"""Data sets of the Hugging Face Hub by name: their parquet files, downloaded into the Hub's cache."""

from __future__ import annotations

import re
from pathlib import Path

from facezoo.data.errors import DataError
from facezoo.data.sources.parquet import ParquetSource
from facezoo.data.sources.source import HUB, SOURCES

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_CONVERTED = "refs/convert/parquet"  # where the Hub itself puts the parquet form of every data set


@SOURCES.register("hub")
class HubSource(ParquetSource):
    """A data set of the Hub: its parquet files. Needs the extra ``parquet``.

    Args:
        name: ``"hf-hub:owner/name"`` or ``"hf-hub:owner/name@revision"``. Without a revision, a repository without parquet files
            is read from the Hub's own conversion to parquet.

    Raises:
        ImportError: ``pyarrow`` is not installed.
        DataError: no such name, repository, revision or parquet file; no access; no network.
    """

    description = "hf-hub:owner/name, a data set of the Hub with parquet files"

    def __init__(self, name: str) -> None:
        repository, _, revision = name.removeprefix(HUB).partition("@")
        if not _NAME.fullmatch(repository) or ".." in repository:
            raise DataError(
                f"{name[:200]!r} is not a data set of the Hub; expected hf-hub:owner/name or hf-hub:owner/name@revision"
            )
        folder, files = _download(repository, revision or None)
        if not files and not revision:
            folder, files = _download(repository, _CONVERTED)
        if not files:
            raise DataError(f"{name[:200]!r} holds no parquet file; download it, and open the files that it has")
        super().__init__(folder, files, {"hub": repository, "commit": folder.name})

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """A name that begins with ``hf-hub:``."""
        return path.as_posix().startswith(HUB)

    @classmethod
    def open(cls, path: Path) -> HubSource:
        """See the class."""
        return cls(path.as_posix())


def _download(repository: str, revision: str | None) -> tuple[Path, list[Path]]:
    from facezoo.weights.hub import HubError, download_folder

    try:
        folder = download_folder(repository, "*.parquet", revision=revision)
    except HubError as error:
        raise DataError(str(error)) from None
    return folder, sorted(folder.rglob("*.parquet"))
