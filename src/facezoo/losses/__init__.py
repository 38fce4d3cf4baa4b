"""Losses on embeddings (and cross-entropy on logits): ``create_loss(name, **options)``."""

from __future__ import annotations

from facezoo.losses.center import CenterLoss
from facezoo.losses.contrastive import ContrastiveLoss
from facezoo.losses.cross_entropy import CrossEntropyLoss
from facezoo.losses.joint import JointLoss
from facezoo.losses.registry import LOSSES, create_loss, list_losses, register_loss
from facezoo.losses.triplet import TripletLoss

__all__ = [
    "LOSSES",
    "CenterLoss",
    "ContrastiveLoss",
    "CrossEntropyLoss",
    "JointLoss",
    "TripletLoss",
    "create_loss",
    "list_losses",
    "register_loss",
]
