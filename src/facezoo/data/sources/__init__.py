"""Sources of images: folders, lists, record files, databases, shards and tables, all with the interface of one small class."""

from __future__ import annotations

from facezoo.data.sources.bins import BinSource
from facezoo.data.sources.folders import DatasetSource, FolderSource, LayoutSource, ListSource, PackedSource
from facezoo.data.sources.lmdb import LmdbSource
from facezoo.data.sources.parquet import ParquetSource
from facezoo.data.sources.records import RecordSource
from facezoo.data.sources.shards import TarSource
from facezoo.data.sources.source import SOURCES, Source, Together, open_source

__all__ = [
    "SOURCES",
    "BinSource",
    "DatasetSource",
    "FolderSource",
    "LayoutSource",
    "ListSource",
    "LmdbSource",
    "PackedSource",
    "ParquetSource",
    "RecordSource",
    "Source",
    "TarSource",
    "Together",
    "open_source",
]
