"""``config.json`` of a network saved as a folder: its fields, and checks for changed or damaged files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facezoo._version import __version__
from facezoo.checks import is_whole
from facezoo.preprocessing import Preprocessing
from facezoo.renamed import current_fields
from facezoo.weights.errors import CheckpointError, shorten
from facezoo.weights.records import ReportedFigure

FORMAT = "facezoo"
FORMAT_VERSION = 1
CONFIG_FILE, CALIBRATION_FILE = "config.json", "calibration.json"


@dataclass(frozen=True)
class MarginFile:
    """The margin head in ``margin.safetensors``.

    Attributes:
        name: name of the margin.
        options: the other arguments of :func:`facezoo.create_margin`.
        sha256: SHA-256 of the file.
    """

    name: str
    options: Mapping[str, Any]
    sha256: str


@dataclass(frozen=True)
class PretrainedConfig:
    """The content of ``config.json``.

    Attributes:
        model: arguments of :func:`facezoo.create_model`, including ``name``.
        preprocessing: preprocessing of the images.
        sha256: SHA-256 of ``model.safetensors``.
        license: identifier as the Hub writes it; None if the folder was saved without a card.
        source: who trained the weights, on what.
        description: one line.
        figures: figures that were reported for the weights.
        classes: class names in the order of the logits; empty if not known.
        margin: the margin head, None if there is none.
        calibration: SHA-256 of ``calibration.json``; None if the folder was saved without one.
        facezoo_version: version that wrote it.
    """

    model: Mapping[str, Any]
    preprocessing: Preprocessing
    sha256: str
    license: str | None = None
    source: str = ""
    description: str = ""
    figures: tuple[ReportedFigure, ...] = ()
    classes: tuple[str, ...] = ()
    margin: MarginFile | None = None
    calibration: str | None = None
    facezoo_version: str = __version__

    def to_json(self) -> str:
        """The text of ``config.json``."""
        values = {"format": FORMAT, "format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path, origin: str) -> PretrainedConfig:
        """Read a file written by :meth:`to_json`. Raises :class:`CheckpointError`, which names ``origin``."""
        where = f"{CONFIG_FILE} of {origin}"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, MemoryError) as error:
            raise CheckpointError(f"{where} is not readable JSON: {shorten(error)}") from None
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise CheckpointError(
                f'{where} was not written by facezoo (it lacks "format": "{FORMAT}"); load its weight file with '
                "facezoo.load_checkpoint if it is of a library that facezoo reads"
            )
        version, writer = values.get("format_version"), values.get("facezoo_version", "unknown")
        if is_whole(version) and version > FORMAT_VERSION:
            raise CheckpointError(
                f"{where} was written by a newer facezoo ({shorten(writer)}, format {shorten(version)}); this is {__version__}, "
                f"which reads formats up to {FORMAT_VERSION}. Upgrade: pip install --upgrade facezoo"
            )
        try:
            return cls._of_values(current_fields(values), version)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise CheckpointError(
                f"{where} (written by facezoo {shorten(writer)}) is damaged: {shorten(reason)}"
            ) from None

    @classmethod
    def _of_values(cls, values: Mapping[str, Any], version: object) -> PretrainedConfig:
        if version != FORMAT_VERSION or isinstance(version, bool):
            raise ValueError(f"format_version is {version!r}")
        if not isinstance(values["model"]["name"], str):
            raise ValueError("the model's name is not text")
        # Unknown fields belong to other programs and are ignored.
        values = {"calibration": None, **values}  # missing in older folders
        known = {entry.name: values[entry.name] for entry in dataclasses.fields(cls)}
        known["preprocessing"] = Preprocessing.from_dict(known["preprocessing"])
        known["figures"] = tuple(ReportedFigure(**figure) for figure in known["figures"])
        known["classes"] = tuple(known["classes"])
        known["margin"] = None if known["margin"] is None else MarginFile(**known["margin"])
        for name in (
            "source",
            "description",
            "facezoo_version",
            *(("license",) if known["license"] is not None else ()),
        ):
            if not isinstance(known[name], str):
                raise ValueError(f"{name} is not text")
        if not all(isinstance(name, str) for name in known["classes"]):
            raise ValueError("classes are not text")
        digests = [
            known["sha256"],
            "" if known["margin"] is None else known["margin"].sha256,
            known["calibration"] or "",
        ]
        if not all(isinstance(digest, str) for digest in digests):
            raise ValueError("sha256 is not text")
        return cls(**known)
