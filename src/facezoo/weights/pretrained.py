"""A network as a folder or Hub repository: ``config.json``, ``model.safetensors``, ``README.md``, optionally
``margin.safetensors``.

``config.json`` contains everything to rebuild the network and to prepare its input, and the SHA-256 of the weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from facezoo.counting import without_storage
from facezoo.files import atomic_path
from facezoo.modes import unwrap
from facezoo.preprocessing import Preprocessing
from facezoo.weights.card import model_card
from facezoo.weights.config import CALIBRATION_FILE, CONFIG_FILE, MarginFile, PretrainedConfig
from facezoo.weights.errors import CheckpointError, shorten
from facezoo.weights.hub import download, upload
from facezoo.weights.io import clean_state_dict, is_torch_file, read_file, replacing_file
from facezoo.weights.records import ReportedFigure, WeightsRecord, check_license, check_repository

WEIGHTS_FILE, MARGIN_FILE, CARD_FILE = "model.safetensors", "margin.safetensors", "README.md"
HUB, LOCAL = "hf-hub:", "local-dir:"
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class PretrainedFiles:
    """Local weights with their metadata.

    Attributes:
        origin: origin of the weights, for messages.
        path: the safetensors file.
        sha256: the expected SHA-256.
        model: name of the model.
        model_args: the other arguments of :func:`facezoo.create_model`.
        preprocessing: preprocessing of the images.
        layout: library that wrote the file, see ``source`` of :func:`facezoo.load_checkpoint`.
        config: the folder's ``config.json``; None for a registered record.
        address: address of its other files: ``origin``, with the commit in place of a branch.
        expected_by: the file with the expected SHA-256, if it is neither the record nor ``config.json``.
    """

    origin: str
    path: Path
    sha256: str
    model: str
    preprocessing: Preprocessing
    model_args: Mapping[str, Any] = field(default_factory=dict)
    layout: str = "auto"
    config: PretrainedConfig | None = None
    address: str = ""
    expected_by: str = ""

    def tensors(self) -> dict[str, Tensor]:
        """The weights, after checking the SHA-256. Raises :class:`CheckpointError` if it differs."""
        return _read_checked(self.path, self.sha256, self.origin, self.expected_by)

    def margin_tensors(self) -> dict[str, Tensor] | None:
        """The state of the margin head, after checking the SHA-256; None if there is no head."""
        if self.config is None or self.config.margin is None:
            return None
        path = _locate(self.address, MARGIN_FILE)
        return _read_checked(path, self.config.margin.sha256, self.origin)


def is_pretrained_name(name: object) -> bool:
    """Whether ``name`` is ``"hf-hub:…"`` or ``"local-dir:…"``."""
    return isinstance(name, str) and name.startswith((HUB, LOCAL))


def find_pretrained(name: str) -> PretrainedFiles:
    """Find (and download if necessary) files written by :func:`save_pretrained` or :func:`push_to_hub`.

    Args:
        name: ``"hf-hub:owner/name"``, ``"hf-hub:owner/name@revision"`` or ``"local-dir:path"``.

    Raises:
        CheckpointError: the folder, repository or file does not exist, ``config.json`` cannot be read, or there is no network.
        ValueError: the name has none of these forms.
    """
    path = _locate(name, CONFIG_FILE)
    config = PretrainedConfig.read(path, name)
    address = name
    if name.startswith(HUB) and _COMMIT.fullmatch(path.parent.name):
        # The cache has one folder per commit. The other files must be of the same commit, even if somebody pushes right now.
        address = f"{name.partition('@')[0]}@{path.parent.name}"
    if config.calibration is not None and address.startswith(HUB):
        _locate(address, CALIBRATION_FILE)  # it is then beside the weights, where it is searched
    arguments = {key: value for key, value in config.model.items() if key != "name"}
    return PretrainedFiles(
        origin=name,
        path=_locate(address, WEIGHTS_FILE),
        sha256=config.sha256,
        model=config.model["name"],
        model_args=arguments,
        preprocessing=config.preprocessing,
        layout="facezoo",
        config=config,
        address=address,
    )


def save_pretrained(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    license: str | None = None,
    source: str = "",
    description: str = "",
    figures: Sequence[ReportedFigure] = (),
    classes: Sequence[str] = (),
    head: nn.Module | None = None,
    calibration: str | os.PathLike[str] | None = None,
    card: bool = True,
) -> PretrainedConfig:
    """Write ``model`` as a folder that ``create_model("local-dir:folder")`` rebuilds, with its preprocessing.

    Args:
        model: network built by :func:`facezoo.create_model`, on any device; a classifier is saved with it.
        folder: folder to write, created if missing; existing files are replaced once all new ones are complete,
            ``config.json`` last.
        license: identifier as the Hub writes it, such as ``"apache-2.0"``; needed for the card.
        source: who trained the weights, on what.
        description: one line.
        figures: figures measured with these weights, each with its source.
        classes: class names in the order of the logits.
        head: margin head whose class centers to save too.
        calibration: file of ``facezoo calibrate``, for thresholds that travel with the weights.
        card: whether to write ``README.md``, the model card, with exact parameters and multiply-accumulates.

    Returns:
        The content of ``config.json``.

    Raises:
        ValueError: no license for the card, weights that are not finite, or a model or head that cannot be rebuilt from its
            config.
        CheckpointError: a file could not be written.
    """
    return _save(
        model,
        Path(folder),
        address=f"{LOCAL}path/to/this/folder",
        license=license,
        source=source,
        description=description,
        figures=figures,
        classes=classes,
        head=head,
        calibration=calibration,
        card=card,
    )


def push_to_hub(
    model: nn.Module,
    repository: str,
    *,
    license: str,
    source: str,
    tag: str | None = None,
    description: str = "",
    figures: Sequence[ReportedFigure] = (),
    classes: Sequence[str] = (),
    head: nn.Module | None = None,
    calibration: str | os.PathLike[str] | None = None,
    private: bool = False,
    message: str | None = None,
    token: str | None = None,
) -> WeightsRecord:
    """Write ``model`` into a repository on the Hub, in one commit, so that ``create_model("hf-hub:owner/name")`` rebuilds it.

    Args:
        model: network built by :func:`facezoo.create_model`; a classifier is saved with it.
        repository: ``owner/name``; created if there is none.
        license: identifier as the Hub writes it, such as ``"apache-2.0"``.
        source: who trained the weights, on what.
        tag: tag of the record that is returned; None for the repository's name in lower case.
        description: one line.
        figures: figures measured with these weights, each with its source.
        classes: class names in the order of the logits.
        head: margin head whose class centers to save too.
        calibration: file of ``facezoo calibrate``, for thresholds that travel with the weights.
        private: whether a new repository is private.
        message: commit message; None for one that names the network.
        token: access token; None for the one that huggingface_hub knows (``HF_TOKEN``, ``hf auth login``).

    Returns the record of these weights at the new commit, ready for :func:`register_weights`.

    Raises:
        ValueError: no license or source, or see :func:`save_pretrained`; nothing is uploaded then.
        HubError: offline, not logged in, no write permission, no network, or the Hub refused the files.
    """
    check_repository(repository)
    if not source.strip():
        raise ValueError(f"{repository}: source is empty; say who trained the weights, and on what")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = _save(
            model, folder, address=f"{HUB}{repository}", license=license, source=source, description=description,
            figures=figures, classes=classes, head=head, calibration=calibration, card=True,
        )  # fmt: skip
        record = _record_of(config, repository, tag)  # errors in it appear before the upload
        files = {path.name: path for path in sorted(folder.iterdir())}
        message = message or f"Add {record.model} by facezoo"
        commit = upload(repository, files, message=message, private=private, token=token)
    return dataclasses.replace(record, revision=commit)


def _record_of(config: PretrainedConfig, repository: str, tag: str | None) -> WeightsRecord:
    """The record of the saved weights, without the commit."""
    return WeightsRecord(
        model=config.model["name"],
        tag=re.sub(r"[^a-z0-9_\-]+", "-", repository.split("/")[1].lower()) if tag is None else tag,
        repository=repository,
        revision="main",
        sha256=config.sha256,
        license=str(config.license),
        source=config.source,
        layout="facezoo",
        model_args={key: value for key, value in config.model.items() if key != "name"},
        preprocessing=config.preprocessing,
        figures=config.figures,
        description=config.description,
    )


def _described(network: Any, classes: Sequence[str]) -> tuple[dict[str, Any], Preprocessing]:
    """The arguments and the preprocessing of a network."""
    arguments, preprocessing = getattr(network, "config", None), getattr(network, "preprocessing", None)
    if not isinstance(arguments, dict) or not isinstance(preprocessing, Preprocessing):
        raise ValueError(
            f"a {type(network).__name__} has no config from which it could be rebuilt; pass a network of facezoo.create_model "
            "(of a wrapped one its .module), not a features_only one"
        )
    if classes and arguments.get("num_classes") and len(classes) != arguments["num_classes"]:
        raise ValueError(f"{len(classes)} class names for a classifier of {arguments['num_classes']} classes")
    return arguments, preprocessing


def _save(
    model: nn.Module,
    folder: Path,
    *,
    address: str,
    license: str | None,
    source: str,
    description: str,
    figures: Sequence[ReportedFigure],
    classes: Sequence[str],
    head: nn.Module | None,
    calibration: str | os.PathLike[str] | None,
    card: bool,
) -> PretrainedConfig:
    if card:
        check_license(license, address if address.startswith(HUB) else str(folder))
    network: Any = unwrap(model)
    arguments, preprocessing = _described(network, classes)
    tensors = _finite(clean_state_dict(network.state_dict()))
    _refuse_changed(network, tensors)
    margin_arguments, margin_tensors = (
        ({}, {}) if head is None else (_margin_arguments(head), _finite(head.state_dict()))
    )

    thresholds = None if calibration is None else _calibration_text(calibration)

    config = PretrainedConfig(
        model=dict(arguments),
        preprocessing=preprocessing,
        sha256="",
        license=license,
        source=source,
        description=description,
        figures=tuple(figures),
        classes=tuple(classes),
        margin=None if head is None else MarginFile(margin_arguments.pop("name"), margin_arguments, ""),
        calibration=None if thresholds is None else hashlib.sha256(thresholds.encode()).hexdigest(),
    )
    return _write_files(folder, config, network, tensors, margin_tensors, thresholds, address if card else None)


def _write_files(
    folder: Path,
    config: PretrainedConfig,
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    margin_tensors: Mapping[str, Tensor],
    thresholds: str | None,
    address: str | None,
) -> PretrainedConfig:
    """Write the files of a folder; no old one is replaced before all new ones are complete. The card needs the ``address``."""
    folder.mkdir(parents=True, exist_ok=True)
    before = sha256_of(folder / WEIGHTS_FILE) if (folder / WEIGHTS_FILE).is_file() else None
    with contextlib.ExitStack() as stack:  # left in the opposite order: config.json gets its name last
        texts = [
            CONFIG_FILE,
            *([] if address is None else [CARD_FILE]),
            *([] if thresholds is None else [CALIBRATION_FILE]),
        ]
        new = {name: stack.enter_context(_replacing(folder / name)) for name in texts}
        margin = config.margin
        if margin is not None:
            file = stack.enter_context(replacing_file(folder / MARGIN_FILE, margin_tensors, {"format": "pt"}))
            margin = dataclasses.replace(margin, sha256=sha256_of(file))
        file = stack.enter_context(replacing_file(folder / WEIGHTS_FILE, tensors, {"format": "pt"}))
        config = dataclasses.replace(config, sha256=sha256_of(file), margin=margin)
        content = {CONFIG_FILE: config.to_json(), CALIBRATION_FILE: thresholds}
        if address is not None:
            content[CARD_FILE] = model_card(config, network, address)
        for name, path in new.items():
            with _named_error(folder / name):
                path.write_bytes(str(content[name]).encode())
    if margin is None:
        (folder / MARGIN_FILE).unlink(missing_ok=True)
    if thresholds is None and before != config.sha256:
        (folder / CALIBRATION_FILE).unlink(missing_ok=True)  # left by an earlier save
    return config


def _refuse_changed(network: Any, tensors: Mapping[str, Tensor]) -> None:
    """Raise unless ``network`` can be rebuilt from its config; a fused or changed network cannot."""
    arguments = {key: value for key, value in network.config.items() if key != "name"}
    with without_storage():
        rebuilt = type(network)(network.spec, **arguments).state_dict()
    other = sorted(tensors.keys() ^ rebuilt.keys()) or [
        key for key, value in tensors.items() if value.shape != rebuilt[key].shape
    ]
    if other:
        raise ValueError(
            f"this network is not the {network.config['name']} of its record any more ({len(other)} tensors differ, first of them "
            f"{other[0]}), so it could not be loaded again. A fused network is saved with facezoo.export (.onnx, .pt2): save the "
            "network that was fused, and fuse after loading"
        )


def _margin_arguments(head: Any) -> dict[str, Any]:
    """Name and arguments of ``create_margin`` for this head."""
    try:
        count, centers = head.num_classes, head.weight.shape[0]
        arguments = {
            "name": head.name,
            "embedding_dim": head.embedding_dim,
            "num_classes": count,
            **head.options,
            "label_smoothing": head.label_smoothing,
            "warmup_steps": head.warmup_steps,
            "warmup_scale": head.warmup_scale,
            "interclass_filter": head.interclass_filter,
        }
        json.dumps(arguments)
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"a {type(head).__name__} cannot be saved beside the network ({error}); pass a head of facezoo.create_margin, or none"
        ) from None
    if centers != count:
        raise ValueError(
            f"this margin head holds {centers} of {count} classes, the part of one rank; save the whole one, which "
            "facezoo.training.load_trained makes from the checkpoint of the run"
        )
    return arguments


def _calibration_text(file: str | os.PathLike[str]) -> str:
    """The text of a calibration file. Raises ValueError for another file; the values are checked when it is used."""
    try:
        text = Path(file).read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{os.fspath(file)} is not a calibration: {shorten(error)}") from None
    if not isinstance(found, dict) or found.get("format") != "facezoo-calibration":
        raise ValueError(f"{os.fspath(file)} is not a calibration; facezoo calibrate writes one")
    return text


def _finite(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    broken = [name for name, value in tensors.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if broken:
        raise ValueError(f"not saved, since {len(broken)} tensors hold NaN or infinity, first of them {broken[0]}")
    return tensors


def _locate(name: str, file: str) -> Path:
    """The local path of one of the files of ``"hf-hub:…"`` or ``"local-dir:…"``."""
    if name.startswith(HUB):
        repository, _, revision = name.removeprefix(HUB).partition("@")
        return download(check_repository(repository), file, revision=revision or None)
    if not name.startswith(LOCAL) or name == LOCAL:
        raise ValueError(f"expected 'hf-hub:owner/name' or 'local-dir:path', got {name!r}")
    folder = Path(name.removeprefix(LOCAL)).expanduser()
    if (folder / file).is_file():
        return folder / file
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder" + ("" if folder.is_absolute() else f" (looked from {Path.cwd()})")
        )
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    advice = "facezoo.weights.save_pretrained writes such a folder"
    if file != CONFIG_FILE:
        advice = "only safetensors files are read here, no pickles: load another with facezoo.load_checkpoint, then save_pretrained"
    raise CheckpointError(f"{folder} has no {file} (it holds {found}); {advice}")


def _read_checked(path: Path, sha256: str, origin: str, expected_by: str = "") -> dict[str, Tensor]:
    with open(path, "rb") as file:
        if is_torch_file(file.read(64)):
            raise CheckpointError(
                f"{path} of {origin} is a PyTorch file under the name of a safetensors file; it is refused: nothing "
                "is unpickled"
            )
    found = sha256_of(path)
    if found != sha256:
        raise CheckpointError(
            f"{path} of {origin} is not the file that was published: its SHA-256 is {found}, expected {sha256}"
            f"{f' (by {expected_by})' if expected_by else ''}. If the "
            "download was damaged, delete the file and try again; if that does not help, somebody changed it: do not trust it"
        )
    return read_file(path)[0]


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    with _named_error(path), atomic_path(path) as temporary:
        yield temporary


@contextlib.contextmanager
def _named_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"could not write {path}: {error}") from error
