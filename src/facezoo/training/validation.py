"""The evaluation after an epoch: closed-set accuracy on the development images, verification figures on the pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from facezoo.evaluation import classification_accuracy, embed_images
from facezoo.evaluation.embedding import Flip
from facezoo.evaluation.pairs import evaluate_embedded_pairs
from facezoo.training import sharding
from facezoo.training.config import TrainConfig
from facezoo.training.distributed import Distributed, to_send
from facezoo.weights.run_format import NetworkRecord

if TYPE_CHECKING:
    from facezoo.data import MixedBatch

# Higher is better for all of them.
NEEDS = {"eer": ("eer",), "accuracy": ("dev_accuracy",), "combined": ("dev_accuracy", "eer"), "last": ()}


@dataclass(frozen=True)
class Answers:
    """What a network says of one rank's share of the images.

    Attributes:
        seen: number of development images.
        correct: how many of them it names.
        loss: sum of their cross-entropies, nats.
        embeddings: of the share of the pairs' images, unit length, float32 (N, D); None if there is none.
    """

    seen: int = 0
    correct: int = 0
    loss: float = 0.0
    embeddings: Tensor | None = None


def share_of(images: int, batch_size: int, rank: int, ranks: int) -> range:
    """The images of one rank: whole batches of the evaluation in order, so that every batch is the same for any number of ranks."""
    batches = math.ceil(images / batch_size)
    first, last = batches * rank // ranks, batches * (rank + 1) // ranks
    return range(min(first * batch_size, images), min(last * batch_size, images))


def answers(
    model: nn.Module | None,
    head: nn.Module | None,
    data: Any,
    config: TrainConfig,
    device: torch.device,
    *,
    model_at: tuple[int, int] = (0, 1),
    head_at: tuple[int, int] = (0, 1),
) -> Answers:
    """What the network says of this rank's share.

    Args:
        model: images -> embeddings; None if this rank does not have it.
        head: margin head with ``logits``; None if this rank does not have it.
        data: :class:`facezoo.data.FaceData`; its ``dev`` and ``val_pairs`` may be None.
        config: the run's settings.
        device: device to compute on.
        model_at: number of this rank among those that have the model, and how many they are.
        head_at: likewise for model and head together.
    """
    batch_size = config.output.eval_batch_size
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "device": device,
        "autocast": autocast_dtype(config.machine.amp),
        "num_workers": config.machine.num_workers,
    }
    found = Answers()
    if model is not None and head is not None and data.dev is not None:
        share = share_of(len(data.dev), batch_size, *head_at)
        if share:
            own = data.dev if head_at[1] == 1 else Subset(data.dev, share)
            accuracy = classification_accuracy(model, own, head=head, **common)
            correct = round(accuracy.accuracy * len(share))
            found = Answers(len(share), correct, accuracy.loss * len(share))
    if model is not None and data.val_pairs is not None and data.val_pairs.labels is not None:
        paths = data.val_pairs.paths
        share = share_of(len(paths), batch_size, *model_at)
        if share:
            flip = cast(Flip, config.output.eval_flip)
            embeddings = embed_images(model, list(paths[share.start : share.stop]), flip=flip, **common)
            found = replace(found, embeddings=embeddings)
    return found


def figures_of(parts: Sequence[Answers], data: Any) -> dict[str, float]:
    """The figures of the answers of all ranks, in order; see :func:`validate`."""
    figures: dict[str, float] = {}
    seen = sum(part.seen for part in parts)
    if seen:
        figures["dev_accuracy"] = sum(part.correct for part in parts) / seen
        figures["dev_loss"] = sum(part.loss for part in parts) / seen
    embeddings = [part.embeddings for part in parts if part.embeddings is not None]
    if embeddings:
        metrics = evaluate_embedded_pairs(torch.cat(embeddings), data.val_pairs).metrics
        if metrics is not None:
            figures |= {
                "eer": metrics.eer,
                "auc": metrics.auc,
                "pair_accuracy": metrics.accuracy,
                "threshold": metrics.threshold,
            }
    if {"dev_accuracy", "eer"} <= figures.keys():
        figures["combined"] = selection_value("combined", figures)
    return figures


def shared_figures(
    objective: nn.Module, record: NetworkRecord, data: Any, config: TrainConfig, process: Distributed
) -> tuple[dict[str, float], Exception | None]:
    """Evaluate over all ranks; rank 0 gets the figures, or what went wrong on any of them. All ranks must call it.

    A rank does a share of what it has the whole network for: a sharded backbone is whole on rank 0 only, a sharded head too. A head
    that stores embeddings (``"vpl"``, ``"unitsface"``) has its own on every rank, and is asked on rank 0.
    """
    sharded = sharding.sharded_kinds(objective)
    model, head = sharding.whole_network(objective, record, process.device)
    alone, together = (0, 1), (process.rank, process.world_size)
    found: Answers | Exception
    try:
        own = sharded or getattr(head, "memory_kind", None) is not None
        model_at, head_at = alone if "model" in sharded else together, alone if own else together
        # Batch norms and a head's running state have seen other images on every rank in the last update.
        process.broadcast_tensors([] if "model" in sharded else model.buffers())
        process.broadcast_tensors([] if own else head.buffers())
        asked = head if head_at == together or process.is_main else None
        found = answers(model, asked, data, config, process.device, model_at=model_at, head_at=head_at)
    except Exception as error:
        found = error if process.is_main else to_send(error)
    parts = process.gather(found)
    if parts is None:
        return {}, None
    failures = [part for part in parts if isinstance(part, Exception)]
    try:
        done = [part for part in parts if isinstance(part, Answers)]
        return ({}, failures[0]) if failures else (figures_of(done, data), None)
    except Exception as error:
        return {}, error


def validate(
    model: nn.Module, head: nn.Module, data: Any, config: TrainConfig, device: torch.device
) -> dict[str, float]:
    """Evaluate on the development images and the validation pairs, if they exist, in one process.

    Args:
        model: images -> embeddings.
        head: margin head with ``logits``.
        data: :class:`facezoo.data.FaceData`; its ``dev`` and ``val_pairs`` may be None.
        config: the run's settings.
        device: device to compute on.

    Returns:
        ``dev_accuracy`` and ``dev_loss`` (cross-entropy of the margin-free logits, nats), ``eer``, ``auc``, ``pair_accuracy``,
        ``threshold``, and ``combined`` (half the accuracy, half 1 - EER), as far as there is data; fractions of 1, the threshold
        in cosine.
    """
    return figures_of([answers(model, head, data, config, device)], data)


@torch.no_grad()
def correct_and_seen(head: Any, embeddings: Tensor, labels: Tensor, mixed: MixedBatch | None) -> Tensor:
    """Correct answers (soft for a mixed batch) and images of one batch, float64 (2,)."""
    logits = head.logits(embeddings)
    if mixed is None:
        correct = (logits.argmax(dim=1) == labels).sum()
    else:
        from facezoo.data import mixed_accuracy

        correct = mixed_accuracy(logits, mixed) * len(labels)
    return torch.stack([correct.double(), correct.new_tensor(len(labels), dtype=torch.float64)])


def selection_value(metric: str, figures: dict[str, float]) -> float:
    """The figure by which the best checkpoint is chosen; higher is better. Raises ValueError if it was not measured."""
    missing = [name for name in NEEDS[metric] if name not in figures]
    if missing:
        raise ValueError(f"best_metric={metric!r} needs {' and '.join(missing)}, which this data folder cannot give")
    if metric == "eer":
        return 1.0 - figures["eer"]
    if metric == "accuracy":
        return figures["dev_accuracy"]
    if metric == "combined":
        return 0.5 * figures["dev_accuracy"] + 0.5 * (1.0 - figures["eer"])
    return math.inf  # "last": every epoch is the best so far


def known_value(metric: str, selection: float) -> float | None:
    """The figure as people know it, from :func:`selection_value`: the EER for ``eer``; None for ``last``, which has none."""
    if not math.isfinite(selection):
        return None
    return round(1.0 - selection, 15) if metric == "eer" else selection


def chosen_by(metric: str, figures: Mapping[str, float]) -> str:
    """The metric by which a network with these figures was chosen: ``metric`` if they allow it, else as :func:`possible_metric`."""
    return _possible(metric, pairs="eer" in figures, dev="dev_accuracy" in figures)


def possible_metric(metric: str, data: Any) -> str:
    """``metric`` if ``data`` allows it; else accuracy (no pairs), eer (no dev images) or last (neither)."""
    pairs = data.val_pairs is not None and data.val_pairs.labels is not None
    return _possible(metric, pairs=pairs, dev=data.dev is not None)


def _possible(metric: str, *, pairs: bool, dev: bool) -> str:
    wanted = {"eer": pairs, "accuracy": dev, "combined": dev and pairs, "last": True}
    if wanted[metric]:
        return metric
    return "eer" if pairs else "accuracy" if dev else "last"


def autocast_dtype(amp: str) -> torch.dtype | None:
    """The dtype of mixed precision for ``none``, ``bf16`` or ``fp16``."""
    return {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]
