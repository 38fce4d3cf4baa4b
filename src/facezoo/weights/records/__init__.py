"""Published weights as data: file, layout, license and reported figures.

Each JSON file in this folder contains the records of one publisher: common fields of :class:`WeightsRecord` (``shared``), and the
``records`` with their own fields. They are read on the first look-up in :data:`WEIGHTS`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from facezoo.checks import is_real
from facezoo.preprocessing import Preprocessing
from facezoo.registry import Registry, unknown_name_message

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*", re.ASCII)
_TAG = re.compile(r"[a-z0-9][a-z0-9_\-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BEGINNING = re.compile(r"[0-9a-f]{8,63}|")

NOT_STATED = "not stated"
# Licenses that allow commercial use, as the Hub writes them.
PERMISSIVE = (
    "apache-2.0",
    "bsd-2-clause",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "isc",
    "mit",
    "unlicense",
)
# Status of a record, and its text in the documentation.
STATUS = {
    "measured": "loaded and measured here",
    "layout": "layout checked against the authors' code",
    "never": "never loaded",
}
KINDS = ("face", "imagenet", "drawn")
Status = Literal["measured", "layout", "never"]


@dataclass(frozen=True)
class ReportedFigure:
    """One figure that was published for a set of weights.

    Attributes:
        benchmark: data set, such as ``"LFW"``.
        metric: metric, such as ``"accuracy"`` or ``"TAR at FAR 1e-4"``.
        value: the value; rates are fractions of 1.
        source: where it is published: an address, an arXiv number with the table, or a file of results.
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
        tag: name of the weights, unique per model: lower-case letters, digits, ``_`` and ``-``.
        repository: ``owner/name`` on the Hub, or on GitHub if ``page`` is there.
        revision: commit, tag or branch of the repository; only a commit is fixed.
        sha256: SHA-256 of the file, 64 hexadecimal digits. None if unknown: a safetensors file is then pinned on first use, see
            :func:`facezoo.weights.fetch_weights`.
        license: identifier as the Hub writes it, such as ``"apache-2.0"`` or ``"cc-by-nc-4.0"``; ``"not stated"`` for none.
        source: who trained them, on what: an address or a paper.
        file: path of the file in the repository. facezoo downloads safetensors files only; the user downloads other files, and
            ``facezoo convert`` reads them.
        layout: library that wrote the file, see ``source`` of :func:`facezoo.load_checkpoint`.
        model_args: arguments of :func:`facezoo.create_model` that differ from its defaults.
        preprocessing: preprocessing of the images, with the alignment template.
        figures: figures reported for the weights.
        description: one line.
        training_data: data set that they were trained on.
        terms: conditions beside the license, such as ``"for non-commercial research only"``.
        kind: ``"face"``: face embeddings. ``"imagenet"``: initial weights for training. ``"drawn"``: embeddings of the faces that
            ``facezoo.synthetic`` draws, to try things out; they say nothing about photos.
        status: whether loading was tested, see :data:`STATUS`.
        page: web page of the file; empty for the repository's page on the Hub.
        sha256_begins: first digits of the SHA-256, if only these are known.
        group: publisher, for grouping in lists.
        bundled: whether the file is part of facezoo itself; nothing is downloaded.
        fingerprint: how the embeddings of the three images of ``facezoo.deploy.checking.drawn_images`` begin, where somebody has
            measured them: three rows of equally many numbers, of embeddings of unit length.

    Raises:
        ValueError: a field is empty or malformed.
    """

    model: str
    tag: str
    repository: str
    revision: str
    sha256: str | None
    license: str
    source: str
    file: str = "model.safetensors"
    layout: str = "auto"
    model_args: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing = Preprocessing()  # noqa: RUF009 (it is frozen)
    figures: tuple[ReportedFigure, ...] = ()
    description: str = ""
    training_data: str = NOT_STATED
    terms: str = ""
    kind: Literal["face", "imagenet", "drawn"] = "face"
    status: Status = "never"
    page: str = ""
    sha256_begins: str = ""
    group: str = ""
    bundled: bool = False
    fingerprint: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        where = f"weights {self.model}.{self.tag}"
        for name in ("model", "revision", "source", "file"):
            if not getattr(self, name).strip():
                raise ValueError(f"{where}: {name} is empty")
        if not _TAG.fullmatch(self.tag):
            raise ValueError(f"{where}: a tag consists of lower-case letters, digits, '_' and '-', got {self.tag!r}")
        check_repository(self.repository)
        check_license(self.license, where)
        if self.sha256 is not None and not _SHA256.fullmatch(self.sha256):
            raise ValueError(
                f"{where}: sha256 is 64 hexadecimal digits in lower case, or None if unknown, got {self.sha256!r}"
            )
        if not _BEGINNING.fullmatch(self.sha256_begins):
            raise ValueError(f"{where}: sha256_begins is 8 or more hexadecimal digits, got {self.sha256_begins!r}")
        if self.kind not in KINDS:
            raise ValueError(f"{where}: kind is one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.bundled and self.sha256 is None:
            raise ValueError(f"{where}: the file is part of facezoo, so its sha256 is known")
        if self.status not in STATUS:
            raise ValueError(f"{where}: status is one of {', '.join(STATUS)}, got {self.status!r}")
        if self.fingerprint and not _is_fingerprint(self.fingerprint):
            raise ValueError(
                f"{where}: a fingerprint is three rows of equally many numbers between -1 and 1, got "
                f"{str(self.fingerprint)[:100]}"
            )

    @property
    def name(self) -> str:
        """``MODEL.TAG``."""
        return f"{self.model}.{self.tag}"

    @property
    def alignment(self) -> str:
        """Template that the faces were aligned to."""
        return self.preprocessing.alignment

    @property
    def format(self) -> str:
        """``"safetensors"``, ``"ONNX"`` or ``"PyTorch"``, by the file's suffix."""
        return {".safetensors": "safetensors", ".onnx": "ONNX"}.get(PurePosixPath(self.file).suffix.lower(), "PyTorch")

    @property
    def downloadable(self) -> bool:
        """Whether facezoo downloads the file itself: a safetensors file on the Hub."""
        return self.format == "safetensors" and not self.page and not self.bundled

    @property
    def address(self) -> str:
        """Web page of the file."""
        return self.page or f"https://huggingface.co/{self.repository}"

    @property
    def convert_command(self) -> str:
        """The command that converts the user's download for ``create_model``; empty if no conversion is needed."""
        if self.downloadable or self.bundled:
            return ""
        return f"facezoo convert {PurePosixPath(self.file).name} --model {self.model} --pretrained {self.tag}"

    @property
    def commercial(self) -> bool:
        """Whether the license allows commercial use and ``terms`` do not forbid it."""
        return self.license in PERMISSIVE and not self.terms

    def __str__(self) -> str:
        figures = "; ".join(f"{figure.benchmark} {figure.metric} {figure.value:g}" for figure in self.figures)
        license = f"license {self.license}" + (f" ({self.terms})" if self.terms else "")
        data = "" if self.training_data == NOT_STATED else f"trained on {self.training_data}"
        parts = (self.description, data, f"{self.repository}@{self.revision}", license, figures, STATUS[self.status])
        return f"{self.name}: {', '.join(part for part in parts if part)}"


WEIGHTS: Registry[WeightsRecord] = Registry(
    "set of weights", listed_by="facezoo.weights.list_weights()", also_in=("facezoo.weights.records.own",)
)


def register_weights(record: WeightsRecord) -> WeightsRecord:
    """Register ``record``, so that ``create_model(record.model, pretrained=record.tag)`` finds it, and return it.

    Raises:
        DuplicateNameError: the model already has weights with this tag.
    """
    list_weights(record.model)  # loads facezoo's own records, so that a clash of names is an error here
    return WEIGHTS.register(record.name, record)


def list_weights(model: str | None = None, *, kind: str | None = None, commercial: bool = False) -> list[WeightsRecord]:
    """The registered records in natural order of their names.

    Args:
        model: only those of this model.
        kind: ``"face"``, ``"imagenet"`` or ``"drawn"``: only those.
        commercial: only those that allow commercial use, see :attr:`WeightsRecord.commercial`.
    """
    return [
        record
        for record in map(WEIGHTS.__getitem__, WEIGHTS)
        if (model is None or record.model == model)
        and (kind is None or record.kind == kind)
        and (record.commercial or not commercial)
    ]


def get_weights(model: str, tag: str | None = None) -> WeightsRecord:
    """The weights of ``model`` called ``tag``; without ``tag`` the model's only weights.

    Raises:
        ValueError: the model has no weights, none with this tag or, without ``tag``, several.
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


def _is_fingerprint(rows: object) -> bool:
    """Whether these are the beginnings of three embeddings of unit length."""
    if not isinstance(rows, tuple) or len(rows) != 3 or not all(isinstance(row, tuple) and row for row in rows):
        return False
    return len(set(map(len, rows))) == 1 and all(is_real(value) and abs(value) <= 1 for row in rows for value in row)


def check_repository(repository: str) -> str:
    """Return ``repository`` if it has the form ``owner/name``, else raise :class:`ValueError`."""
    if not isinstance(repository, str) or not _REPOSITORY.fullmatch(repository):
        raise ValueError(f"a repository on the Hub is 'owner/name', got {repository!r}")
    return repository


def check_license(license: str | None, where: str) -> str:
    """Return ``license`` if it is not empty, else raise :class:`ValueError`."""
    if not isinstance(license, str) or not license.strip():
        raise ValueError(
            f"{where}: the license is missing, and without one nobody may use the weights. Pass license=, an identifier as the Hub "
            "writes it: 'apache-2.0', 'mit', 'cc-by-nc-4.0', 'other', … The license of the training data may restrict it"
        )
    return license


def read_records(path: Path) -> list[WeightsRecord]:
    """Read the records of one file.

    Args:
        path: JSON with ``group``, ``shared`` (fields of all of its records) and ``records`` (fields of each). A figure is written
            ``[benchmark, metric, value]`` or ``[benchmark, metric, value, source]``; its source is else ``figures_source``.

    Raises:
        ValueError: a field is wrong, or unknown.
    """
    import json

    content = json.loads(path.read_text(encoding="utf-8"))
    return [_record(content["group"], {**content["shared"], **row}, content["shared"]) for row in content["records"]]


def _record(group: str, values: dict[str, Any], shared: Mapping[str, Any]) -> WeightsRecord:
    where = f"{group}: weights {values.get('model')}.{values.get('tag')}"
    source = values.pop("figures_source", "")
    own = values.pop("preprocessing", {})
    fingerprint = tuple(map(tuple, values.pop("fingerprint", ())))
    figures = [
        ReportedFigure(*(figure if len(figure) == 4 else [*figure, source])) for figure in values.pop("figures", ())
    ]
    try:
        return WeightsRecord(
            **{"revision": "main", "sha256": None, **values},
            preprocessing=Preprocessing.from_dict({**shared.get("preprocessing", {}), **own}),
            figures=tuple(figures),
            group=group,
            fingerprint=fingerprint,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None
