"""Figures of 1:N search: rank-k, and TPIR at a FPIR, each with its interval over people.

- A mated probe shows a person who is in the gallery. Its rank is one plus the number of other people's templates that score at
  least as high as its own person's best template: ties count against it.
- Rank-k is the share of mated probes with a rank of at most k.
- FPIR at a threshold is the share of non-mated probes whose best score reaches it; TPIR the share of mated probes whose rank is 1
  and whose score reaches it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from facezoo.columns import aligned
from facezoo.evaluation.clusters import ClusterBootstrap, interval_around
from facezoo.evaluation.counts import allowed_false_accepts
from facezoo.evaluation.scores import NO_INTERVAL, Interval, format_figure, jsonable, needed_for

_BLOCK_SCORES = 1 << 24


@dataclass(frozen=True, eq=False)
class Searches:
    """Results of searching a gallery with probes of known people.

    Attributes:
        mated_ranks: int64 ``(M,)`` rank of every mated probe, from 1.
        mated_scores: float64 ``(M,)`` best score with a template of its own person.
        nonmated_scores: float64 ``(N,)`` best score of every non-mated probe.
        mated_people: ``(M,)`` names, for the bootstrap.
        nonmated_people: ``(N,)`` names.
        gallery_size: number of templates.
    """

    mated_ranks: np.ndarray
    mated_scores: np.ndarray
    nonmated_scores: np.ndarray
    mated_people: np.ndarray
    nonmated_people: np.ndarray
    gallery_size: int

    def at_threshold(
        self, threshold: float, *, confidence: float = 0.95, bootstrap: int = 1000, seed: int = 0
    ) -> OpenSetRates:
        """TPIR and FPIR at a given threshold, with intervals over people."""
        people = np.concatenate([self.mated_people, self.nonmated_people])
        found = (self.mated_ranks == 1) & (self.mated_scores >= threshold)
        named = self.nonmated_scores >= threshold

        def rates(weights: np.ndarray) -> tuple[float, float]:
            mated, nonmated = np.split(weights, [len(found)])
            return _share(mated, found, mated.sum()), _share(nonmated, named, nonmated.sum())

        tpir, fpir = rates(np.ones(len(people), dtype=np.int64))
        intervals = [NO_INTERVAL, NO_INTERVAL]
        if bootstrap and len(np.unique(people)) > 1:
            clusters = ClusterBootstrap(people, None, seed=seed)
            drawn = [rates(clusters.draw()) for _ in range(bootstrap)]
            intervals = [
                _interval([row[0] for row in drawn], tpir, confidence, max(len(found), 1)),
                _interval([row[1] for row in drawn], fpir, confidence, max(len(named), 1)),
            ]
        return OpenSetRates(tpir, fpir, intervals[0], intervals[1], len(found), len(named))


@dataclass(frozen=True)
class OpenSetRates:
    """TPIR and FPIR at one threshold, fractions of 1, with intervals over people; NaN if there are no such probes."""

    tpir: float
    fpir: float
    tpir_interval: Interval
    fpir_interval: Interval
    num_mated: int
    num_nonmated: int

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict; NaN is ``None``."""
        return cast("dict[str, Any]", jsonable(self.__dict__))

    def __str__(self) -> str:
        tpir = " ".join(format_figure(self.tpir, self.tpir_interval, step=1 / max(self.num_mated, 1), percent=True))
        fpir = " ".join(format_figure(self.fpir, self.fpir_interval, step=1 / max(self.num_nonmated, 1), percent=True))
        return f"TPIR {tpir}, FPIR {fpir}"


@dataclass(frozen=True)
class IdentificationMetrics:
    """Figures of 1:N search. Rates are fractions of 1, thresholds are in the unit of the scores (cosine).

    Attributes:
        rank: k -> share of mated probes with rank at most k; empty without mated probes.
        tpir_at_fpir: FPIR -> TPIR; NaN where there are fewer than 1/FPIR non-mated probes.
        threshold_at_fpir: its threshold, rule ``score >= threshold``; NaN likewise.
        rank_interval: bootstrap intervals over people; the gallery is not resampled.
        tpir_at_fpir_interval: likewise; each resample has its own thresholds.
        num_mated: number of mated probes.
        num_nonmated: number of non-mated probes.
        gallery_size: number of templates.
        num_people: number of people on the probes.
        confidence: confidence of the intervals, fraction of 1.
    """

    rank: dict[int, float]
    tpir_at_fpir: dict[float, float]
    threshold_at_fpir: dict[float, float]
    rank_interval: dict[int, Interval]
    tpir_at_fpir_interval: dict[float, Interval]
    num_mated: int
    num_nonmated: int
    gallery_size: int
    num_people: int
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict; NaN is ``None``."""
        return cast("dict[str, Any]", jsonable(self.__dict__))

    def rows(self) -> list[tuple[str, str, str]]:
        """``(quantity, value, interval)`` as text."""
        step = 1 / max(self.num_mated, 1)
        rows = [
            (f"rank-{k}", *format_figure(share, self.rank_interval[k], step=step, percent=True))
            for k, share in self.rank.items()
        ]
        for fpir, tpir in self.tpir_at_fpir.items():
            name = f"TPIR@FPIR={fpir:g}"
            if math.isnan(tpir):
                rows.append((name, "not resolvable", f"needs {needed_for(fpir):,} non-mated probes"))
            else:
                value, interval = format_figure(tpir, self.tpir_at_fpir_interval[fpir], step=step, percent=True)
                rows.append((name, value, f"{interval} score >= {self.threshold_at_fpir[fpir]:.6f}"))
        return rows

    def __str__(self) -> str:
        head = (
            f"{self.num_mated:,} mated and {self.num_nonmated:,} non-mated probes of {self.num_people:,} people in "
            f"{self.gallery_size:,} templates; {self.confidence * 100:g} % intervals over people"
        )
        return "\n".join([head, *aligned(self.rows())])


def search_gallery(
    probes: Tensor, probe_people: Sequence[str], templates: Tensor, template_people: Sequence[str]
) -> Searches:
    """Compare every probe with every template, block by block.

    Args:
        probes: float ``(P, D)`` of unit length.
        probe_people: the person on each probe; a probe whose person has no template is non-mated.
        templates: float ``(G, D)`` of unit length; a person may have several.
        template_people: the person of each template.

    Raises:
        ValueError: shapes or lengths do not match, or there are no probes or no templates.
    """
    if not len(probes) or not len(templates):
        raise ValueError(f"{'the gallery has no templates' if len(probes) else 'there are no probes'} to compare")
    if probes.ndim != 2 or templates.ndim != 2 or probes.shape[1] != templates.shape[1]:
        raise ValueError(
            f"probes and templates are (P, D) and (G, D), got {tuple(probes.shape)}, {tuple(templates.shape)}"
        )
    if len(probe_people) != len(probes) or len(template_people) != len(templates):
        raise ValueError(
            f"one name for each row: {len(probe_people)} for {len(probes)} probes, "
            f"{len(template_people)} for {len(templates)} templates"
        )
    numbers = {name: number for number, name in enumerate(dict.fromkeys([*template_people, *probe_people]))}
    owners = torch.tensor([numbers[name] for name in template_people])
    wanted = torch.tensor([numbers[name] for name in probe_people])
    mated = torch.isin(wanted, owners).numpy()
    rows = max(1, _BLOCK_SCORES // len(templates))
    best, own_best, ranks = [], [], []
    for start in range(0, len(probes), rows):
        block = slice(start, start + rows)
        scores = (probes[block].float() @ templates.float().T).cpu()
        own = owners[None, :] == wanted[block, None]
        own_score = scores.masked_fill(~own, -math.inf).amax(dim=1)
        best.append(scores.amax(dim=1))
        own_best.append(own_score)
        ranks.append(1 + ((scores >= own_score[:, None]) & ~own).sum(dim=1))
    people = np.asarray(list(probe_people), dtype=object).astype(str)
    return Searches(
        mated_ranks=torch.cat(ranks).numpy()[mated],
        mated_scores=torch.cat(own_best).double().numpy()[mated],
        nonmated_scores=torch.cat(best).double().numpy()[~mated],
        mated_people=people[mated],
        nonmated_people=people[~mated],
        gallery_size=len(templates),
    )


def identification_metrics(
    searches: Searches,
    *,
    ranks: Iterable[int] = (1, 5, 10),
    fpirs: Iterable[float] = (1e-2, 1e-1),
    confidence: float = 0.95,
    bootstrap: int = 1000,
    seed: int = 0,
) -> IdentificationMetrics:
    """Figures of the results of :func:`search_gallery`.

    Args:
        searches: the results.
        ranks: values of k for rank-k.
        fpirs: false positive identification rates, fractions in (0, 1].
        confidence: confidence of the intervals, fraction of 1.
        bootstrap: number of resamples of people; 0 for no intervals.
        seed: seed of the resampling.

    Raises:
        ValueError: no probes, or an option out of range.
    """
    ranks, fpirs = tuple(dict.fromkeys(ranks)), tuple(dict.fromkeys(float(fpir) for fpir in fpirs))
    if any(k < 1 for k in ranks) or not all(0 < fpir <= 1 for fpir in fpirs):
        raise ValueError(f"ranks are at least 1 and fpirs lie in (0, 1]; got {ranks} and {fpirs}")
    num_mated, num_nonmated = len(searches.mated_scores), len(searches.nonmated_scores)
    if num_mated + num_nonmated == 0:
        raise ValueError("there are no probes")
    people = np.concatenate([searches.mated_people, searches.nonmated_people])
    ones = np.ones(len(people), dtype=np.int64)
    shares, tpirs, thresholds = _figures(searches, ones, ranks if num_mated else (), fpirs)
    rank_interval = dict.fromkeys(shares, NO_INTERVAL)
    tpir_interval = dict.fromkeys(fpirs, NO_INTERVAL)
    num_people = len(np.unique(people))
    if bootstrap and num_people > 1:
        clusters = ClusterBootstrap(people, None, seed=seed)
        drawn = [_figures(searches, clusters.draw(), tuple(shares), fpirs) for _ in range(bootstrap)]
        for k, share in shares.items():
            rank_interval[k] = _interval([row[0][k] for row in drawn], share, confidence, num_mated)
        for fpir, tpir in tpirs.items():
            if not math.isnan(tpir):
                tpir_interval[fpir] = _interval([row[1][fpir] for row in drawn], tpir, confidence, num_mated)
    return IdentificationMetrics(
        rank=shares,
        tpir_at_fpir=tpirs,
        threshold_at_fpir=thresholds,
        rank_interval=rank_interval,
        tpir_at_fpir_interval=tpir_interval,
        num_mated=num_mated,
        num_nonmated=num_nonmated,
        gallery_size=searches.gallery_size,
        num_people=num_people,
        confidence=float(confidence),
    )


def threshold_at_fpir(nonmated_scores: np.ndarray, fpir: float, weights: np.ndarray | None = None) -> float:
    """The lowest threshold that at most ``fpir`` of the non-mated probes reach; NaN with fewer than 1/fpir of them."""
    order = np.argsort(-nonmated_scores, kind="stable")
    ordered = nonmated_scores[order]
    weights = np.ones(len(ordered), dtype=np.int64) if weights is None else weights[order]
    total = int(weights.sum())
    allowed = allowed_false_accepts(fpir, total) if total else 0
    if allowed == 0:
        return math.nan
    if allowed >= total:
        return -math.inf
    reached = np.cumsum(weights)
    first_too_many = float(ordered[int(np.searchsorted(reached, allowed, side="right"))])
    return float(np.nextafter(np.float32(first_too_many), np.float32(np.inf)))


def _figures(
    searches: Searches, weights: np.ndarray, ranks: tuple[int, ...], fpirs: tuple[float, ...]
) -> tuple[dict[int, float], dict[float, float], dict[float, float]]:
    mated, nonmated = np.split(weights, [len(searches.mated_scores)])
    total = mated.sum()
    shares = {k: _share(mated, searches.mated_ranks <= k, total) for k in ranks}
    thresholds = {fpir: threshold_at_fpir(searches.nonmated_scores, fpir, nonmated) for fpir in fpirs}
    first = searches.mated_ranks == 1
    tpirs = {
        fpir: math.nan if math.isnan(limit) else _share(mated, first & (searches.mated_scores >= limit), total)
        for fpir, limit in thresholds.items()
    }
    return shares, tpirs, thresholds


def _share(weights: np.ndarray, chosen: np.ndarray, total: float) -> float:
    return float(weights[chosen].sum() / total) if total else math.nan


def _interval(replicates: list[float], point: float, confidence: float, trials: int) -> Interval:
    known = [value for value in replicates if not math.isnan(value)]
    if not known or math.isnan(point):
        return NO_INTERVAL
    low, high = interval_around(known, point, confidence)
    if low == high and point in (0.0, 1.0):  # no errors observed: the exact binomial bound
        surprise = ((1 - confidence) / 2) ** (1 / trials)
        return (surprise, 1.0) if point == 1.0 else (0.0, 1 - surprise)
    return low, high
