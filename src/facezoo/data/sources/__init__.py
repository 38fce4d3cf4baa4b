"""Sources of images: folders, lists, record files, databases, shards and tables, all with the interface of one small class."""

from __future__ import annotations

from facezoo.data.sources.bins import BinSource
from facezoo.data.sources.dataset import SourceDataset
from facezoo.data.sources.folders import (
    DatasetSource,
    FolderSource,
    LayoutSource,
    ListSource,
    PackedSource,
    PairDatasetSource,
)
from facezoo.data.sources.hub import HubSource
from facezoo.data.sources.lmdb import LmdbSource
from facezoo.data.sources.parquet import ParquetSource
from facezoo.data.sources.published import CelebaSource, GallerySource, LfwSource
from facezoo.data.sources.records import RecordSource
from facezoo.data.sources.shards import TarSource
from facezoo.data.sources.source import SOURCES, Source, Together, open_source, read_same_people

__all__ = [
    "SOURCES",
    "BinSource",
    "CelebaSource",
    "DatasetSource",
    "FolderSource",
    "GallerySource",
    "HubSource",
    "LayoutSource",
    "LfwSource",
    "ListSource",
    "LmdbSource",
    "PackedSource",
    "PairDatasetSource",
    "ParquetSource",
    "RecordSource",
    "Source",
    "SourceDataset",
    "TarSource",
    "Together",
    "open_source",
    "read_same_people",
]
