"""The evaluation after an epoch: closed-set accuracy on the development images, verification figures on the pairs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from facezoo.evaluation import classification_accuracy, evaluate_pairs
from facezoo.evaluation.embedding import Flip
from facezoo.training.config import TrainConfig

if TYPE_CHECKING:
    from facezoo.data import MixedBatch

# Higher is better for all of them.
NEEDS = {"eer": ("eer",), "accuracy": ("dev_accuracy",), "combined": ("dev_accuracy", "eer"), "last": ()}


def validate(
    model: nn.Module, head: nn.Module, data: Any, config: TrainConfig, device: torch.device
) -> dict[str, float]:
    """Evaluate on the development images and the validation pairs, if they exist.

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
    autocast = autocast_dtype(config.machine.amp)
    batch_size, workers = config.output.eval_batch_size, config.machine.num_workers
    figures: dict[str, float] = {}
    if data.dev is not None:
        accuracy = classification_accuracy(
            model, data.dev, head=head, batch_size=batch_size, device=device, autocast=autocast, num_workers=workers
        )
        figures |= {"dev_accuracy": accuracy.accuracy, "dev_loss": accuracy.loss}
    if data.val_pairs is not None and data.val_pairs.labels is not None:
        pairs = evaluate_pairs(
            model,
            data.val_pairs,
            flip=cast(Flip, config.output.eval_flip),
            batch_size=batch_size,
            device=device,
            autocast=autocast,
            num_workers=workers,
        )
        metrics = pairs.metrics
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


def possible_metric(metric: str, data: Any) -> str:
    """``metric`` if ``data`` allows it; else accuracy (no pairs), eer (no dev images) or last (neither)."""
    pairs = data.val_pairs is not None and data.val_pairs.labels is not None
    dev = data.dev is not None
    wanted = {"eer": pairs, "accuracy": dev, "combined": dev and pairs, "last": True}
    if wanted[metric]:
        return metric
    return "eer" if pairs else "accuracy" if dev else "last"


def autocast_dtype(amp: str) -> torch.dtype | None:
    """The dtype of mixed precision for ``none``, ``bf16`` or ``fp16``."""
    return {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]
