"""Check registered weights: load them strictly, and compare their embeddings with those of an earlier check."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from facezoo.data import eval_transform
from facezoo.files import write_atomic
from facezoo.models import Preprocessing, create_model
from facezoo.weights import CheckpointError, WeightsRecord, fetch_weights
from facezoo.weights.errors import shorten
from facezoo.weights.fetching import newer_file, stated_otherwise
from facezoo.weights.pins import weights_folder

if TYPE_CHECKING:
    from facezoo.data import PairList
    from facezoo.evaluation import KFoldAccuracy

__all__ = ["LFWCheck", "WeightsCheck", "check_on_lfw", "check_weights", "drawn_images", "fingerprint"]

FORMAT, VERSION = "facezoo.fingerprint", 1
_SIDE = 112
# Between numbers of a record's fingerprint and today's: rounding is below 1e-4, other weights differ by 0.05.
_NEAR = 2e-3
_ALIKE = 0.9999  # cosine: rounding on another machine changes the sixth digit, other weights change the first


@dataclass(frozen=True)
class WeightsCheck:
    """The result of :func:`check_weights`.

    Attributes:
        name: ``MODEL.TAG``.
        path: the file.
        sha256: its SHA-256.
        tensors: number of tensors in the network, all of them loaded from the file.
        cosine: lowest cosine between the embeddings of an earlier check and of this one, over the drawn images; None at the
            first.
        fingerprint: file with the embeddings.
        newer: message about a newer file on the Hub; empty if there is none, or the Hub was not asked.
    """

    name: str
    path: Path
    sha256: str
    tensors: int
    cosine: float | None
    fingerprint: Path
    newer: str = ""
    doubt: str = ""
    as_recorded: bool | None = None

    def __str__(self) -> str:
        before = (
            "first check on this machine" if self.cosine is None else f"as at the last check (cosine {self.cosine:.6f})"
        )
        record = "as the record says" if self.as_recorded else "the record has none to compare with"
        lines = [
            f"{self.name}: loaded strictly, {self.tensors} tensors of {self.path.name}, SHA-256 {self.sha256}",
            f"embeddings: {before}; {record}",
        ]
        return "\n".join([*lines, *filter(None, (self.newer, self.doubt))])

    def to_dict(self) -> dict[str, Any]:
        """Convert to a dict of JSON values."""
        return {**asdict(self), "path": str(self.path), "fingerprint": str(self.fingerprint)}


@dataclass(frozen=True)
class LFWCheck:
    """Accuracy on LFW's ten folds, beside what was published for the same weights.

    Attributes:
        accuracy: mean over the folds, a fraction of 1.
        standard_error: of that mean.
        published: accuracies that the record reports for LFW, fractions of 1; most records have one, some none.
        reversed_channels: accuracy with the channels in the other order, measured where the published figure was missed by more
            than two standard errors; None elsewhere.
    """

    accuracy: float
    standard_error: float
    published: tuple[float, ...]
    reversed_channels: float | None = None

    @property
    def difference(self) -> float | None:
        """Measured minus published, by the nearest of the published figures; None where there is none."""
        return min((self.accuracy - value for value in self.published), key=abs, default=None)

    @property
    def agrees(self) -> bool | None:
        """Whether the published figure lies within two standard errors; None where there is none."""
        return None if self.difference is None else abs(self.difference) <= 2 * self.standard_error

    def __str__(self) -> str:
        measured = f"LFW: {self.accuracy:.2%} ± {self.standard_error:.2%}"
        if self.difference is None:
            return f"{measured}; the record has no figure to compare with"
        said = f"{measured}, published {', '.join(f'{value:.2%}' for value in self.published)}: "
        if self.agrees:
            return f"{said}within two standard errors"
        other = "" if self.reversed_channels is None else f" With the channels reversed: {self.reversed_channels:.2%}."
        return (
            f"{said}{self.difference * 100:+.2f} points, more than two standard errors.{other} Faces aligned or cropped in another "
            "way, or another flip, may be why"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "difference": self.difference, "agrees": self.agrees}


def check_on_lfw(record: WeightsRecord, pairs: PairList) -> LFWCheck:
    """Measure registered weights on LFW's pairs in folds, mirrored images as the record says, and compare with what was published.

    Args:
        record: weights that :func:`check_weights` has found in order.
        pairs: see :func:`facezoo.data.read_lfw_pairs`; the published figures are those of the ten folds of view 2.

    Raises:
        ValueError: the pairs have no folds.
        CheckpointError: the weights cannot be had.
    """
    from facezoo.evaluation import evaluate_pairs

    if pairs.folds is None or pairs.labels is None:
        raise ValueError("the list of pairs has no folds; the published figures are those of LFW's ten (pairs.txt)")
    model: Any = create_model(record.model, pretrained=record.tag).eval()

    def measure() -> KFoldAccuracy:
        folds = evaluate_pairs(model, pairs, flip=model.preprocessing.flip, batch_size=32).kfold
        assert folds is not None
        return folds

    folds = measure()
    published = [
        figure.value for figure in record.figures if figure.benchmark.startswith("LFW") and figure.metric == "accuracy"
    ]
    found = LFWCheck(folds.mean, folds.std_error, tuple(published))
    if found.agrees is not False or len(model.preprocessing.mean) != 3:
        return found
    other = "rgb" if model.preprocessing.channel_order == "bgr" else "bgr"
    model.preprocessing = replace(model.preprocessing, channel_order=other)
    return replace(found, reversed_channels=measure().mean)


def drawn_images() -> NDArray[np.uint8]:
    """Three images drawn by a formula, RGB ``(3, 112, 112, 3)``: the same on every machine and in every version."""
    rows, columns = np.mgrid[0:_SIDE, 0:_SIDE]
    images = np.empty((3, _SIDE, _SIDE, 3), dtype=np.int64)
    for index, image in enumerate(images):  # integers only, so there is no rounding
        skin = 150 + 30 * index
        image[:] = np.stack([40 + rows, 60 + columns, 90 + (rows + columns) // 2], axis=-1)
        face = (rows - 60) ** 2 * 9 + (columns - 56) ** 2 * (14 + index) < 23_000
        image[face] = (skin, skin - 40, skin - 60)
        for row, column, radius in ((48, 38 - index, 5), (48, 74 + index, 5), (68, 56, 3 + index)):
            image[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = (30, 20 + 20 * index, 25)
        mouth = (abs(rows - 88 + index) < 3) & (abs(columns - 56) < 16 - 2 * index)
        image[mouth] = (160, 50, 60 + 10 * index)
    return images.clip(0, 255).astype(np.uint8)


def fingerprint(model: torch.nn.Module, preprocessing: Preprocessing) -> Tensor:
    """Embeddings of :func:`drawn_images` by a network of facezoo, of unit length: float32 ``(3, D)``."""
    transform = eval_transform(preprocessing)
    images = torch.stack([transform(Image.fromarray(image)) for image in drawn_images()])
    resting: Any = model.eval()
    with torch.inference_mode():
        return torch.nn.functional.normalize(resting.embed(images).float(), dim=1)


def check_weights(record: WeightsRecord) -> WeightsCheck:
    """Download registered weights, load them strictly, and compare the embeddings of three drawn images with an earlier check's.

    The embeddings are written beside the lock file, for comparison in the next check, also by another version of facezoo.

    Raises:
        CheckpointError: the weights cannot be downloaded or do not match, or their embeddings differ from before.
    """
    found = fetch_weights(record)
    model = create_model(record.model, pretrained=record.tag)
    embeddings = fingerprint(model, model.preprocessing)
    if not bool(embeddings.isfinite().all()):
        raise CheckpointError(f"weights {record.name}: the embeddings of the drawn images hold NaN or infinity")
    _compare_with_record(record, embeddings)
    path = weights_folder(record) / "fingerprint.json"
    before = _read(path, record, found.sha256)
    cosine = None
    if before is not None:
        if before.shape != embeddings.shape:
            raise CheckpointError(
                f"weights {record.name}: {path} has embeddings of another shape; delete it, and check again"
            )
        cosine = float((before * embeddings).sum(dim=1).min())
        if not cosine >= _ALIKE:
            raise CheckpointError(
                f"weights {record.name}: the embeddings of the drawn images differ from those of the last check (cosine "
                f"{cosine:.4f}, {path}). Either this facezoo builds another network, or preprocesses otherwise: please report it"
            )
    else:
        _write(path, record, found.sha256, embeddings)
    tensors, known = len(model.state_dict()), True if record.fingerprint else None
    newer, doubt = newer_file(record), stated_otherwise(record)
    return WeightsCheck(record.name, found.path, found.sha256, tensors, cosine, path, newer, doubt, known)


def _compare_with_record(record: WeightsRecord, embeddings: Tensor) -> None:
    """Raise if somebody has measured the embeddings, and they began otherwise."""
    if not record.fingerprint:
        return
    known = torch.tensor(record.fingerprint)
    difference = float((embeddings[:, : known.shape[1]] - known).abs().max())
    if not difference <= _NEAR:
        raise CheckpointError(
            f"weights {record.name}: the embeddings of the drawn images differ from the record's (by {difference:.4f}, "
            f"{_NEAR} is allowed), though the file is the one of the record. Either this facezoo builds another network, or "
            "preprocesses otherwise: please report it"
        )


def _write(path: Path, record: WeightsRecord, sha256: str, embeddings: Tensor) -> None:
    rows = [[round(value, 6) for value in row] for row in embeddings.tolist()]
    values = {"format": FORMAT, "version": VERSION, "weights": record.name, "sha256": sha256, "embeddings": rows}
    try:
        write_atomic(path, json.dumps(values) + "\n")
    except OSError as error:
        raise CheckpointError(f"could not write {path}: {error}") from error


def _read(path: Path, record: WeightsRecord, sha256: str) -> Tensor | None:
    """The embeddings of an earlier check of the same file; None if there was none."""
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT or values["version"] != VERSION:
            raise ValueError(f"format {values['format']!r}, version {values['version']!r}")
        if values["weights"] != record.name or values["sha256"] != sha256:
            return None  # of an earlier release of the weights
        rows: Sequence[Sequence[float]] = values["embeddings"]
        if not all(isinstance(value, float) and math.isfinite(value) for row in rows for value in row):
            raise ValueError("embeddings are finite numbers")
        return torch.tensor(rows, dtype=torch.float32)
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"the fingerprint {path} cannot be read ({shorten(error)}); delete it, and check again"
        ) from None
