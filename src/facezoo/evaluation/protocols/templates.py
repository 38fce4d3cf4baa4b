"""Templates of many images: IJB-B and IJB-C, 1:1 and 1:N; and TinyFace, search among distractors.

A template of IJB is made as the field makes it: embeddings of the image and its mirror are added (not scaled to unit length), times
the detector's score, averaged over each medium (the frames of one video), added over media, and only then scaled.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from facezoo.data import DataError
from facezoo.data._listing import images_in
from facezoo.evaluation.identification import identification_metrics, search_gallery
from facezoo.evaluation.metrics import verification_metrics
from facezoo.evaluation.pairs import pair_scores
from facezoo.evaluation.protocols.protocol import PROTOCOLS, Embed, Protocol, ProtocolResult

_FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
_HEADLINE_FAR = 1e-4


def make_templates(
    embeddings: Tensor, templates: Sequence[int], media: Sequence[int], quality: Tensor
) -> tuple[Tensor, list[int]]:
    """Templates of images.

    Args:
        embeddings: float ``(N, D)``, not scaled.
        templates: the template of each image.
        media: its medium, unique within the template.
        quality: float ``(N,)`` weights, the detector's scores.

    Returns:
        Float ``(T, D)`` of unit length, and the numbers of the templates, ascending.
    """
    weighted = embeddings.float() * quality.float()[:, None]
    pairs, medium_of = np.unique(np.stack([templates, media], axis=1), axis=0, return_inverse=True)
    medium_of = medium_of.reshape(-1)
    index = torch.from_numpy(medium_of)
    sums = torch.zeros(len(pairs), weighted.shape[1]).index_add_(0, index, weighted)
    means = sums / torch.bincount(index, minlength=len(pairs))[:, None]
    numbers, template_of = np.unique(pairs[:, 0], return_inverse=True)
    total = torch.zeros(len(numbers), weighted.shape[1]).index_add_(0, torch.from_numpy(template_of.reshape(-1)), means)
    return normalize(total, dim=1), numbers.tolist()


def read_media(folder: Path, name: str) -> tuple[list[Path], list[int], list[int], Tensor]:
    """Files, templates, media and detector scores of ``meta/NAME_face_tid_mid.txt`` and ``meta/NAME_name_5pts_score.txt``."""
    media = _rows(folder / "meta" / f"{name}_face_tid_mid.txt", 3)
    scores = _rows(folder / "meta" / f"{name}_name_5pts_score.txt", 12)
    if [row[0] for row in media] != [row[0] for row in scores]:
        raise DataError(f"{folder}: the two lists of meta/ name different images, or in another order")
    images = folder / "aligned"
    if not images.is_dir():
        raise DataError(
            f"{folder} has no aligned/: align the images of loose_crop/ by the five points of meta/{name}_name_5pts_score.txt first"
        )
    try:
        return (
            [images / row[0] for row in media],
            [int(row[1]) for row in media],
            [int(row[2]) for row in media],
            torch.tensor([float(row[11]) for row in scores]),
        )
    except ValueError as error:
        raise DataError(f"{folder}/meta: {str(error)[:100]}") from None


def run_ijb(name: str) -> Callable[[Path, Embed], ProtocolResult]:
    """1:1 by ``meta/NAME_template_pair_label.txt``; 1:N where ``meta/NAME_1N_gallery_G1.csv``, …G2 and a probe list lie."""

    def run(folder: Path, embed: Embed) -> ProtocolResult:
        paths, numbers, media, quality = read_media(folder, name)
        templates, order = make_templates(embed(paths), numbers, media, quality)
        row_of = {number: row for row, number in enumerate(order)}
        try:
            rows = [
                (row_of[int(a)], row_of[int(b)], int(label))
                for a, b, label in _rows(folder / "meta" / f"{name}_template_pair_label.txt", 3)
            ]
        except (KeyError, ValueError) as error:
            raise DataError(f"{folder}/meta/{name}_template_pair_label.txt: no template {str(error)[:60]}") from None
        table = torch.tensor(rows)
        metrics = verification_metrics(
            pair_scores(templates, table[:, 0], table[:, 1]), table[:, 2], fars=_FARS, bootstrap=200
        )
        text, figures = f"1:1\n{metrics}", {"verification": metrics.to_dict()}
        for part in ("G1", "G2"):
            gallery = _subjects(folder / "meta" / f"{name}_1N_gallery_{part}.csv", row_of)
            probes = _subjects(folder / "meta" / f"{name}_1N_probe_mixed.csv", row_of)
            if gallery and probes:
                searches = search_gallery(
                    templates[[row for row, _ in probes]], [who for _, who in probes],
                    templates[[row for row, _ in gallery]], [who for _, who in gallery],
                )  # fmt: skip
                found = identification_metrics(searches)
                text += f"\n1:N, gallery {part}\n{found}"
                figures[f"identification_{part}"] = found.to_dict()
        return ProtocolResult(name, "TAR@FAR=1e-4", metrics.tar_at_far[_HEADLINE_FAR], None, text, figures)

    return run


def run_tinyface(folder: Path, embed: Embed) -> ProtocolResult:
    """Rank-k of ``Probe`` in ``Gallery_Match`` and ``Gallery_Distractor``; files are ``<identity>_<number>.jpg``."""
    parts = {name: _images(folder / name) for name in ("Probe", "Gallery_Match", "Gallery_Distractor")}
    who = {name: [path.stem.partition("_")[0] for path in paths] for name, paths in parts.items()}
    if not parts["Probe"] or not parts["Gallery_Match"]:
        raise DataError(f"{folder} has no images in Probe or Gallery_Match")
    embedded = {name: embed(paths) for name, paths in parts.items() if paths}
    gallery = [embedded[name] for name in ("Gallery_Match", "Gallery_Distractor") if name in embedded]
    owners = [*who["Gallery_Match"], *(f"distractor {row}" for row in range(len(parts["Gallery_Distractor"])))]
    found = identification_metrics(
        search_gallery(embedded["Probe"], who["Probe"], torch.cat(gallery), owners), ranks=(1, 5, 10, 20), fpirs=()
    )
    return ProtocolResult("tinyface", "rank-1", found.rank.get(1, float("nan")), None, str(found), found.to_dict())


def _rows(file: Path, fields: int) -> list[list[str]]:
    if not file.is_file():
        raise DataError(f"{file} does not exist")
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        row = line.split()
        if row and len(row) != fields:
            raise DataError(f"{file}, line {number}: {len(row)} fields, expected {fields}")
        if row:
            rows.append(row)
    if not rows:
        raise DataError(f"{file} is empty")
    return rows


def _subjects(file: Path, row_of: dict[int, int]) -> list[tuple[int, str]]:
    """Template row and subject of every template in a list of IJB; empty if there is no such file."""
    if not file.is_file():
        return []
    with file.open(encoding="utf-8-sig", newline="") as stream:
        lines = list(csv.DictReader(stream))
    try:
        pairs = {int(line["TEMPLATE_ID"]): line["SUBJECT_ID"] for line in lines}
        return [(row_of[number], who) for number, who in pairs.items()]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{file}: expected columns TEMPLATE_ID and SUBJECT_ID of known templates ({str(error)[:60]})"
        ) from None


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return images_in(folder)


def _find_tinyface(folder: Path) -> Path | None:
    for place in (folder / "tinyface" / "Testing_Set", folder / "tinyface"):
        if (place / "Gallery_Match").is_dir():
            return place
    return None


for _name, _title, _about in (
    ("ijbb", "IJB-B", "templates of 1,845 people, 1:1 and 1:N (Whitelam et al. 2017)"),
    ("ijbc", "IJB-C", "templates of 3,531 people, 1:1 and 1:N (Maze et al. 2018)"),
):

    def _find(folder: Path, name: str = _name, title: str = _title) -> Path | None:
        for place in (folder / name, folder / title.replace("-", ""), folder):
            if (place / "meta" / f"{name}_face_tid_mid.txt").is_file():
                return place
        return None

    PROTOCOLS.register(_name, Protocol(_title, _about, _find, run_ijb(_name), normalize=False, flip="sum"))
PROTOCOLS.register(
    "tinyface",
    Protocol("TinyFace", "search of small faces among distractors, 1811.08965", _find_tinyface, run_tinyface),
)
