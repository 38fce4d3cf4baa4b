"""A teacher's embeddings of the training images: computed once, stored in a file."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from facezoo.evaluation.inputs import EMBEDDING_SUFFIXES, read_embeddings, rows_of
from facezoo.preprocessing import Preprocessing
from facezoo.training.config import TrainConfig
from facezoo.training.datasets import RunData, embed_training_images, knows_images
from facezoo.training.distributed import Distributed
from facezoo.weights import CheckpointError, read_file, save_file_atomic
from facezoo.weights.errors import shorten
from facezoo.weights.pretrained import sha256_of

_FORMAT = "facezoo-teacher-1"


@dataclass(frozen=True)
class Teacher:
    """A teacher's embeddings of the training images.

    Attributes:
        embeddings: mean of the embeddings of each training image and its mirror image, in order, not normalized, float32 (N, T),
            on the CPU, memory-mapped from the file.
        content: a hash of the teacher's weights, to detect another teacher.
        path: the file of the embeddings.
    """

    embeddings: Tensor
    content: str
    path: Path

    def fingerprint(self) -> dict[str, str]:
        """Identifies the teacher, so that a run is not resumed with another one."""
        return {"teacher": f"{len(self.embeddings)} {self.content}"}


def find_teacher(config: TrainConfig, data: RunData, preprocessing: Preprocessing, dist: Distributed) -> Teacher:
    """The embeddings of the run's teacher: read from the file, or computed by rank 0.

    Args:
        config: the run's settings; ``model.teacher`` is set.
        data: the run's data.
        preprocessing: the student's; used for images whose own preprocessing is unknown.
        dist: rank and world size.

    Raises:
        CheckpointError, DataError, ValueError, FileNotFoundError: the teacher does not exist or does not match the images.
    """
    name = _file_name(config, data)
    path, problem = dist.on_main(lambda: _keep(name, config, data, preprocessing, dist.device))
    if problem is not None or path is None:
        raise problem or RuntimeError("rank 0 has no teacher")
    tensors, metadata = read_file(path)
    return Teacher(tensors["embeddings"], metadata["content"], path)


def _keep(name: str, config: TrainConfig, data: RunData, preprocessing: Preprocessing, device: torch.device) -> Path:
    """The file of the embeddings; it is written if it is missing or belongs to another teacher."""
    places = _places(config, data.train)
    kept = [place / name for place in places if _is_kept(place / name, len(data.labels))]
    teacher = str(config.model.teacher)
    try:
        found = _Table(config) if _is_table(teacher) else _Network(config, device)
    except (CheckpointError, ValueError, OSError) as error:
        if kept:  # the teacher's file is gone, but its embeddings are stored
            return kept[0]
        kind = CheckpointError if isinstance(error, CheckpointError) else ValueError
        raise kind(f"the teacher {teacher} cannot be opened: {error}") from error
    for path in kept:
        if read_file(path)[1]["content"] == found.content:
            return path
    embeddings = found.embeddings(config, data, preprocessing)
    metadata = {"format": _FORMAT, "teacher": teacher, "content": found.content}
    for place in places[:-1]:  # beside the data, if that folder is writable
        with contextlib.suppress(OSError, CheckpointError):
            place.mkdir(parents=True, exist_ok=True)
            save_file_atomic(place / name, {"embeddings": embeddings}, metadata)
            return place / name
    places[-1].mkdir(parents=True, exist_ok=True)
    save_file_atomic(places[-1] / name, {"embeddings": embeddings}, metadata)
    return places[-1] / name


class _Table:
    """A teacher given as a file of embeddings."""

    def __init__(self, config: TrainConfig) -> None:
        self._path = Path(str(config.model.teacher))
        if config.model.teacher_options:
            raise ValueError(f"{self._path} is a file of embeddings, which takes no teacher_options")
        self._table, self._names = read_embeddings(self._path)
        self.content = content_of(self._path)

    def embeddings(self, config: TrainConfig, data: RunData, preprocessing: Preprocessing) -> Tensor:
        return rows_of(names_of(data.train), self._table, self._names).contiguous()


class _Network:
    """A teacher given as a network."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        from facezoo.deploy.networks import open_network

        options = dict(config.model.teacher_options)
        tag = {name: options.pop(name) for name in ("model", "pretrained") if name in options}
        self._found = open_network(str(config.model.teacher), device=device, arguments=options, **tag)
        self._device = device
        self.content = content_of(self._found.path)

    def embeddings(self, config: TrainConfig, data: RunData, preprocessing: Preprocessing) -> Tensor:
        wanted = self._found.preprocessing
        if not knows_images(data.train) and wanted != preprocessing:
            raise ValueError(
                f"the teacher {config.model.teacher} needs other preprocessing than this dataset's; "
                "train from a folder, or give a file of the teacher's embeddings"
            )
        return embed_training_images(
            self._found.model,
            data,
            config,
            wanted,
            self._device if isinstance(self._found.model, torch.nn.Module) else None,
            mirrored=True,
            progress=config.output.progress,
        )


def content_of(path: Path) -> str:
    """A hash of a file, or of the weights in a folder."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    together = " ".join(map(sha256_of, files))
    return hashlib.blake2b(together.encode(), digest_size=8).hexdigest()


def names_of(dataset: Any) -> list[Path]:
    """The image paths of a dataset, also through ``Subset`` and ``ConcatDataset``. Raises ValueError if it has none."""
    if isinstance(dataset, Subset):
        names = names_of(dataset.dataset)
        return [names[int(index)] for index in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        return [name for part in dataset.datasets for name in names_of(part)]
    samples = getattr(dataset, "samples", None)
    if samples is None:
        raise ValueError(
            f"{type(dataset).__name__} has no `samples` (pairs of a name and a class index), by which a file of embeddings is read"
        )
    return [Path(str(name)) for name, _ in samples]


def _is_table(teacher: str) -> bool:
    """Whether a file contains embeddings rather than weights."""
    path = Path(teacher)
    if path.suffix not in EMBEDDING_SUFFIXES or not path.is_file():
        return False
    if path.suffix != ".safetensors":
        return True
    try:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            return "embeddings" in file.keys()  # noqa: SIM118  (no mapping)
    except Exception as error:
        raise CheckpointError(f"{path} is not a safetensors file ({shorten(error)})") from None


def _places(config: TrainConfig, train: Any) -> list[Path]:
    """Folders in which the embeddings may be stored; the run folder is last."""
    from facezoo.data import PackedFaces

    run = Path(config.output.folder)
    return [train.root / "teachers", run] if isinstance(train, PackedFaces) else [run]


def _file_name(config: TrainConfig, data: RunData) -> str:
    own = config.model
    key = json.dumps([own.teacher, dict(own.teacher_options), data.fingerprint()["train"]], sort_keys=True)
    return f"teacher-{hashlib.blake2b(key.encode(), digest_size=6).hexdigest()}.safetensors"


def _is_kept(path: Path, images: int) -> bool:
    """Whether a file contains a teacher's embeddings of this number of images; a damaged file is written again."""
    try:
        tensors, metadata = read_file(path)
    except (CheckpointError, OSError):
        return False
    table = tensors.get("embeddings")
    return (
        metadata.get("format") == _FORMAT
        and "content" in metadata
        and table is not None
        and table.dtype == torch.float32
        and table.dim() == 2
        and len(table) == images
    )
