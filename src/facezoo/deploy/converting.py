"""Convert another library's weight file to a facezoo folder: safetensors, preprocessing, license and source in one place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from facezoo.deploy.networks import open_network
from facezoo.models import create_model
from facezoo.weights import (
    CheckpointError,
    PretrainedConfig,
    WeightsRecord,
    load_checkpoint,
    save_pretrained,
    sha256_of,
)
from facezoo.weights.config import CONFIG_FILE
from facezoo.weights.pins import Pin, require_same, weights_folder, write_pin

__all__ = ["convert", "convert_registered"]


def convert(
    file: str | os.PathLike[str],
    model: str,
    folder: str | os.PathLike[str],
    *,
    license: str,
    source: str,
    description: str = "",
    arguments: Mapping[str, object] | None = None,
    images: Mapping[str, object] | None = None,
) -> PretrainedConfig:
    """Write a weight file of another library as a folder that ``create_model("local-dir:folder")`` rebuilds.

    Args:
        file: safetensors, PyTorch or ONNX file, see :func:`facezoo.load_checkpoint`.
        model: name of the network that it belongs to.
        folder: folder to write; it must not contain a ``config.json``.
        license: identifier as the Hub writes it, such as ``"apache-2.0"``.
        source: who trained the weights, on what.
        description: one line.
        arguments: arguments of :func:`facezoo.create_model`.
        images: fields of :class:`~facezoo.models.Preprocessing`; one number of ``mean`` or ``std`` is for all channels.

    Returns:
        The content of the folder's ``config.json``.

    Raises:
        ValueError: ``source`` is empty, or an argument does not apply.
        CheckpointError: the file cannot be read or does not match, or the folder contains a network.
    """
    if not source.strip():
        raise ValueError(f"{file}: the source is empty; say who trained the weights, and on what")
    if (Path(folder) / CONFIG_FILE).exists():
        raise CheckpointError(f"{folder} has a {CONFIG_FILE} already; name a new folder")
    if not Path(file).is_file():
        raise CheckpointError(f"{file} is not a file")
    network = open_network(Path(file), model=model, arguments=arguments, images=images).model
    return save_pretrained(network, folder, license=license, source=source, description=description)


def convert_registered(file: str | os.PathLike[str], record: WeightsRecord) -> Path:
    """Convert registered weights that the user has downloaded, so that ``create_model(model, pretrained=tag)`` finds them.

    Args:
        file: the downloaded file.
        record: record of weights that facezoo does not download itself.

    Returns:
        The folder that was written, below ``FACEZOO_HOME``.

    Raises:
        ValueError: facezoo has or downloads the file of this record itself.
        CheckpointError: the file is not the record's file or not the one converted before, cannot be read, or does not match.
    """
    if not record.convert_command:
        does = "has" if record.bundled else "downloads"
        raise ValueError(
            f"weights {record.name} need no conversion: create_model({record.model!r}, pretrained={record.tag!r}) {does} them"
        )
    if not Path(file).is_file():
        raise CheckpointError(f"{file} is not a file; download {record.file} from {record.address}")
    found = sha256_of(file)
    require_same(record, found, str(file))
    size = {"img_size": record.preprocessing.img_size, "in_chans": len(record.preprocessing.mean)}
    network = create_model(record.model, **{**size, **record.model_args})
    load_checkpoint(network, file, source=record.layout)
    network.preprocessing = record.preprocessing
    folder = weights_folder(record)
    save_pretrained(
        network,
        folder,
        license=record.license,
        source=record.source,
        description=record.description,
        figures=record.figures,
    )
    write_pin(record, Pin(record.repository, record.file, record.revision, found))
    return folder
