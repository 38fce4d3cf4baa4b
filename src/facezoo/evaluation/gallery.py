"""Galleries: one template per known person. People can be added and removed without training.

A gallery is one safetensors file. It records its network and keeps embeddings of some of its own photos. Searching for these
among the *other* people shows which scores a stranger reaches in a gallery of this size, and so gives the threshold for
“unknown”.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import normalize

from facezoo.evaluation.calibration import Calibration, CalibrationError, fit_logistic, posterior
from facezoo.evaluation.identification import threshold_at_fpir
from facezoo.evaluation.scores import needed_for
from facezoo.evaluation.search import Engine, nearest
from facezoo.ops.margin import unit_vectors
from facezoo.weights import save_file_atomic

_FORMAT = "facezoo-gallery"
_MOST_PROBES = 10_000
_FLIPS = ("none", "sum", "concat")


class GalleryError(ValueError):
    """A gallery cannot be read, or a request does not fit it."""


@dataclass(frozen=True)
class Candidate:
    """A person a photo may show: name, cosine with the person's template, and the probability, if known."""

    name: str
    cosine: float
    probability: float | None


@dataclass(frozen=True)
class Identification:
    """The answer to one photo.

    Attributes:
        name: the person; None for “unknown”, below the threshold.
        candidates: the nearest people, best first.
        threshold: the cosine that is needed to name a person.

    """

    name: str | None
    candidates: tuple[Candidate, ...]
    threshold: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, eq=False)
class Gallery:
    """Templates of people, and the data to search them. Immutable: :meth:`add` and :meth:`remove` return a new gallery.

    Attributes:
        names: the people, in the order of the rows.
        means: float32 ``(G, D)``, mean of the unit embeddings of each person's photos.
        counts: int64 ``(G,)``, number of photos.
        probes: float32 ``(M, D)``, unit embeddings of some photos (all, up to 10,000).
        owners: int64 ``(M,)``, index of the person of each probe.
        source: name of the network when the gallery was built.
        network: fingerprint of its weights; None for a callable.
        flip: test-time augmentation of all embeddings.
        calibration: the network's calibration, if it had one.
    """

    names: tuple[str, ...]
    means: Tensor
    counts: Tensor
    probes: Tensor
    owners: Tensor
    source: str = ""
    network: str | None = None
    flip: str = "none"
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        people, width = len(self.names), self.means.shape[-1]
        shapes = {"means": (people, width), "counts": (people,), "owners": (len(self.probes),)}
        wrong = [name for name, shape in shapes.items() if tuple(getattr(self, name).shape) != shape]
        if wrong or tuple(self.probes.shape) != (len(self.owners), width) or people != len(set(self.names)):
            raise GalleryError(f"the gallery's parts do not fit each other ({', '.join(wrong) or 'names or photos'})")
        if not all(isinstance(name, str) and name for name in self.names):
            raise GalleryError("a person of the gallery has no name")
        if len(self.owners) and not 0 <= int(self.owners.min()) <= int(self.owners.max()) < people:
            raise GalleryError("a photo of the gallery belongs to nobody")
        if people and int(self.counts.min()) < 1:
            raise GalleryError("a person of the gallery has no photo")
        if not bool(torch.isfinite(self.means).all() & torch.isfinite(self.probes).all()):
            raise GalleryError("the gallery holds NaN or infinite embeddings")
        if self.flip not in _FLIPS:
            raise GalleryError(f"the gallery's flip is unknown: {str(self.flip)[:40]!r}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def templates(self) -> Tensor:
        """float32 ``(G, D)`` of unit length."""
        return normalize(self.means, dim=1)

    @classmethod
    def empty(cls, width: int, **identity: Any) -> Gallery:
        """A gallery without people. ``identity``: ``source``, ``network``, ``flip`` and ``calibration``."""
        rows = torch.zeros(0, dtype=torch.int64)
        return cls((), torch.zeros(0, width), rows, torch.zeros(0, width), rows, **identity)

    def add(self, people: Mapping[str, Tensor]) -> Gallery:
        """A gallery with additional people, or additional photos of known people.

        Args:
            people: name -> float ``(n, D)`` unit embeddings of the person's photos.

        Raises:
            GalleryError: the embeddings have another width, or a person has no photos.
        """
        names, means, counts = list(self.names), list(self.means), self.counts.tolist()
        rows = {name: row for row, name in enumerate(names)}
        probes, owners = [self.probes], [self.owners]
        for name, embeddings in people.items():
            if embeddings.ndim != 2 or embeddings.shape[1] != self.means.shape[1] or not len(embeddings):
                raise GalleryError(
                    f"{name}: embeddings are (n, {self.means.shape[1]}) with n > 0, got {tuple(embeddings.shape)}"
                )
            unit = unit_vectors(embeddings.detach().cpu().float(), "embeddings")[0]
            if name not in rows:
                rows[name] = len(names)
                names.append(name)
                means.append(torch.zeros(self.means.shape[1]))
                counts.append(0)
            row = rows[name]
            total = counts[row] + len(unit)
            means[row] = (means[row] * counts[row] + unit.sum(dim=0)) / total
            counts[row] = total
            probes.append(unit)
            owners.append(torch.full((len(unit),), row))
        kept = _evenly(sum(map(len, owners)), _MOST_PROBES)
        return dataclasses.replace(
            self,
            names=tuple(names),
            means=torch.stack(means) if means else self.means,
            counts=torch.tensor(counts, dtype=torch.int64),
            probes=torch.cat(probes)[kept],
            owners=torch.cat(owners)[kept],
        )

    def remove(self, name: str) -> Gallery:
        """A gallery without this person. Raises GalleryError if the name is unknown."""
        if name not in self.names:
            raise GalleryError(f"{name!r} is not in the gallery of {len(self)} people")
        row = self.names.index(name)
        people = torch.arange(len(self)) != row
        photos = self.owners != row
        owners = self.owners[photos]
        return dataclasses.replace(
            self,
            names=tuple(other for other in self.names if other != name),
            means=self.means[people],
            counts=self.counts[people],
            probes=self.probes[photos],
            owners=owners - (owners > row).long(),
        )

    def own_searches(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the gallery's own photos: against all other people, and against their own person's other photos.

        Returns:
            Best score against other people, float64 ``(M,)``; score with the own person, float64 ``(m,)``, for people with
            several photos.
        """
        if len(self) < 2 or not len(self.probes):
            return np.zeros(0), np.zeros(0)
        templates = self.templates
        scores, rows = nearest(self.probes, templates, 2)
        stranger = torch.where(rows[:, 0] == self.owners, scores[:, 1], scores[:, 0])
        counts = self.counts[self.owners]
        several = counts > 1
        left = self.means[self.owners] * counts[:, None] - self.probes
        mated = (normalize(left, dim=1) * self.probes).sum(dim=1)[several]
        return stranger.double().numpy(), mated.double().numpy()

    def threshold(self, fpir: float) -> float:
        """The cosine threshold at which at most a fraction ``fpir`` of strangers is given a name, in a gallery of this size.

        Raises:
            GalleryError: ``fpir`` is not in (0, 1), or there are too few photos to resolve it.
        """
        if not 0 < fpir < 1:
            raise GalleryError(f"an FPIR is a fraction in (0, 1), such as 0.01; got {fpir!r}")
        if not len(self):
            raise GalleryError("the gallery is empty: add people first")
        strangers, _ = self.own_searches()
        limit = threshold_at_fpir(strangers, fpir)
        if math.isnan(limit):
            raise GalleryError(
                f"FPIR {fpir:g} is not resolvable: the gallery has {int(self.counts.sum())} photos of {len(self)} people, "
                f"{needed_for(fpir)} photos of at least two people are needed; raise --fpir or give --threshold"
            )
        return limit

    def identify(
        self,
        embeddings: Tensor,
        *,
        top: int = 5,
        fpir: float = 0.01,
        threshold: float | None = None,
        prior: float = 0.5,
        engine: Engine = "exact",
    ) -> list[Identification]:
        """Identify the people on photos.

        Args:
            embeddings: float ``(P, D)`` of the photos.
            top: number of candidates.
            fpir: fraction of strangers that may be given a name, see :meth:`threshold`.
            threshold: cosine threshold to use instead of ``fpir``.
            prior: prior probability that the person is in the gallery.
            engine: see :func:`facezoo.evaluation.search.nearest`.

        Raises:
            GalleryError: an empty gallery, embeddings of another width, or an FPIR that is not resolvable.
            ValueError: the prior is not in (0, 1).
        """
        if not len(self):
            raise GalleryError("the gallery is empty")
        if embeddings.ndim != 2 or embeddings.shape[1] != self.means.shape[1]:
            raise GalleryError(f"embeddings are (P, {self.means.shape[1]}), got {tuple(embeddings.shape)}")
        limit = self.threshold(fpir) if threshold is None else threshold
        line = self._log_ratio()
        unit = unit_vectors(embeddings.detach().cpu().float(), "embeddings")[0]
        scores, rows = nearest(unit, self.templates, top, engine=engine)
        answers = []
        for values, found in zip(scores.tolist(), rows.tolist(), strict=True):
            candidates = tuple(
                Candidate(self.names[row], value, None if line is None else posterior(line[0] * value + line[1], prior))
                for value, row in zip(values, found, strict=True)
            )
            answers.append(Identification(candidates[0].name if values[0] >= limit else None, candidates, limit))
        return answers

    def _log_ratio(self) -> tuple[float, float] | None:
        """Slope and intercept of the log-likelihood ratio of “this person” to “a stranger”, for the best score of a search."""
        strangers, mated = self.own_searches()
        if len(mated) >= 10 and len(strangers) >= 10:
            return fit_logistic(np.concatenate([mated, strangers]), np.arange(len(mated) + len(strangers)) < len(mated))
        return None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file; an existing file is replaced only when the new one is complete."""
        metadata = {
            "format": _FORMAT,
            "names": json.dumps(self.names),
            "source": self.source,
            "network": json.dumps(self.network),
            "flip": self.flip,
            "calibration": json.dumps(None if self.calibration is None else self.calibration.to_dict()),
        }
        tensors = {name: getattr(self, name).contiguous() for name in ("means", "counts", "probes", "owners")}
        save_file_atomic(Path(path), tensors, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Gallery:
        """Read a file of :meth:`save`.

        Raises:
            FileNotFoundError: the file does not exist.
            GalleryError: it is not a gallery, or damaged.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"there is no gallery {file}; facezoo gallery build makes one")
        try:
            with safe_open(file, framework="pt") as content:
                metadata = content.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise GalleryError("its format is not that of a gallery")
                tensors = {name: content.get_tensor(name) for name in ("means", "counts", "probes", "owners")}
            calibration = json.loads(metadata["calibration"])
            network = json.loads(metadata["network"])
            if not (network is None or isinstance(network, str)) or any(t.dim() == 0 for t in tensors.values()):
                raise GalleryError("its metadata are damaged")
            return cls(
                names=tuple(json.loads(metadata["names"])),
                means=tensors["means"].float(),
                counts=tensors["counts"].long(),
                probes=tensors["probes"].float(),
                owners=tensors["owners"].long(),
                source=metadata["source"],
                network=network,
                flip=metadata["flip"],
                calibration=None if calibration is None else Calibration.from_dict(calibration),
            )
        except (GalleryError, CalibrationError) as error:
            raise GalleryError(f"{file} is not a valid gallery: {error}") from None
        except (SafetensorError, KeyError, TypeError, RecursionError, ValueError) as error:
            raise GalleryError(f"{file} is not a valid gallery: {type(error).__name__}: {str(error)[:100]}") from None


def rows_by_person(embeddings: Tensor, people: Sequence[str]) -> dict[str, Tensor]:
    """Rows of ``(N, D)`` embeddings by person, in order of first appearance."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(people):
        rows.setdefault(name, []).append(row)
    return {name: embeddings[cast(Any, members)] for name, members in rows.items()}


def _evenly(total: int, most: int) -> Tensor:
    if total <= most:
        return torch.arange(total)
    return torch.linspace(0, total - 1, most, dtype=torch.float64).round().long()
