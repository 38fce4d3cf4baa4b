"""Kaggle files of the HW2P2 terms (CMU 11-785): written atomically, and checked line by line.

Each term's file format is a record in :data:`SUBMISSION_FORMATS`; to add a term, add a record. If a format could not be
confirmed, its ``note`` says so: compare such a file with the term's hand-out before you submit it.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch

from facezoo.files import atomic_path
from facezoo.weights.errors import shorten

Task: TypeAlias = Literal["classification", "verification", "gallery", "both"]
PathLike: TypeAlias = "str | os.PathLike[str]"


class SubmissionError(ValueError):
    """Kaggle would refuse the submission or score it wrongly. The message lists the problems and their lines."""


@dataclass(frozen=True)
class SubmissionFormat:
    """The format of one term's file.

    Attributes:
        term: e.g. ``"F24"`` (F = fall, S = spring).
        task: kind of the values. ``"classification"``: class indices; ``"verification"``: scores, higher = more similar;
            ``"gallery"``: identity names, or ``n000000`` for nobody in the gallery; ``"both"``: class indices, then scores.
        header: the two column names.
        ids: ``"file"``: ``000000.jpg``, ``000001.jpg``, ... in sorted order of the test images; ``"index"``: 0, 1, 2, ...
        metric: metric that Kaggle computes.
        num_classes: number of classes; class indices must lie below it.
        num_rows: official number of rows, if known.
        note: uncertain points of the format; empty if there are none.
    """

    term: str
    task: Task
    header: tuple[str, str]
    ids: Literal["file", "index"]
    metric: str
    num_classes: int
    num_rows: int | None = None
    note: str = ""

    def row_id(self, row: int) -> str:
        """The ID of row ``row``, counted from 0."""
        return f"{row:06d}.jpg" if self.ids == "file" else str(row)


_GALLERY_TERMS = ("F22", "S23", "F23", "S24")
_PAIR_TERMS = ("F24", "S25", "F25", "S26")
_GALLERY_NOTE = "the number of gallery identities (960 to 1000) and whether n000000 occurs differ between these terms"

SUBMISSION_FORMATS: tuple[SubmissionFormat, ...] = (
    SubmissionFormat("S22", "classification", ("id", "label"), "file", "accuracy", 7000),
    SubmissionFormat("S22", "verification", ("id", "match"), "index", "AUC", 7000),
    *(
        SubmissionFormat(term, "classification", ("id", "label"), "file", "accuracy", 7000 if term == "F22" else 7001)
        for term in _GALLERY_TERMS
    ),
    *(
        SubmissionFormat(term, "gallery", ("id", "label"), "index", "accuracy", 7001, note=_GALLERY_NOTE)
        for term in _GALLERY_TERMS
    ),
    *(
        SubmissionFormat(term, "verification", ("ID", "Label"), "index", "EER", 8631, num_rows=5000)
        for term in _PAIR_TERMS
    ),
    SubmissionFormat(
        "F26",
        "both",
        ("ID", "Label"),
        "index",
        "0.5 * accuracy + 0.5 * (1 - EER)",
        8631,
        note="the layout is a guess: class indices of the test images first, then the scores of the test pairs, "
        "the IDs running on; check it against the term's hand-out",
    ),
)


@dataclass(frozen=True)
class SubmissionCheck:
    """The result of checking a valid file.

    Attributes:
        path: the file.
        format: the record it was checked against; read its ``note``.
        rows: number of rows without the header.
        num_labels: class-index rows (``"classification"``, ``"both"``).
        num_scores: score rows (``"verification"``, ``"both"``).
        num_no_match: rows that say ``n000000`` (``"gallery"``).
        doubts: problems that Kaggle does not detect: scores that look like distances or saturated probabilities.
    """

    path: Path
    format: SubmissionFormat
    rows: int
    num_labels: int = 0
    num_scores: int = 0
    num_no_match: int = 0
    doubts: tuple[str, ...] = ()

    def __str__(self) -> str:
        kind, header = f"{self.format.term} {self.format.task}", ",".join(self.format.header)
        text = f"{self.path}: {kind}, {self.rows:,} rows, header {header}: "
        text += "in order" if not self.doubts else f"valid, but {'; '.join(self.doubts)}"
        return text + (f" (note: {self.format.note})" if self.format.note else "")


def submission_format(term: str, task: Task | None = None) -> SubmissionFormat:
    """The format of ``term`` (any case) and ``task``. The task may be omitted if the term has only one file.

    Raises:
        SubmissionError: an unknown term, a task the term does not have, or a task that must be named.
    """
    found = [entry for entry in SUBMISSION_FORMATS if entry.term == term.upper()]
    if not found:
        raise SubmissionError(f"unknown term {term!r}; known: {', '.join(submission_terms())}")
    tasks = ", ".join(repr(entry.task) for entry in found)
    if task is None:
        if len(found) > 1:
            raise SubmissionError(f"term {term.upper()} has {len(found)} files; say task= one of {tasks}")
        return found[0]
    for entry in found:
        if entry.task == task:
            return entry
    raise SubmissionError(f"term {term.upper()} has no {task!r} file; it has {tasks}")


def submission_terms() -> tuple[str, ...]:
    """The known terms, oldest first."""
    return tuple(dict.fromkeys(entry.term for entry in SUBMISSION_FORMATS))


def write_submission(
    path: PathLike,
    *,
    term: str,
    task: Task | None = None,
    labels: Sequence[int] | np.ndarray | torch.Tensor | None = None,
    scores: Sequence[float] | np.ndarray | torch.Tensor | None = None,
    identities: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    expected_rows: int | None = None,
) -> SubmissionCheck:
    """Write and check one Kaggle file. An older file with the same name is kept if there is an error.

    Args:
        path: the CSV file; its folder is created.
        term: e.g. ``"F24"``.
        task: required if the term has two files.
        labels: predicted class indices, for ``"classification"`` and ``"both"``, in sorted order of the test images.
        scores: similarities (higher = more alike, not distances), for ``"verification"`` and ``"both"``, in the order of the
            test pairs.
        identities: names, for ``"gallery"``, in sorted order of the unknown images.
        ids: row IDs, if they are not the term's usual ones.
        expected_rows: number of rows the file must have, such as the length of the test list. Default: the term's official number
            (5,000 test pairs for F24-S26), if there is one.

    Raises:
        SubmissionError: values are missing, do not belong to the task, are not finite, or their number is wrong.
    """
    entry = submission_format(term, task)
    columns = _columns(entry, labels=labels, scores=scores, identities=identities)
    if ids is not None and len(ids) != len(columns):
        raise SubmissionError(f"{len(ids)} ids but {len(columns)} values")
    target = Path(path)
    with atomic_path(target) as temporary:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(entry.header)
            writer.writerows((ids[row] if ids else entry.row_id(row), value) for row, value in enumerate(columns))
        num_labels = _length(labels) if entry.task == "both" else None
        return _check(temporary, target, entry, expected_rows=expected_rows, num_labels=num_labels, ids=ids)


def check_submission(
    path: PathLike,
    *,
    term: str,
    task: Task | None = None,
    expected_rows: int | None = None,
    num_labels: int | None = None,
    ids: Sequence[str] | None = None,
) -> SubmissionCheck:
    """Check a Kaggle file: header, IDs (present, in order, none twice), count, and every value.

    Args:
        path: the CSV file.
        term: e.g. ``"F24"``.
        task: required if the term has two files.
        expected_rows: number of rows the file must have; default: the term's official number, where there is one.
        num_labels: for ``"both"``: how many of the rows, from the top, are class indices (the number of test images); needed to
            check their values.
        ids: the row IDs, if they are not the term's usual ones.

    Raises:
        FileNotFoundError: the file does not exist.
        SubmissionError: the file has errors; the message lists the first five with line numbers.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no submission file at {file}")
    entry = submission_format(term, task)
    return _check(file, file, entry, expected_rows=expected_rows, num_labels=num_labels, ids=ids)


def _columns(
    entry: SubmissionFormat,
    *,
    labels: Sequence[int] | np.ndarray | torch.Tensor | None,
    scores: Sequence[float] | np.ndarray | torch.Tensor | None,
    identities: Sequence[str] | None,
) -> list[str]:
    needed = {
        "classification": {"labels"},
        "verification": {"scores"},
        "gallery": {"identities"},
        "both": {"labels", "scores"},
    }[entry.task]
    given = {
        name
        for name, value in (("labels", labels), ("scores", scores), ("identities", identities))
        if value is not None
    }
    if given != needed:
        takes, got = " and ".join(sorted(needed)), " and ".join(sorted(given)) or "nothing"
        raise SubmissionError(f"the {entry.term} {entry.task} file takes {takes}; got {got}")
    values: list[str] = []
    if labels is not None:
        array = _flat(labels, "labels")
        if array.dtype.kind not in "iu":
            raise SubmissionError(f"labels must be integer class indices, got {array.dtype}; logits need argmax first")
        values += [str(value) for value in array.tolist()]
    if scores is not None:
        array = _flat(scores, "scores")
        if array.dtype.kind not in "fiu":
            raise SubmissionError(
                f"scores must be numbers, got {array.dtype}; booleans lose the ranking that the metric needs"
            )
        # The shortest text that gives the same float64 again: rounding would cause ties, and ties change the EER.
        values += [repr(float(value)) for value in array.tolist()]
    if identities is not None:
        values += [str(value) for value in identities]
    return values


def _flat(data: Sequence[int] | Sequence[float] | np.ndarray | torch.Tensor, name: str) -> np.ndarray:
    if isinstance(data, torch.Tensor):
        data = data.detach().cpu()
        data = (data.float() if data.dtype == torch.bfloat16 else data).numpy()
    array = np.asarray(data)
    if array.ndim != 1:
        raise SubmissionError(f"{name} must be one-dimensional, one value per row; got shape {array.shape}")
    return array


def _length(data: Sequence[int] | np.ndarray | torch.Tensor | None) -> int:
    return 0 if data is None else len(data)


def _check(
    file: Path,
    shown_as: Path,
    entry: SubmissionFormat,
    *,
    expected_rows: int | None,
    num_labels: int | None,
    ids: Sequence[str] | None,
) -> SubmissionCheck:
    problems: list[str] = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            lines = list(csv.reader(stream))
    except (UnicodeDecodeError, csv.Error) as error:
        raise SubmissionError(f"{shown_as} is not a CSV text file: {shorten(error)}") from error
    header, rows = (lines[0], lines[1:]) if lines else ([], [])
    if tuple(header) != entry.header:
        problems.append(f"line 1: header {','.join(header)!r}, expected {','.join(entry.header)!r}")
    wanted = expected_rows if expected_rows is not None else entry.num_rows if ids is None else len(ids)
    if ids is not None and wanted != len(ids):
        problems.append(f"{len(ids)} ids were given for {wanted} rows")
    if not rows:
        problems.append("no rows")
    if wanted is not None and len(rows) != wanted:
        hint = "" if expected_rows is not None else "; pass expected_rows (--rows) if your test list has another length"
        problems.append(f"{len(rows):,} rows, expected {wanted:,}{hint}")
    if entry.task == "classification":
        num_labels = len(rows)
    elif entry.task == "both":
        if num_labels is not None and not 0 < num_labels < len(rows):
            problems.append(f"{len(rows)} rows cannot be {num_labels} class indices and at least one score")
    elif num_labels is not None:
        raise ValueError(f"num_labels applies to the task 'both' only, not to {entry.task!r}")
    problems += _row_problems(entry, rows, num_labels, ids)
    scores = _scores(rows[num_labels or 0 :]) if entry.task in ("verification", "both") else np.zeros(0)
    problems += _score_problems(scores)
    if problems:
        more = f"\n  ... and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise SubmissionError(
            f"{shown_as} is not a valid {entry.term} {entry.task} submission:"
            + "".join(f"\n  {shorten(text, 400)}" for text in problems[:5])
            + more
        )
    labels_in = num_labels or 0
    return SubmissionCheck(
        path=shown_as,
        format=entry,
        rows=len(rows),
        num_labels=labels_in,
        num_scores=len(rows) - labels_in if entry.task in ("verification", "both") else 0,
        num_no_match=sum(row[1] == "n000000" for row in rows) if entry.task == "gallery" else 0,
        doubts=tuple(_score_doubts(scores)),
    )


def _scores(rows: list[list[str]]) -> np.ndarray:
    return np.array([float(row[1]) for row in rows if len(row) == 2 and _is_finite(row[1])], dtype=np.float64)


def _score_problems(scores: np.ndarray) -> Iterator[str]:
    """Problems of scores that do not measure similarity."""
    distinct = np.unique(scores)
    if len(scores) > 1 and len(distinct) == 1:
        yield f"all {len(scores):,} scores are {float(distinct[0])}: nothing was compared"
    elif len(scores) >= 10 and len(distinct) == 2:
        low, high = map(float, distinct)
        yield (
            f"all {len(scores):,} scores are {low} or {high}: these are decisions; the metric ranks the pairs, "
            "so write the cosine itself"
        )


def _score_doubts(scores: np.ndarray) -> Iterator[str]:
    if not len(scores):
        return
    low, high = float(scores.min()), float(scores.max())
    values, counts = np.unique(scores, return_counts=True)
    most = int(counts.argmax())
    if len(scores) >= 10 and 5 * counts[most] > len(scores):
        yield (
            f"{int(counts[most]):,} of {len(scores):,} scores are exactly {float(values[most])}: ties cannot be ranked "
            "(saturated probabilities? write the cosine itself)"
        )
    if low >= 0 and 1.001 < high <= 4.001:
        yield (
            f"the scores run from {low:.3g} to {high:.3g}, as distances do and cosines do not: a score must be higher for "
            "pairs that are more alike"
        )


def _row_problems(
    entry: SubmissionFormat, rows: list[list[str]], num_labels: int | None, ids: Sequence[str] | None
) -> Iterator[str]:
    seen: dict[str, int] = {}
    for row, fields in enumerate(rows):
        line = row + 2
        if len(fields) != 2:
            yield f"line {line}: {len(fields)} fields, expected 2"
            continue
        name, value = fields
        if ids is not None and entry.ids == "file" and name.isdecimal():
            yield f"line {line}: ID {name!r} is a row number; the term wants names of images, such as {entry.row_id(row)!r}"
        if name in seen:
            yield f"line {line}: ID {name!r} was on line {seen[name]} already"
        else:
            seen[name] = line
            expected = entry.row_id(row) if ids is None else ids[row] if row < len(ids) else None
            if expected is not None and name != expected:
                yield f"line {line}: ID {name!r}, expected {expected!r} (rows must be in the order of the test list)"
        if entry.task == "gallery":
            if value.strip().lower() in ("", "nan", "none", "null"):
                yield f"line {line}: no identity ({value!r}); for nobody in the gallery write n000000"
        elif entry.task == "classification" or (num_labels is not None and row < num_labels):
            if not value.isascii() or not value.isdigit() or int(value) >= entry.num_classes:
                yield f"line {line}: {value!r} is not a class index in 0..{entry.num_classes - 1}"
        elif not _is_finite(value):
            yield f"line {line}: {value!r} is not a finite score"


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
