"""Training: the settings, the reference trainer, and what it leaves behind."""

from __future__ import annotations

from facezoo.training.checkpoint import TrainedNetwork, load_trained
from facezoo.training.config import TrainConfig
from facezoo.training.ema import WeightAverage
from facezoo.training.errors import NonFiniteLossError, TrainingDataError, TrainingInterrupted
from facezoo.training.objective import Objective
from facezoo.training.optimizers import create_optimizer, parameter_groups, require_all_parameters
from facezoo.training.result import TrainResult
from facezoo.training.schedules import linear_ramp, warmup_cosine
from facezoo.training.trainer import Trainer

__all__ = [
    "NonFiniteLossError",
    "Objective",
    "TrainConfig",
    "TrainResult",
    "TrainedNetwork",
    "Trainer",
    "TrainingDataError",
    "TrainingInterrupted",
    "WeightAverage",
    "create_optimizer",
    "linear_ramp",
    "load_trained",
    "parameter_groups",
    "require_all_parameters",
    "warmup_cosine",
]
