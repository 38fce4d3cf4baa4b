"""Training: the settings, the reference trainer, and what it leaves behind. Names are imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from facezoo.deploy.networks import TrainedNetwork, load_trained
    from facezoo.training.callbacks import Callback, RunStart
    from facezoo.training.config import TrainConfig
    from facezoo.training.datasets import RunData, run_data
    from facezoo.training.distributed import Distributed, current_process, join_distributed
    from facezoo.training.ema import WeightAverage
    from facezoo.training.errors import NonFiniteLossError, RankLostError, TrainingDataError, TrainingInterrupted
    from facezoo.training.loggers import list_loggers, register_logger
    from facezoo.training.muon import Muon
    from facezoo.training.objective import Objective
    from facezoo.training.optimizers import (
        OptimizerOptions,
        create_optimizer,
        list_optimizers,
        parameter_groups,
        register_optimizer,
        require_all_parameters,
    )
    from facezoo.training.result import TrainResult
    from facezoo.training.schedules import At, linear_ramp, list_schedules, register_schedule, warmup_cosine
    from facezoo.training.settings import (
        AugmentationSettings,
        DataSettings,
        MachineSettings,
        ModelSettings,
        OptimizationSettings,
        OutputSettings,
    )
    from facezoo.training.trainer import Trainer

_HOMES = {
    "callbacks": ("Callback", "RunStart"),
    "config": ("TrainConfig",),
    "datasets": ("RunData", "run_data"),
    "distributed": ("Distributed", "current_process", "join_distributed"),
    "ema": ("WeightAverage",),
    "errors": ("NonFiniteLossError", "RankLostError", "TrainingDataError", "TrainingInterrupted"),
    "loggers": ("list_loggers", "register_logger"),
    "muon": ("Muon",),
    "objective": ("Objective",),
    "optimizers": (
        "OptimizerOptions",
        "create_optimizer",
        "list_optimizers",
        "parameter_groups",
        "register_optimizer",
        "require_all_parameters",
    ),
    "result": ("TrainResult",),
    "schedules": ("At", "linear_ramp", "list_schedules", "register_schedule", "warmup_cosine"),
    "settings": (
        "AugmentationSettings",
        "DataSettings",
        "MachineSettings",
        "ModelSettings",
        "OptimizationSettings",
        "OutputSettings",
    ),
    "trainer": ("Trainer",),
}
_HOME_OF = {name: f"facezoo.training.{home}" for home, names in _HOMES.items() for name in names}
_HOME_OF |= dict.fromkeys(("TrainedNetwork", "load_trained"), "facezoo.deploy.networks")  # moved to other packages

__all__ = [
    "At",
    "AugmentationSettings",
    "Callback",
    "DataSettings",
    "Distributed",
    "MachineSettings",
    "ModelSettings",
    "Muon",
    "NonFiniteLossError",
    "Objective",
    "OptimizationSettings",
    "OptimizerOptions",
    "OutputSettings",
    "RankLostError",
    "RunData",
    "RunStart",
    "TrainConfig",
    "TrainResult",
    "TrainedNetwork",
    "Trainer",
    "TrainingDataError",
    "TrainingInterrupted",
    "WeightAverage",
    "create_optimizer",
    "current_process",
    "join_distributed",
    "linear_ramp",
    "list_loggers",
    "list_optimizers",
    "list_schedules",
    "load_trained",
    "parameter_groups",
    "register_logger",
    "register_optimizer",
    "register_schedule",
    "require_all_parameters",
    "run_data",
    "warmup_cosine",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'facezoo.training' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
