"""The page of published weights: one row a record."""

from __future__ import annotations

import re
from collections.abc import Iterator

from facezoo.weights import ReportedFigure, WeightsRecord, list_weights
from facezoo.weights.records import STATUS
from making.text import table


def weights_page() -> str:
    """Every record: of faces, in the package, and the starts from ImageNet."""
    faces, starts = list_weights(kind="face"), list_weights(kind="imagenet")
    counts = ", ".join(f"{sum(record.status == status for record in faces)} {text}" for status, text in STATUS.items())
    columns = ("Model, tag", "Trained on", "Published figures", "License", "Images", "How, and what is known")
    lines = [
        "---",
        "hide: [toc]",  # a wide table
        "---",
        "# Published weights",
        "",
        f"`facezoo.create_model(model, pretrained=tag)` for {len(faces)} networks for faces ({counts}), and {len(starts)} trained "
        "on ImageNet, to start a training from. [Checkpoints](checkpoints.md#weights-by-name) says how they are pinned, converted "
        "and checked. But for the one in the package none was trained by facezoo, and the figures are their publishers' unless the "
        "source says otherwise. *How*: facezoo downloads the file from the Hub, or you download it and `facezoo convert` reads it.",
        "",
        "## Faces",
        "",
        *_fitted(columns, faces),
        "",
        "No record: KP-RPE's networks of CVLface (they take landmarks too) and its aligners (they recognize nobody); LVFace (ONNX "
        "only, which runs as it is); FRBench's pickles (layout not known).",
        "",
        "## In the package",
        "",
        "Loaded without a download, to try things out: it knows the faces that `facezoo.synthetic` draws, nothing about photos.",
        "",
        *_fitted(columns, list_weights(kind="drawn")),
        "",
        "## Starts from ImageNet",
        "",
        "A star: not for commercial use, or no license stated for the weights. Those of torchvision are converted.",
        "",
        *table(("Model", "Tags of timm", "Tags of torchvision"), list(_starts(starts))),
    ]
    return "\n".join(lines) + "\n"


def _fitted(columns: tuple[str, ...], records: list[WeightsRecord]) -> Iterator[str]:
    """A table that fits the width of a large screen."""
    yield from ('<div class="fz-fit" markdown>', "")
    yield from table(columns, list(map(_face, records)))
    yield from ("", "</div>")


def _face(record: WeightsRecord) -> tuple[str, ...]:
    figures = "; ".join(f"{entry.benchmark} {entry.metric} {entry.value:.2%}" for entry in record.figures)
    sources = "; ".join(dict.fromkeys(map(_source, record.figures)))
    images = record.preprocessing
    mean, std = (", ".join(dict.fromkeys(f"{value:g}" for value in values)) for values in (images.mean, images.std))
    crop = "" if images.crop is None else f", crop {images.crop}"
    how = "part of facezoo" if record.bundled else f"[{record.format}]({record.address})"
    return (
        f"`{record.model}`<br>`{record.tag}`",
        record.training_data,
        f"{figures} ({sources})" if figures else "–",
        record.license + (f" ({record.terms})" if record.terms else ""),
        f"{images.img_size[0]}×{images.img_size[1]} {images.channel_order.upper()}, mean {mean}, std {std}{crop}",
        (how if record.downloadable or record.bundled else f"{how}: `{record.convert_command}`{{.fz-long}}")
        + f"<br>{STATUS[record.status]}",
    )


def _source(figure: ReportedFigure) -> str:
    """Where a figure is from, with a short link in place of a long address."""
    return re.sub(r"https?://(?:www\.)?([^/\s]+(?:/[^/\s,;]+){0,2})[^\s,;]*", r"[\1](\g<0>)", figure.source)


def _starts(records: list[WeightsRecord]) -> Iterator[tuple[str, ...]]:
    for model in dict.fromkeys(record.model for record in records):
        own = [record for record in records if record.model == model]
        tags = [
            ", ".join(
                f"`{record.tag}`" + ("" if record.commercial else "\\*") for record in own if record.group == group
            )
            for group in ("timm", "torchvision")
        ]
        yield (f"`{model}`", *(text or "–" for text in tags))
