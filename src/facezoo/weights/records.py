"""Published weights as data: where a file is, what is in it, who may use it, and how it was measured."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from facezoo.checks import is_real
from facezoo.preprocessing import Preprocessing
from facezoo.registry import Registry, unknown_name_message

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*", re.ASCII)
_TAG = re.compile(r"[a-z0-9][a-z0-9_\-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ReportedFigure:
    """One figure that was published for a set of weights.

    Attributes:
        benchmark: data it was measured on, such as ``"LFW"``.
        metric: what was measured, such as ``"accuracy"`` or ``"TAR at FAR 1e-4"``.
        value: the figure, a fraction of 1 where it is one.
        source: where it is printed: an address, an arXiv number with the table, a file of results.
    """

    benchmark: str
    metric: str
    value: float
    source: str

    def __post_init__(self) -> None:
        for name in ("benchmark", "metric", "source"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name).strip():
                raise ValueError(f"a reported figure needs its {name}, got {getattr(self, name)!r}")
        if not is_real(self.value):
            raise ValueError(f"a reported figure is a number, got {self.value!r}")


@dataclass(frozen=True)
class WeightsRecord:
    """One published set of weights of one model.

    Attributes:
        model: name of the model.
        tag: name of the weights among those of the model: lower-case letters, digits, ``_`` and ``-``.
        repository: ``owner/name`` on the Hub.
        revision: commit, tag or branch of the repository; a commit stays what it is.
        sha256: SHA-256 of the file, 64 hexadecimal digits.
        license: identifier as the Hub writes it, such as ``"apache-2.0"`` or ``"cc-by-nc-4.0"``.
        source: who trained them, on what: an address or a paper.
        file: path of the safetensors file in the repository.
        layout: library that wrote the file, see ``source`` of :func:`facezoo.load_checkpoint`.
        model_args: arguments of :func:`facezoo.create_model` that differ from its defaults.
        preprocessing: how an image becomes the input, with the alignment template.
        figures: figures that were reported for them.
        description: one line.

    Raises:
        ValueError: a field is empty or malformed, or the file is no safetensors file.
    """

    model: str
    tag: str
    repository: str
    revision: str
    sha256: str
    license: str
    source: str
    file: str = "model.safetensors"
    layout: str = "auto"
    model_args: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing = Preprocessing()  # noqa: RUF009 (it is frozen)
    figures: tuple[ReportedFigure, ...] = ()
    description: str = ""

    def __post_init__(self) -> None:
        where = f"weights {self.model}.{self.tag}"
        for name in ("model", "revision", "source"):
            if not getattr(self, name).strip():
                raise ValueError(f"{where}: {name} is empty")
        if not _TAG.fullmatch(self.tag):
            raise ValueError(f"{where}: a tag consists of lower-case letters, digits, '_' and '-', got {self.tag!r}")
        check_repository(self.repository)
        check_license(self.license, where)
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"{where}: sha256 is 64 hexadecimal digits in lower case, got {self.sha256!r}")
        if not self.file.endswith(".safetensors"):
            raise ValueError(
                f"{where}: {self.file} is no safetensors file. facezoo downloads no other kind: pickles can run code. "
                "Convert it: load it with facezoo.load_checkpoint, then facezoo.weights.push_to_hub"
            )

    @property
    def alignment(self) -> str:
        """Template that the faces were aligned to."""
        return self.preprocessing.alignment

    def __str__(self) -> str:
        figures = "; ".join(f"{figure.benchmark} {figure.metric} {figure.value:g}" for figure in self.figures)
        parts = (self.description, f"{self.repository}@{self.revision}", f"license {self.license}", figures)
        return f"{self.model}.{self.tag}: {', '.join(part for part in parts if part)}"


WEIGHTS: Registry[WeightsRecord] = Registry("set of weights", listed_by="facezoo.weights.list_weights()")


def register_weights(record: WeightsRecord) -> WeightsRecord:
    """Register ``record``, so that ``create_model(record.model, pretrained=record.tag)`` finds it, and return it.

    Raises:
        DuplicateNameError: the model has other weights of that tag.
    """
    return WEIGHTS.register(f"{record.model}.{record.tag}", record)


def list_weights(model: str | None = None) -> list[WeightsRecord]:
    """The registered records, of one model or of all, in natural order of their names."""
    return [record for record in map(WEIGHTS.__getitem__, WEIGHTS) if model is None or record.model == model]


def get_weights(model: str, tag: str | None = None) -> WeightsRecord:
    """The weights of ``model`` called ``tag``; without ``tag`` the only ones.

    Raises:
        ValueError: the model has no weights, none of that tag, or, without ``tag``, several.
    """
    tags = {record.tag: record for record in list_weights(model)}
    if not tags:
        raise ValueError(
            f"there are no published weights for {model!r} (facezoo.weights.list_weights() lists all); load a file with "
            'checkpoint_path=, a repository with create_model("hf-hub:owner/name"), or train with `facezoo train`'
        )
    if tag is None:
        if len(tags) > 1:
            raise ValueError(f"{model} has several sets of weights; choose with pretrained= one of {', '.join(tags)}")
        return next(iter(tags.values()))
    if tag not in tags:
        raise ValueError(unknown_name_message(f"weights of {model}", tag, tags))
    return tags[tag]


def check_repository(repository: str) -> str:
    """``repository`` itself if it reads ``owner/name``, else a :class:`ValueError`."""
    if not isinstance(repository, str) or not _REPOSITORY.fullmatch(repository):
        raise ValueError(f"a repository on the Hub is 'owner/name', got {repository!r}")
    return repository


def check_license(license: str | None, where: str) -> str:
    """``license`` itself if there is one, else a :class:`ValueError` that says what is wanted."""
    if not isinstance(license, str) or not license.strip():
        raise ValueError(
            f"{where}: the license is missing, and without one nobody may use the weights. Pass license=, an identifier as the Hub "
            "writes it: 'apache-2.0', 'mit', 'cc-by-nc-4.0', 'other', … The training data may have a say in it"
        )
    return license
