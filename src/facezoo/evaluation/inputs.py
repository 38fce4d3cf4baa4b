"""Read embeddings and scores computed by other programs."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from facezoo.arrays import read_arrays
from facezoo.data import DataError, PairList, is_lfw_list, read_lfw_pairs, read_pairs
from facezoo.data.sources.source import Pairs, Source, open_source, recognized
from facezoo.evaluation.pairs import make_folds

EMBEDDING_SUFFIXES = (".npz", ".parquet", ".safetensors")


def open_pairs(path: str | os.PathLike[str], image_root: str | os.PathLike[str] | None = None) -> PairList:
    """The pairs at ``path``.

    Args:
        path: a list with the lines ``a b 1`` or in LFW's form, or a source that holds pairs with their images: insightface's
            ``.bin``, parquet with ``image1``, ``image2`` and ``target``, a folder that was packed from one. Those get the folds of
            :func:`ten_folds`.
        image_root: folder that the names in a list are relative to; None for the folder of the list.

    Raises:
        FileNotFoundError: ``path`` or an image does not exist.
        DataError: it is malformed, or holds images and no pairs.
        ValueError: ``image_root`` is given, and the images are in the file.
    """
    file = Path(path)
    if not is_source_file(file):
        return (read_lfw_pairs if is_lfw_list(file) else read_pairs)(file, image_root or file.parent)
    source = open_source(file)
    if source.pairs is None:
        raise DataError(f"{file.as_posix()!r} holds images, but no pairs")
    if image_root is not None:
        raise ValueError(f"{file.as_posix()!r} holds the images of its pairs; leave the folder of images out")
    return _pairs_of(source, source.pairs)


def _pairs_of(source: Source, pairs: Pairs) -> PairList:
    left, right, same = (torch.from_numpy(np.asarray(part)) for part in pairs)
    names = tuple(Path(source.name(index)) for index in range(len(source)))
    fewest = min(int(same.sum()), int((~same).sum()))
    return PairList(names, left, right, same, ten_folds(same) if fewest >= 2 else None, source)


def open_test_set(path: str | os.PathLike[str]) -> PairList | None:
    """The pairs of a source that holds pairs with their images, none of which has an identity; None for anything else."""
    source = open_source(path) if is_source_file(path) else None
    if source is None or source.pairs is None or int(source.labels.max(initial=-1)) >= 0:
        return None
    return _pairs_of(source, source.pairs)


def is_source_file(path: str | os.PathLike[str]) -> bool:
    """Whether it is one of the sources but for folders of images and text, which a list of pairs is too."""
    return recognized(Path(path)) not in (None, "list", "folder", "layout")


def ten_folds(labels: Tensor) -> Tensor:
    """Contiguous tenths, as the field cuts its files, or by lot where a tenth would hold one kind of pair only."""
    folds = torch.arange(len(labels)) * 10 // len(labels)
    kinds = {(int(fold), bool(label)) for fold, label in zip(folds, labels, strict=True)}
    if len(kinds) == 20:
        return folds
    return make_folds(labels, min(10, int(min(labels.sum(), (~labels).sum()))))


@dataclass(frozen=True, eq=False)
class ScoredPairs:
    """Scores from a file: ``scores`` float64 ``(N,)``; ``labels`` bool, ``folds`` int64, ``groups``; None where not given."""

    scores: np.ndarray
    labels: np.ndarray | None
    folds: np.ndarray | None
    groups: list[str] | None = None


def read_scores(path: str | os.PathLike[str]) -> ScoredPairs:
    """Read a CSV file with a header: a column ``score``, optionally ``label`` (0 or 1), ``fold`` and ``group``.

    Other columns are ignored.

    Raises:
        FileNotFoundError: the file does not exist.
        DataError: the column is missing, or a value is not a finite number (with its line).
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file of scores {file}")
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            numbered = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} is not CSV text: {str(error)[:100]}") from None
    rows = [row for _, row in numbered]
    if not rows or "score" not in rows[0]:
        raise DataError(f"{file} needs a header with a column 'score' (and 'label' if it is known), and rows")
    columns: dict[str, list[float]] = {name: [] for name in ("score", "label", "fold") if name in rows[0]}
    for number, row in numbered:
        for name, values in columns.items():
            try:
                values.append(float(row[name]))
            except (TypeError, ValueError):
                raise DataError(f"{file}, line {number}: {name} {str(row[name])[:40]!r} is not a number") from None
            if not math.isfinite(values[-1]):
                raise DataError(f"{file}, line {number}: the {name} is {values[-1]}")
            if name == "fold" and not (values[-1].is_integer() and 0 <= values[-1] < 2**31):
                raise DataError(f"{file}, line {number}: a fold is a number from 0; got {row[name][:40]!r}")
            if name == "label" and values[-1] not in (0, 1):
                raise DataError(f"{file}, line {number}: the label is 1 (same person) or 0, got {row[name][:40]!r}")
    return ScoredPairs(
        np.array(columns["score"]),
        np.array(columns["label"]) == 1 if "label" in columns else None,
        np.array(columns["fold"]).astype(np.int64) if "fold" in columns else None,
        [row["group"] or "" for row in rows] if "group" in rows[0] else None,
    )


def score_rows(pairs: PairList, scores: Tensor) -> str:
    """Scored pairs as CSV text for :func:`read_scores`: image, image, score, and label and fold if known."""
    names = [
        "left",
        "right",
        "score",
        *(["label"] if pairs.labels is not None else []),
        *(["fold"] if pairs.folds is not None else []),
    ]
    lines = [",".join(names)]
    for row, (left, right, score) in enumerate(
        zip(pairs.left.tolist(), pairs.right.tolist(), scores.tolist(), strict=True)
    ):
        cells = [_quoted(str(pairs.paths[left])), _quoted(str(pairs.paths[right])), repr(score)]
        if pairs.labels is not None:
            cells.append(str(int(pairs.labels[row])))
        if pairs.folds is not None:
            cells.append(str(int(pairs.folds[row])))
        lines.append(",".join(cells))
    return "\n".join(lines) + "\n"


def read_embeddings(path: str | os.PathLike[str]) -> tuple[Tensor, list[str]]:
    """Read ``(N, D)`` embeddings and the names of their images.

    Args:
        path: ``.npz`` (arrays ``embeddings`` and ``names``), ``.safetensors`` (tensor ``embeddings``, names as JSON in the metadata
            ``names``), or ``.parquet`` (columns ``name`` and ``embedding``).

    Raises:
        FileNotFoundError: the file does not exist.
        DataError: the arrays are missing, or contain NaN.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file of embeddings {file}")
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors, ".parquet": _read_parquet}
    if file.suffix not in readers:
        raise DataError(f"embeddings are read from {', '.join(EMBEDDING_SUFFIXES)}; got {file}")
    try:
        embeddings, names = readers[file.suffix](file)
    except (KeyError, ValueError, OSError, SafetensorError, TypeError, RecursionError) as error:
        raise DataError(f"{file} holds no embeddings with names: {type(error).__name__}: {str(error)[:100]}") from None
    if embeddings.ndim != 2 or len(names) != len(embeddings) or not embeddings.is_floating_point():
        raise DataError(
            f"{file}: embeddings are float (N, D) with N names, got {tuple(embeddings.shape)} and {len(names)} names"
        )
    embeddings = embeddings.float()
    if not bool(torch.isfinite(torch.linalg.vector_norm(embeddings, dim=1)).all()):
        raise DataError(f"{file} holds NaN or infinite embeddings, or some that are too large to square in float32")
    return embeddings, names


def rows_of(paths: Sequence[Path], embeddings: Tensor, names: Sequence[str]) -> Tensor:
    """The embeddings of these images, matched by name: the name with the longest common end of the path is taken.

    The rest of path and name may differ, since images and embeddings were made in different folders, but alike for all images:
    otherwise an image whose embedding is missing would get that of another person's image with the same file name.

    Raises:
        DataError: no name, or more than one, matches an image, or only by a file name in another folder.
    """
    by_end: dict[str, set[int]] = {}
    for row, name in enumerate(names):
        parts = name.replace("\\", "/").split("/")
        for start in range(len(parts)):
            by_end.setdefault("/".join(parts[start:]), set()).add(row)
    rows: list[int] = []
    rests: dict[tuple[str, str], Path] = {}  # what of path and name is before the common end, with the first such path
    for path in paths:
        parts = path.as_posix().split("/")
        end = next((end for start in range(len(parts)) if (end := "/".join(parts[start:])) in by_end), "")
        found = by_end.get(end, set())
        if len(found) != 1:
            raise DataError(f"{path}: {len(found) or 'no'} embeddings have that name")
        rows.append(next(iter(found)))
        name = names[rows[-1]].replace("\\", "/")
        rests.setdefault((path.as_posix().removesuffix(end), name.removesuffix(end)), path)
    if len(rests) > 1 and (wrong := next((path for rest, path in rests.items() if all(rest)), None)):
        raise DataError(f"{wrong}: no embedding has that name, only a file of the same name in another folder")
    return embeddings[torch.tensor(rows, dtype=torch.int64)]


def people_of_names(names: Sequence[str]) -> tuple[list[str], str]:
    """Who is on each image, by its name: the folder, or where all lie in one the file's name before its last number.

    Returns:
        The people, and which of the two it was: ``"folder"`` or ``"file name"``.

    Raises:
        DataError: no person has two images by either rule, so the names do not say who is on them.
    """
    paths = [PurePosixPath(name.replace("\\", "/")) for name in names]
    rules = {"folder": lambda path: path.parent.as_posix(), "file name": lambda path: path.stem.rpartition("_")[0]}
    for origin, rule in rules.items():
        people = [rule(path) for path in paths]
        if 1 < len(set(people)) < len(people) and "" not in people:
            return people, origin
    raise DataError(
        f"the {len(names)} names do not say who is on the images: they need a folder per person, or names such as Ann_0001.jpg"
    )


def _read_npz(file: Path) -> tuple[Tensor, list[str]]:
    content = read_arrays(file, ("embeddings", "names"))
    return torch.from_numpy(content["embeddings"]), [str(name) for name in content["names"]]


def _read_safetensors(file: Path) -> tuple[Tensor, list[str]]:
    with safe_open(file, framework="pt") as content:
        names = json.loads((content.metadata() or {})["names"])
        return content.get_tensor("embeddings"), [str(name) for name in names]


def _read_parquet(file: Path) -> tuple[Tensor, list[str]]:
    import importlib

    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ImportError("parquet files need pyarrow: pip install 'facezoo[parquet]'") from error
    table = parquet.read_table(file, columns=["name", "embedding"])
    rows = table.column("embedding").to_pylist()
    return torch.tensor(rows, dtype=torch.float32), [str(name) for name in table.column("name").to_pylist()]


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(sign in text for sign in ',"\n') else text
