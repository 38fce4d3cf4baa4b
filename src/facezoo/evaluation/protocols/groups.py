"""Error rates by group at one common threshold: RFW, and any attribute that images have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from facezoo.data import DataError
from facezoo.evaluation.classification import wilson_interval
from facezoo.evaluation.metrics import verification_metrics
from facezoo.evaluation.pairs import pair_scores
from facezoo.evaluation.protocols.protocol import PROTOCOLS, Embed, Protocol, ProtocolResult
from facezoo.evaluation.protocols.verification import read_list
from facezoo.evaluation.scores import ArrayLike, Interval, check_scores, jsonable


@dataclass(frozen=True)
class GroupErrors:
    """Error rates of one group at the common threshold, fractions of 1, with Wilson intervals over pairs.

    Attributes:
        far: share of the group's impostor pairs accepted; NaN without any.
        frr: share of its genuine pairs rejected; NaN without any.
        far_interval: 95 % interval.
        frr_interval: 95 % interval.
        num_genuine: its genuine pairs.
        num_impostor: its impostor pairs.
    """

    far: float
    frr: float
    far_interval: Interval
    frr_interval: Interval
    num_genuine: int
    num_impostor: int


@dataclass(frozen=True)
class GroupReport:
    """Groups side by side, at one threshold.

    Attributes:
        groups: name -> errors.
        threshold: the common threshold, rule ``score >= threshold``.
        far: the FAR over all groups that it was chosen for; None if it was given.
    """

    groups: dict[str, GroupErrors]
    threshold: float
    far: float | None

    @property
    def far_ratio(self) -> float:
        """Highest FAR of a group over the lowest; infinite if the lowest is 0, NaN if no group has impostor pairs."""
        rates = [group.far for group in self.groups.values() if group.num_impostor]
        if not rates:
            return float("nan")
        return max(rates) / min(rates) if min(rates) > 0 else float("inf")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict."""
        groups = {name: group.__dict__ for name, group in self.groups.items()}
        return cast("dict[str, Any]", jsonable({**self.__dict__, "groups": groups, "far_ratio": self.far_ratio}))

    def __str__(self) -> str:
        width = max(len(name) for name in self.groups)
        chosen = "given" if self.far is None else f"FAR {self.far:g} over all groups"
        lines = [f"one threshold for all: score >= {self.threshold:.6f} ({chosen})"]
        for name, group in self.groups.items():
            (a, b), (c, d) = group.far_interval, group.frr_interval
            lines.append(
                f"{name:<{width}}  FAR {group.far * 100:.3g} % [{a * 100:.3g}, {b * 100:.3g}]  "
                f"FRR {group.frr * 100:.3g} % [{c * 100:.3g}, {d * 100:.3g}]  "
                f"({group.num_genuine:,} genuine, {group.num_impostor:,} impostor pairs)"
            )
        if len(self.groups) > 1:
            lines.append(f"highest FAR of a group over the lowest: {self.far_ratio:.3g}")
        return "\n".join(lines)


def group_errors(
    scores: ArrayLike, labels: ArrayLike, groups: Sequence[str], *, far: float = 1e-2, threshold: float | None = None
) -> GroupReport:
    """Error rates of every group at one threshold.

    Args:
        scores: ``(N,)`` similarities.
        labels: ``(N,)`` bool or 0/1, true = same person.
        groups: the group of every pair.
        far: the FAR over all pairs that the threshold is chosen for, a fraction.
        threshold: the threshold itself, instead.

    Raises:
        ValueError: as :func:`verification_metrics`, lengths that differ, or a FAR that all pairs together do not resolve.
    """
    values, genuine, _ = check_scores(scores, labels)
    if len(groups) != len(values):
        raise ValueError(f"one group per pair: {len(groups)} groups for {len(values)} pairs")
    limit = threshold
    if limit is None:
        limit = verification_metrics(scores, labels, fars=[far], bootstrap=0).threshold_at_far[far]
        if limit != limit:
            raise ValueError(f"FAR {far:g} is not resolvable from {int((~genuine).sum())} impostor pairs")
    names = np.asarray(list(groups)).astype(str)
    found = {}
    for name in dict.fromkeys(names.tolist()):
        own = names == name
        accepted, impostors = int((values[own & ~genuine] >= limit).sum()), int((own & ~genuine).sum())
        rejected, genuines = int((values[own & genuine] < limit).sum()), int((own & genuine).sum())
        nothing = (float("nan"), float("nan"))
        found[name] = GroupErrors(
            accepted / impostors if impostors else float("nan"),
            rejected / genuines if genuines else float("nan"),
            wilson_interval(accepted, impostors) if impostors else nothing,
            wilson_interval(rejected, genuines) if genuines else nothing,
            genuines,
            impostors,
        )
    return GroupReport(found, float(limit), far if threshold is None else None)


def run_groups(folder: Path, embed: Embed) -> ProtocolResult:
    """One folder per group, each with ``pairs.txt`` and its images (or ``images/``)."""
    scores, labels, names = [], [], []
    for part in sorted(path for path in folder.iterdir() if (path / "pairs.txt").is_file()):
        pairs = read_list(part / "pairs.txt")
        if pairs.labels is None:
            raise DataError(f"{part / 'pairs.txt'} has no labels")
        scores.append(pair_scores(embed(pairs.paths), pairs.left, pairs.right))
        labels.append(pairs.labels)
        names += [part.name] * len(pairs)
    report = group_errors(torch.cat(scores), torch.cat(labels), names)
    worst = max(group.frr for group in report.groups.values())
    return ProtocolResult("rfw", "highest FRR of a group", worst, None, str(report), report.to_dict())


def _find(folder: Path) -> Path | None:
    place = folder / "rfw"
    return place if place.is_dir() and any(place.glob("*/pairs.txt")) else None


PROTOCOLS.register("rfw", Protocol("RFW", "error rates by group at one threshold, 1812.00194", _find, run_groups))
