"""The report of a run: one HTML file."""

from __future__ import annotations

import io
import json
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from facezoo._version import __version__
from facezoo.evaluation import classification_accuracy, embed_images, evaluate_pairs, read_training_log
from facezoo.evaluation.classification import classify_images
from facezoo.evaluation.det import det_with_intervals
from facezoo.evaluation.embedding import Flip
from facezoo.evaluation.page import Heading, Pictures, Sheet, Table, Text
from facezoo.evaluation.plots import (
    plot_bars,
    plot_det_bands,
    plot_points,
    plot_roc,
    plot_score_histogram,
    plot_series,
    require_matplotlib,
)
from facezoo.evaluation.scores import needed_for
from facezoo.files import write_atomic
from facezoo.training import parts
from facezoo.training.config import TrainConfig
from facezoo.training.datasets import RunData, labels_of
from facezoo.training.distributed import Distributed
from facezoo.training.loading import TrainingBatches
from facezoo.training.validation import chosen_by

if TYPE_CHECKING:
    from PIL.Image import Image

    from facezoo.deploy.networks import TrainedNetwork

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
_SHOWN = 8  # number of pairs and identities shown as pictures
_PHOTO = 112
_CURVES = {
    "loss": ("train_loss", "dev_loss"),
    "accuracy": ("train_accuracy", "dev_accuracy"),
    "EER": ("eer",),
    "combined score": ("combined",),
    "learning rate": ("lr",),
}


def write_run_report(
    run: str | Path, *, data: str | Path | None = None, out: str | Path | None = None, device: str = "auto"
) -> Path:
    """Write ``report.html`` of a run.

    Curves, the first augmented images, ROC and DET, histograms of the scores, thresholds by FAR, the hardest pairs and the most
    confused identities as pictures, accuracy by identity, a map of embeddings, recipe, budget and environment. The network is the
    best one of the run. The report contains photos from the data: do not publish it if you may not publish the data.

    Args:
        run: the run folder.
        data: path of the data; None for the path in the run's settings.
        out: the file; None: ``report.html`` in the run folder.
        device: device of the evaluation.

    Returns:
        The file.

    Raises:
        CheckpointError, FileNotFoundError, ValueError: ``run`` is not a run with an evaluated epoch.
        PlotUnavailableError: matplotlib is not installed.
    """
    from facezoo.deploy.networks import load_trained
    from facezoo.devices import resolve_device

    require_matplotlib()
    folder = Path(run)
    if not (folder / "config.json").exists():
        several = sorted(path.parent.name for path in folder.glob("seed*/config.json"))
        more = f"; it has the runs {', '.join(several)}: name one of them, or use facezoo compare" if several else ""
        raise ValueError(f"{folder} is no run folder: it has no config.json{more}")
    config = TrainConfig.load(folder / "config.json")
    if data is not None:
        config = config.replace(data=str(data))
    config = config.replace(num_workers=0, progress=False)
    network = load_trained(folder, resolve_device(device))
    sheet = Sheet()
    sheet.blocks.append(Heading(1, f"{folder.resolve().name}: {config.model.name} with {config.model.margin}"))
    log = read_training_log(folder / "epochs.csv")
    _facts(sheet, config, network, log)
    sheet.blocks.append(Heading(2, "Training"))
    for title, names in _CURVES.items():
        curves = {name: found for name in names if (found := series(log, name))[0]}
        if curves:
            sheet.plot(f"curve {title}", plot_series({title: curves}, xlabel="epoch"), "")
    sheet.blocks.append(Text("Figures after each epoch."))
    try:
        faces = parts.build_data(config, network.preprocessing)
    except (OSError, ValueError) as error:
        sheet.blocks.append(Text(f"The data is not there, so there is nothing more to show: {str(error)[:300]}"))
    else:
        _augmented(sheet, config, faces, network)
        if faces.val_pairs is not None:
            _verification(sheet, config, faces, network)
        if faces.dev is not None and network.head is not None:
            _identities(sheet, config, faces, network)
    _settings(sheet, folder, config)
    path = folder / "report.html" if out is None else Path(out)
    write_atomic(path, sheet.html(f"facezoo: {folder.resolve().name}"))
    return path


def _photo(sheet: Sheet, key: str, image: Image) -> str:
    """Store a small copy of a photo for the page; returns its key."""
    buffer = io.BytesIO()
    image = image.convert("RGB")
    image.thumbnail((_PHOTO, _PHOTO))
    image.save(buffer, format="JPEG", quality=85)
    sheet.images[key] = buffer.getvalue()
    return key


def _facts(sheet: Sheet, config: TrainConfig, network: TrainedNetwork, log: Mapping[str, list[float]]) -> None:
    """Table of the network, the cost of its training and its figures."""
    own = config.optimization
    count = sum(p.numel() for p in network.model.parameters())
    head = sum(p.numel() for p in network.head.parameters()) if network.head is not None else 0
    seconds = {
        name: sum(v for v in log.get(name, ()) if math.isfinite(v)) for name in ("train_seconds", "eval_seconds")
    }
    budget = f"{config.model.max_params:,.0f} allowed" if config.model.max_params else "no limit set"
    rows = [
        ("parameters", f"{count + head:,} (network {count:,}, head {head:,}; {budget})"),
        ("data", str(config.data.path)),
        ("identities", f"{len(network.classes):,}"),
        ("epochs", f"{len(log.get('epoch', ()))} of {own.epochs}, batches of {own.batch_size}"),
        (
            "time",
            f"{seconds['train_seconds'] / 60:.1f} min of training, {seconds['eval_seconds'] / 60:.1f} min of evaluation",
        ),
        ("network shown", f"{network.path.name}, best by {chosen_by(config.output.best_metric, network.metrics)}"),
    ]
    names = {"eer": "EER", "dev_accuracy": "dev accuracy", "combined": "combined score", "dev_loss": "dev loss"}
    rows += [
        (name, f"{network.metrics[key]:.4g}" if key == "dev_loss" else f"{network.metrics[key]:.2%}")
        for key, name in names.items()
        if key in network.metrics
    ]
    sheet.blocks.append(Table(("", ""), tuple(rows)))


def _augmented(sheet: Sheet, config: TrainConfig, data: RunData, network: TrainedNetwork) -> None:
    """The first training images after augmentation."""
    from PIL import Image

    batches = TrainingBatches(data.train, config, Distributed(0, 1, torch.device("cpu")))
    images, labels = next(batches.updates(0, 0))[0][:2]
    batches.close()
    own = network.preprocessing
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (own.mean, own.std))
    groups = []
    for index, (image, label) in enumerate(zip(images[:24], labels[:24].tolist(), strict=True)):
        pixels = ((image * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        pixels = pixels.flip(0) if own.channel_order == "bgr" else pixels
        photo = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        groups.append((_short(data.classes[label]), (_photo(sheet, f"augmented{index}", photo),)))
    sheet.blocks.append(Heading(2, "First batch, as the network sees it"))
    changes = config.augmentation.late_options
    late = f" Later also {', '.join(f'{name} {value}' for name, value in changes.items())}." if changes else ""
    sheet.blocks.append(Pictures(f"Augmentation: {config.augmentation.recipe}.{late}", tuple(groups)))


def _verification(sheet: Sheet, config: TrainConfig, data: RunData, network: TrainedNetwork) -> None:
    pairs = data.val_pairs
    result = evaluate_pairs(
        network.model,
        pairs,
        flip=cast(Flip, config.output.eval_flip),
        batch_size=config.output.eval_batch_size,
        fars=FARS,
    )
    metrics = result.metrics
    if metrics is None or result.labels is None:
        return
    sheet.blocks += [
        Heading(2, "Verification"),
        Text(f"{metrics.num_genuine:,} genuine and {metrics.num_impostor:,} impostor pairs; mirrored: {result.flip}."),
        Table(("figure", "value", "95 % interval"), tuple(metrics.rows())),
    ]
    curves = {"validation pairs": (result.scores, result.labels)}
    sheet.plot("roc", plot_roc(curves, title=""), "ROC. The circle is the point of equal errors.")
    bands = {name: det_with_intervals(*scored) for name, scored in curves.items()}
    sheet.plot(
        "det",
        plot_det_bands(bands, title=""),
        "DET; the band is the 95 % interval at each false accept rate, over pairs.",
    )
    histogram = plot_score_histogram(result.scores, result.labels, threshold=metrics.threshold, title="")
    sheet.plot("scores", histogram, "Scores. The dashed line is the threshold of the best accuracy.")
    rows = [
        (f"{far:g}", repr(metrics.threshold_at_far[far]), f"{tar:.2%}")
        if math.isfinite(tar)
        else (f"{far:g}", f"needs {needed_for(far):,} impostor pairs", "")
        for far, tar in metrics.tar_at_far.items()
    ]
    sheet.blocks += [Heading(3, "Thresholds"), Table(("FAR at most", "accept when cosine >=", "TAR"), tuple(rows))]
    _hardest(sheet, pairs, result.scores, result.labels)


def _hardest(sheet: Sheet, pairs: Any, scores: Tensor, labels: Tensor) -> None:
    """The impostor pairs with the highest and the genuine pairs with the lowest scores."""
    from PIL import Image

    sheet.blocks.append(Heading(3, "Hardest pairs"))
    for name, wanted, order in (
        ("Two people, and much alike:", ~labels, scores.argsort(descending=True)),
        ("One person, and hardly alike:", labels, scores.argsort()),
    ):
        chosen = [int(index) for index in order if bool(wanted[index])][:_SHOWN]
        groups = []
        for index in chosen:
            keys = []
            for side in (pairs.left, pairs.right):
                path = pairs.paths[int(side[index])]
                with Image.open(path) as image:
                    keys.append(_photo(sheet, f"pair {path}", image))
            groups.append((f"cosine {float(scores[index]):.3f}", tuple(keys)))
        sheet.blocks.append(Pictures(name, tuple(groups)))


def _identities(sheet: Sheet, config: TrainConfig, data: RunData, network: TrainedNetwork) -> None:
    size = config.output.eval_batch_size
    accuracy = classification_accuracy(network.model, data.dev, head=network.head, batch_size=size)
    found = classify_images(network.model, data.dev, head=network.head, batch_size=size)
    labels = labels_of(data.dev)
    right = (found == labels).double()
    counts = torch.bincount(labels, minlength=len(data.classes)).double()
    shares = torch.bincount(labels, weights=right, minlength=len(data.classes)) / counts.clamp(min=1)
    there = counts.nonzero()[:, 0]
    sheet.blocks += [
        Heading(2, "Identities"),
        Text(f"Closed-set accuracy {accuracy}. Top five: {accuracy.top5:.2%}. Cross-entropy {accuracy.loss:.4f}."),
    ]
    figure = plot_bars(shares[there].numpy(), xlabel="accuracy of an identity", ylabel="identities")
    sheet.plot("by_identity", figure, "How many identities have which accuracy on the development images.")
    worst = there[shares[there].argsort(stable=True)][:15].tolist()
    rows = [
        (data.classes[i], f"{shares[i]:.0%}", f"{int(counts[i])}", _taken_for(data, found, labels, i)) for i in worst
    ]
    sheet.blocks += [
        Heading(3, "Worst identities"),
        Table(("identity", "accuracy", "images", "taken for"), tuple(rows)),
    ]
    _confused(sheet, data, found, labels)
    _map(sheet, config, data, network, labels)


def _taken_for(data: RunData, found: Tensor, labels: Tensor, identity: int) -> str:
    wrong = found[(labels == identity) & (found != identity)]
    names, counts = wrong.unique(return_counts=True)
    most = counts.argsort(descending=True, stable=True)[:3]
    return ", ".join(f"{data.classes[int(names[k])]} ({int(counts[k])})" for k in most)


def _confused(sheet: Sheet, data: RunData, found: Tensor, labels: Tensor) -> None:
    """Pairs of identities that are confused with each other, with a training image of each."""
    wrong = found != labels
    both = torch.stack([torch.minimum(found, labels), torch.maximum(found, labels)], dim=1)[wrong]
    if not len(both):
        return
    names, counts = both.unique(dim=0, return_counts=True)
    groups = []
    for index in counts.argsort(descending=True, stable=True)[:_SHOWN].tolist():
        pair = names[index].tolist()
        keys = tuple(
            _photo(sheet, f"identity{i}", _picture(data.train, int((data.labels == i).nonzero()[0]))) for i in pair
        )
        groups.append(
            (f"{_short(data.classes[pair[0]])} and {_short(data.classes[pair[1]])}: {int(counts[index])} times", keys)
        )
    sheet.blocks += [
        Heading(3, "Most confused identities"),
        Pictures("How often the two were confused, with a training image of each.", tuple(groups)),
    ]


def _map(sheet: Sheet, config: TrainConfig, data: RunData, network: TrainedNetwork, labels: Tensor) -> None:
    """Embeddings of some identities, projected to the plane of largest variance between their means."""
    counts = torch.bincount(labels)
    chosen = counts.argsort(descending=True, stable=True)[:10].sort().values
    chosen = chosen[counts[chosen] > 0]
    if len(chosen) < 3:
        return
    rows = torch.isin(labels, chosen).nonzero()[:, 0]
    embeddings = embed_images(
        network.model, torch.utils.data.Subset(data.dev, rows.tolist()), batch_size=config.output.eval_batch_size
    )
    own = labels[rows]
    means = torch.stack([embeddings[own == identity].mean(0) for identity in chosen])
    center = means.mean(0)
    plane = torch.linalg.svd(means - center, full_matrices=False).Vh[:2]
    points = (embeddings - center) @ plane.T
    groups = {_short(data.classes[int(identity)]): points[own == identity].numpy() for identity in chosen}
    caption = "Development images of ten identities, projected to the plane of largest variance between their means."
    sheet.plot("map", plot_points(groups), caption)


def _settings(sheet: Sheet, folder: Path, config: TrainConfig) -> None:
    sheet.blocks.append(Heading(2, "Settings"))
    recipe = folder / "recipe.json"
    if recipe.exists():
        values = json.loads(recipe.read_text(encoding="utf-8"))
        sheet.blocks.append(Text(f"Recipe {values['name']}: {values['about']} Source: {values['source']}"))
    defaults, rows = TrainConfig().to_dict(), []
    for section, own in config.to_dict().items():
        for name, value in own.items():
            if value != defaults[section][name] and name not in ("num_workers", "progress"):
                rows.append((f"{section}.{name}", json.dumps(value, ensure_ascii=False)))
    sheet.blocks.append(Table(("setting that is not the default", "value"), tuple(rows)))
    versions = f"facezoo {__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    sheet.blocks.append(Text(f"This report: {versions}, {platform.machine()}, {torch.get_num_threads()} threads."))


def _picture(dataset: Any, index: int) -> Image:
    """An image of a data set without its transform."""
    from PIL import Image

    raw = dataset.subset([index])[0][0]
    return Image.fromarray(raw) if isinstance(raw, np.ndarray) else raw


def _short(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"


def series(log: Mapping[str, Sequence[float]], name: str) -> tuple[list[float], list[float]]:
    """Epochs and values of one column of ``epochs.csv``, without empty cells."""
    found = [
        (epoch, value) for epoch, value in zip(log["epoch"], log.get(name, ()), strict=False) if math.isfinite(value)
    ]
    return [epoch for epoch, _ in found], [value for _, value in found]
