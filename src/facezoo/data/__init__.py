"""Data sets, pair lists, transforms and samplers: from folders of faces to batches."""

from __future__ import annotations

from facezoo.data._listing import list_images
from facezoo.data.align import align_faces
from facezoo.data.augment import AUGMENT_RECIPES, AugmentConfig, augment_recipe, register_augmentation
from facezoo.data.errors import DataError, ImageDecodeError
from facezoo.data.folders import ImageFolder, ImageList, LabeledFiles, LabeledImages
from facezoo.data.identity_sampling import PKSampler
from facezoo.data.image import IMAGE_EXTENSIONS, MAX_PIXELS, read_image
from facezoo.data.layout import FaceData, identity_overlap, open_face_data
from facezoo.data.loader import PackedLoader, packed_loader
from facezoo.data.mixing import MixedBatch, mix_batch, mixed_accuracy, mixed_loss
from facezoo.data.packed import PackedFaces, PackedFolder, is_packed
from facezoo.data.packing import PackOptions, PackReport, pack
from facezoo.data.pairs import PairList, is_lfw_list, read_lfw_pairs, read_pairs
from facezoo.data.sampling import ResumableSampler, SeededDataset, make_loader, stop_workers
from facezoo.data.sources import SOURCES, Source, open_source
from facezoo.data.statistics import mean_std
from facezoo.data.tar_stream import TarStream
from facezoo.data.transforms import (
    EvalTransform,
    ResizeIfNeeded,
    ToInput,
    TrainTransform,
    eval_transform,
    train_transform,
)
from facezoo.moved import forward

__all__ = [
    "AUGMENT_RECIPES",
    "IMAGE_EXTENSIONS",
    "MAX_PIXELS",
    "SOURCES",
    "AugmentConfig",
    "DataError",
    "EvalTransform",
    "FaceData",
    "ImageDecodeError",
    "ImageFolder",
    "ImageList",
    "LabeledFiles",
    "LabeledImages",
    "MixedBatch",
    "PKSampler",
    "PackOptions",
    "PackReport",
    "PackedFaces",
    "PackedFolder",
    "PackedLoader",
    "PairList",
    "ResizeIfNeeded",
    "ResumableSampler",
    "SeededDataset",
    "Source",
    "TarStream",
    "ToInput",
    "TrainTransform",
    "align_faces",
    "augment_recipe",
    "eval_transform",
    "identity_overlap",
    "is_lfw_list",
    "is_packed",
    "list_images",
    "make_loader",
    "mean_std",
    "mix_batch",
    "mixed_accuracy",
    "mixed_loss",
    "open_face_data",
    "open_source",
    "pack",
    "packed_loader",
    "read_image",
    "read_lfw_pairs",
    "read_pairs",
    "register_augmentation",
    "stop_workers",
    "train_transform",
]

_SYNTHETIC = ("SyntheticFaces", "SyntheticFacesError", "write_synthetic_faces", "synthetic")
__getattr__ = forward(__name__, dict.fromkeys(_SYNTHETIC, "facezoo.synthetic"))
