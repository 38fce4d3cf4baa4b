"""What a protocol is: a reader of what lies on the disk, and the figures that are made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor

from facezoo.data.sources.dataset import SourceImages
from facezoo.data.sources.source import Source
from facezoo.evaluation.embedding import Embedder, Flip, default_transform, embed_images
from facezoo.registry import Registry

Embed: TypeAlias = "Callable[[Sequence[Path] | Source], Tensor]"
"""Image files, or a source of images, to ``(N, D)`` embeddings; rows of unit length unless the protocol says otherwise."""


MEASURED, NEVER_RUN = "measured here", "never run on the real set"


@dataclass(frozen=True)
class ProtocolResult:
    """What a protocol gave.

    Attributes:
        name: the protocol.
        headline: what the field reports of it, such as ``"accuracy"``.
        value: that figure, a fraction of 1; NaN where the data do not resolve it.
        error: its standard error, or None.
        text: all figures in words.
        figures: all figures, JSON-able.
    """

    name: str
    headline: str
    value: float
    error: float | None
    text: str
    figures: dict[str, Any]


@dataclass(frozen=True)
class Protocol:
    """A protocol of evaluation.

    Attributes:
        title: its usual name, the heading of its column.
        description: one line: what it measures and the paper.
        find: where its data lie in a folder of test sets; None if they do not.
        run: data and an embedding function to figures.
        normalize: whether embeddings are scaled to unit length before the protocol sees them.
        flip: the augmentation that the field evaluates it with; None where it is free.
        measured: whether this code has been run on the real set: :data:`MEASURED` or :data:`NEVER_RUN`.
    """

    title: str
    description: str
    find: Callable[[Path], Path | None]
    run: Callable[[Path, Embed], ProtocolResult]
    normalize: bool = True
    flip: Flip | None = None
    measured: str = NEVER_RUN


PROTOCOLS: Registry[Protocol] = Registry("protocol", listed_by="facezoo.evaluation.protocols.PROTOCOLS.list()")
"""Protocols by name. A third-party package adds its own with ``PROTOCOLS.register(name, protocol)``."""


_TABLE = ("lfw", "cfp_fp", "agedb_30", "calfw", "cplfw", "ijbb", "ijbc")
"""The columns of the field's usual table, in its order."""


def run_protocol(
    name: str,
    path: Path,
    model: Embedder,
    *,
    flip: Flip | None = None,
    batch_size: int | None = None,
    num_workers: int = 0,
    progress: bool = False,
) -> ProtocolResult:
    """Evaluate ``model`` by one protocol.

    Args:
        name: a name of :data:`PROTOCOLS`.
        path: what its ``find`` gave.
        model: see :func:`embed_images`.
        flip: augmentation; None: the protocol's own, or none.
        batch_size: see :func:`embed_images`.
        num_workers: see :func:`embed_images`.
        progress: see :func:`embed_images`.

    Raises:
        UnknownNameError: no such protocol.
        DataError: data that are not what the protocol describes.
    """
    protocol = PROTOCOLS[name]
    used: Flip = flip or protocol.flip or "none"

    def embed(images: Sequence[Path] | Source) -> Tensor:
        chosen: Any = list(images) if not isinstance(images, Source) else SourceImages(images, default_transform(model))
        return embed_images(
            model,
            chosen,
            flip=used,
            normalize=protocol.normalize,
            batch_size=batch_size,
            num_workers=num_workers,
            progress=progress,
        )

    return protocol.run(path, embed)


def find_protocols(folder: Path) -> dict[str, Path]:
    """The protocols whose data lie in ``folder``, with their places: those of the field's usual table first, in its order."""
    names = sorted(PROTOCOLS.list(), key=lambda name: (_TABLE.index(name) if name in _TABLE else len(_TABLE), name))
    places = {name: PROTOCOLS[name].find(folder) for name in names}
    return {name: place for name, place in places.items() if place is not None}


def suite_table(results: Sequence[ProtocolResult]) -> str:
    """The field's usual table of one network: a column per protocol, figures in per cent."""
    titles = [f"{PROTOCOLS[result.name].title}" for result in results]
    values = [
        "not resolvable"
        if result.value != result.value
        else f"{result.value * 100:.2f}" + ("" if result.error is None else f" ± {result.error * 100:.2f}")
        for result in results
    ]
    widths = [max(len(title), len(value)) for title, value in zip(titles, values, strict=True)]
    lines = (titles, values)
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in lines
    )
