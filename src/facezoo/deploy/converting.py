"""Another library's weight file as a folder of facezoo: safetensors, preprocessing, license and source in one place."""

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
        folder: folder to write; one that has a ``config.json`` is refused.
        license: identifier as the Hub writes it, such as ``"apache-2.0"``.
        source: who trained the weights, on what.
        description: one line.
        arguments: arguments of :func:`facezoo.create_model`.
        images: fields of :class:`~facezoo.models.Preprocessing`; one number of ``mean`` or ``std`` is for all channels.

    Returns:
        What the folder's ``config.json`` says.

    Raises:
        ValueError: no source, or an argument that does not apply.
        CheckpointError: the file cannot be read or does not fit, or the folder holds a network.
    """
    if not source.strip():
        raise ValueError(f"{file}: the source is empty; say who trained the weights, and on what")
    if (Path(folder) / CONFIG_FILE).exists():
        raise CheckpointError(f"{folder} has a {CONFIG_FILE} already; name a new folder")
    if not Path(file).is_file():
        raise CheckpointError(f"{file} is no file")
    network = open_network(Path(file), model=model, arguments=arguments, images=images).model
    return save_pretrained(network, folder, license=license, source=source, description=description)


def convert_registered(file: str | os.PathLike[str], record: WeightsRecord) -> Path:
    """Convert the user's download of registered weights, so that ``create_model(model, pretrained=tag)`` finds it.

    Args:
        file: what was downloaded.
        record: the record, of a file that facezoo does not download itself.

    Returns:
        The folder that was written, below ``FACEZOO_HOME``.

    Raises:
        ValueError: the record's file is one that facezoo downloads.
        CheckpointError: the file is another one than the record's, or than the one that was converted before; it cannot be read, or
            does not fit.
    """
    if record.downloadable:
        raise ValueError(
            f"weights {record.name} need no conversion: create_model({record.model!r}, pretrained={record.tag!r}) downloads them"
        )
    if not Path(file).is_file():
        raise CheckpointError(f"{file} is no file; download {record.file} from {record.address}")
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
