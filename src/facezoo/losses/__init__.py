"""Losses on embeddings (and cross-entropy on logits): ``create_loss(name, **options)``."""

from __future__ import annotations

from facezoo.losses import miners
from facezoo.losses._pairwise import PairwiseLoss
from facezoo.losses.center import CenterLoss
from facezoo.losses.circle import CircleLoss
from facezoo.losses.contrastive import ContrastiveLoss
from facezoo.losses.cross_entropy import CrossEntropyLoss
from facezoo.losses.gathered import GatheredLoss
from facezoo.losses.joint import JointLoss
from facezoo.losses.lifted_structure import LiftedStructureLoss
from facezoo.losses.memory import CrossBatchMemory
from facezoo.losses.multi_similarity import MultiSimilarityLoss
from facezoo.losses.n_pair import NPairLoss
from facezoo.losses.norms import NormPenalty, RingLoss
from facezoo.losses.proxy import ProxyAnchorLoss, ProxyNCALoss, SoftTripleLoss
from facezoo.losses.registry import LOSSES, create_loss, list_losses, register_loss
from facezoo.losses.supcon import NTXentLoss, SupConLoss
from facezoo.losses.triplet import TripletLoss
from facezoo.losses.weights import WeightSchedule

__all__ = [
    "LOSSES",
    "CenterLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "CrossBatchMemory",
    "CrossEntropyLoss",
    "GatheredLoss",
    "JointLoss",
    "LiftedStructureLoss",
    "MultiSimilarityLoss",
    "NPairLoss",
    "NTXentLoss",
    "NormPenalty",
    "PairwiseLoss",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "RingLoss",
    "SoftTripleLoss",
    "SupConLoss",
    "TripletLoss",
    "WeightSchedule",
    "create_loss",
    "list_losses",
    "miners",
    "register_loss",
]
