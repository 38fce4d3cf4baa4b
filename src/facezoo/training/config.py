"""The settings of a training run: one frozen record, shared by command line, recipes, ``config.json`` and checkpoints."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facezoo.checks import is_real, is_whole, plain_number
from facezoo.files import write_atomic
from facezoo.registry import unknown_name_message
from facezoo.training.settings import (
    AugmentationSettings,
    DataSettings,
    MachineSettings,
    ModelSettings,
    OptimizationSettings,
    OutputSettings,
    Section,
    field_kind,
    flat_name,
    short,
)


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run, in six frozen sections.

    ::

        config = TrainConfig(model=ModelSettings(name="resnet50"), optimization=OptimizationSettings(epochs=10, lr=0.05))
        config = TrainConfig.from_options(model="resnet50", epochs=10, lr=0.05)      # the same, by the names of the command line
        config.optimization.lr                                                         # 0.05

    Every field has a help text, which ``facezoo train --help`` prints.

    Raises:
        ValueError, TypeError: a value out of range or of the wrong type, or settings that contradict each other.
    """

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    optimization: OptimizationSettings = field(default_factory=OptimizationSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    output: OutputSettings = field(default_factory=OutputSettings)

    def __post_init__(self) -> None:
        for name, kind in SECTIONS.items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(
                    f"{name} must be a {kind.__name__}; got {short(getattr(self, name))}. "
                    "TrainConfig.from_options takes settings by their names on the command line"
                )
        _check_optimization(self)
        _check_class_centers(self)
        _check_fully_shard(self)
        _check_joint(self)
        _check_distillation(self)

    @classmethod
    def from_options(cls, **options: Any) -> TrainConfig:
        """Settings by their names on the command line (``model="resnet50", lr=0.05, out="runs/a"``); all others at their default.

        Raises:
            ValueError: an unknown name, or a value that is refused.
            TypeError: a value of another type.
        """
        return cls().replace(**options)

    def replace(self, **options: Any) -> TrainConfig:
        """A copy with ``options``, by their names on the command line, validated anew."""
        changes: dict[str, dict[str, Any]] = {}
        for name, value in options.items():
            if name not in PLACES:
                raise ValueError(
                    unknown_name_message("training option", name[:200], PLACES, hint="`facezoo train --help` lists all")
                )
            section, entry = PLACES[name]
            changes.setdefault(section, {})[entry] = plain_number(value)
        sections = {name: dataclasses.replace(getattr(self, name), **own) for name, own in changes.items()}
        return dataclasses.replace(self, **sections)

    def option(self, name: str) -> object:
        """The value of the setting that the command line calls ``name``."""
        section, entry = PLACES[name]
        return getattr(getattr(self, section), entry)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """All sections, JSON-able."""
        return {
            name: {entry.name: _plain(getattr(section, entry.name)) for entry in dataclasses.fields(section)}
            for name, section in self._sections().items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The inverse of :meth:`to_dict`; missing fields take their default, unknown ones are an error.

        Flat settings, as runs before the second edition have them and as people write them by hand, are read too.
        """
        if not any(isinstance(values.get(name), Mapping) for name in SECTIONS):
            return cls.from_options(**_flat_of_today(values))
        sections: dict[str, Any] = {}
        for name, own in values.items():
            if name not in SECTIONS:
                raise ValueError(unknown_name_message("section of the settings", name[:200], SECTIONS))
            if not isinstance(own, Mapping):
                raise ValueError(f"the section {name} of the settings must be a table; got {short(own)}")
            known = [entry.name for entry in dataclasses.fields(SECTIONS[name])]
            for entry in own:
                if entry not in known:
                    raise ValueError(unknown_name_message(f"setting of the section {name}", str(entry)[:200], known))
            sections[name] = SECTIONS[name](**own)
        return cls(**sections)

    def save(self, path: str | Path) -> None:
        """Write ``config.json``."""
        write_atomic(path, json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> TrainConfig:
        """Read ``config.json``, or a TOML file. Raises ValueError naming the file if it is neither."""
        values = read_table(Path(path))
        try:
            return cls.from_dict(values)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{path}: {error}") from None

    def with_whole_paths(self) -> TrainConfig:
        """A copy with absolute input paths, so that a run can be resumed from any folder."""
        own = self.model
        paths = {"data": self.data.path, "init_checkpoint": own.init_checkpoint}
        if own.name.startswith(_LOCAL):
            paths["model"] = own.name
        teacher, named = own.teacher or "", "pretrained" in own.teacher_options
        if teacher.startswith(_LOCAL) or (os.path.exists(teacher) and not named):
            paths["teacher"] = teacher
        whole: dict[str, Any] = {name: _whole(path) for name, path in paths.items() if path}
        if isinstance(file := own.options.get("checkpoint_path"), str):
            whole["model_options"] = {**own.options, "checkpoint_path": _whole(file)}
        return self.replace(**whole)

    def differences(self, other: TrainConfig) -> dict[str, tuple[object, object]]:
        """Settings that change what is learned and differ: name on the command line -> (own value, other's value)."""
        found: dict[str, tuple[object, object]] = {}
        own, others = self.with_whole_paths(), other.with_whole_paths()
        for name, _, entry in all_options():
            mine, theirs = _plain(own.option(name)), _plain(others.option(name))
            if mine != theirs and not entry.metadata["resumable"]:
                found[name] = (mine, theirs)
        return found

    def _sections(self) -> dict[str, Section]:
        return {name: getattr(self, name) for name in SECTIONS}


SECTIONS: dict[str, type[Section]] = {
    "data": DataSettings,
    "model": ModelSettings,
    "optimization": OptimizationSettings,
    "augmentation": AugmentationSettings,
    "machine": MachineSettings,
    "output": OutputSettings,
}


def all_options() -> list[tuple[str, str, dataclasses.Field[Any]]]:
    """Every setting: name on the command line, section, field."""
    return [(flat_name(entry), name, entry) for name, kind in SECTIONS.items() for entry in dataclasses.fields(kind)]


PLACES: dict[str, tuple[str, str]] = {name: (section, entry.name) for name, section, entry in all_options()}


def option_kind(name: str) -> tuple[type, bool]:
    """``str``, ``int``, ``float``, ``bool``, ``tuple`` or ``dict``, and whether none is allowed, by name on the command line."""
    section, entry = PLACES[name]
    return field_kind(SECTIONS[section], entry)


def as_written(name: str, value: Any) -> Any:
    """A setting as people write it: ``none`` for None, words with commas for a list, 12.3 of a range for a whole number.

    What has no such name is given back, for the error that suggests one.
    """
    if name not in PLACES:
        return value
    kind, optional = option_kind(name)
    if value == "none" and (optional or kind is tuple):
        return () if kind is tuple else None
    if kind is tuple and isinstance(value, str):
        return tuple(part for part in value.split(",") if part)
    return round(value) if kind is int and isinstance(value, float) and math.isfinite(value) else value


def read_table(path: Path) -> dict[str, Any]:
    """Read a JSON object, or a TOML file if the name ends in ``.toml``. Raises ValueError, which names the file."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            return _read_toml(text)
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise ValueError(f"{path} is not {kind}: {str(error)[:200]}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object with the fields of TrainConfig; got {type(values).__name__}")
    return values


def _read_toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


# -- settings of the first edition ---------------------------------------------------------------------------------------------

# Older versions wrote -1, 0 or "" for None. One row per setting: its name, and the values that meant "none".
NONE_BEFORE: dict[str, Callable[[Any], bool]] = {
    "data": lambda value: value == "",
    "init_checkpoint": lambda value: value == "",
    "drop_rate": lambda value: value < 0,
    "head_weight_decay": lambda value: value < 0,
    **dict.fromkeys(
        (
            "max_params",
            "clip_grad_norm",
            "ema_decay",
            "mixup_alpha",
            "cutmix_alpha",
            "checkpoint_minutes",
            "checkpoint_updates",
            "stop_after",
        ),
        lambda value: value == 0,
    ),
}


def _flat_of_today(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert flat settings, also old ones, to the form that :meth:`TrainConfig.from_options` takes."""
    options = dict(values)
    if "tensorboard" in options:  # a switch in the first edition
        loggers = tuple(options.get("loggers", ()))
        options["loggers"] = (*loggers, "tensorboard") if options.pop("tensorboard") else loggers
    for name, meant_none in NONE_BEFORE.items():
        value = options.get(name)
        kind, _ = option_kind(name)
        right = isinstance(value, str) if kind is str else is_real(value)
        if right and meant_none(value):
            options[name] = None
    return options


# -- settings that have to fit each other --------------------------------------------------------------------------------------


def _require(config: TrainConfig, name: str, condition: bool, expected: str) -> None:
    if not condition:
        raise ValueError(f"{name} must be {expected}; got {short(config.option(name))}")


def _check_optimization(config: TrainConfig) -> None:
    own = config.optimization
    _require(config, "warmup_epochs", own.warmup_epochs <= own.epochs, f"at most epochs ({own.epochs})")
    _require(
        config, "batch_size", own.batch_size % own.accumulation == 0, f"a multiple of accumulation ({own.accumulation})"
    )
    group = own.accumulation * config.data.images_per_identity
    _require(
        config,
        "batch_size",
        config.data.sampler != "pk" or own.batch_size % group == 0,
        f"a multiple of accumulation x images_per_identity ({own.accumulation} x {config.data.images_per_identity})",
    )
    _require(
        config,
        "nesterov",
        not (own.nesterov and own.optimizer.lower() == "sgd" and own.momentum == 0),
        "false without momentum",
    )
    if own.swa_start is not None and own.ema_decay is not None:
        raise ValueError("swa_start and ema_decay are two averages of the weights; choose one")
    _require(
        config, "swa_start", own.swa_start is None or own.swa_start <= own.epochs, f"at most epochs ({own.epochs})"
    )
    if own.recalibrate and own.swa_start is None and own.ema_decay is None:
        raise ValueError("recalibrate is for averaged weights; set ema_decay or swa_start")
    if own.wccn is not None and (own.swa_start is not None or own.ema_decay is not None):
        raise ValueError("wccn changes the trained weights, not their average: leave out ema_decay and swa_start")
    _require(config, "wccn_between", own.wccn_between is None or own.wccn is not None, "none without wccn")
    _require(
        config,
        "wccn_offset",
        own.wccn_offset is None or own.wccn_between is not None,
        "none without wccn_between, which says what the direction is",
    )
    if config.model.init_pretrained is not None and config.model.init_head == "checkpoint":
        raise ValueError(
            "registered weights have no class centers; use init_head='class_means', or leave out init_pretrained"
        )
    for part, scale in own.lr_scales.items():
        if not is_real(scale) or scale <= 0:
            raise ValueError(f"lr_scales[{short(part)}] must be a factor above 0; got {short(scale)}")
    for part, epoch in config.model.unfreeze.items():
        if not is_whole(epoch, 2):
            raise ValueError(f"unfreeze[{short(part)}] must be an epoch from 2 on; got {short(epoch)}")
        if part not in config.model.freeze:
            raise ValueError(
                f"unfreeze names {short(part)}, which freeze does not; freeze has {short(list(config.model.freeze))}"
            )


def _check_class_centers(config: TrainConfig) -> None:
    own = config.optimization
    if own.sample_rate < 1 and not own.optimizer_in_backward:
        raise ValueError(
            "sample_rate below 1 needs optimizer_in_backward: another optimizer's momentum and weight decay would move the "
            "centers that were not drawn"
        )
    if own.optimizer_in_backward:
        for name in ("mixup_alpha", "cutmix_alpha", "clip_grad_norm"):
            _require(
                config,
                name,
                config.option(name) is None,
                "none with optimizer_in_backward, which updates the centers before the norm is known",
            )
        _require(config, "accumulation", own.accumulation == 1, "1 with optimizer_in_backward: each pass is a step")
        _require(
            config, "optimizer", own.optimizer.lower() in ("sgd", "adamw"), "sgd or adamw with optimizer_in_backward"
        )
    if own.optimizer_in_backward or config.machine.head_parallel:
        _require(
            config, "amp", config.machine.amp != "fp16", "bf16 or none with head_parallel or optimizer_in_backward"
        )
    if config.model.init_head == "checkpoint" and config.model.init_checkpoint is None:
        raise ValueError("init_head='checkpoint' needs init_checkpoint, the file to take the class centers from")


# Optimizers that step each number by itself, so that a part of a weight is stepped like the whole.
_BY_ELEMENT = ("sgd", "adam", "adamw", "nadam", "radam", "adamax", "adagrad", "adadelta", "rmsprop", "asgd", "rprop")


def _check_fully_shard(config: TrainConfig) -> None:
    own, machine = config.optimization, config.machine
    if not machine.fully_shard:
        return
    _require(config, "amp", machine.amp != "fp16", "bf16 or none with fully_shard")
    _require(
        config, "wccn", config.optimization.wccn is None, "none with fully_shard, which cuts the embedding's layer"
    )
    _require(
        config, "channels_last", not machine.channels_last, "false with fully_shard, which cuts contiguous weights"
    )
    _require(
        config, "unfreeze", not config.model.unfreeze, "empty with fully_shard, which cannot change what is trained"
    )
    _require(
        config,
        "optimizer",
        own.optimizer.lower() in _BY_ELEMENT,
        f"one that steps each number by itself with fully_shard: {', '.join(_BY_ELEMENT)}",
    )


def _check_distillation(config: TrainConfig) -> None:
    own, mixing = config.model, (config.augmentation.mixup_alpha, config.augmentation.cutmix_alpha)
    if own.teacher is None:  # a recipe may leave it open; the trainer requires it
        return
    if not own.distill:
        raise ValueError("a teacher needs distill, what is learned from it and how much, such as cosine=10")
    if any(mixing):
        raise ValueError("a teacher has seen whole images: turn off mixup and cutmix")
    if "logit" in own.distill and (config.optimization.optimizer_in_backward or config.machine.head_parallel):
        raise ValueError(
            "distill with logits needs all class centers: turn off optimizer_in_backward and head_parallel"
        )


# -- losses beside the head ----------------------------------------------------------------------------------------------------

_SCHEDULE = ("weight", "initial", "delay", "warmup", "shape")  # fields of facezoo.losses.WeightSchedule
_MEMORY = ("memory", "memory_delay")
_JOINT_KEYS = (*_SCHEDULE, *_MEMORY, "lr_scale")


@dataclass(frozen=True)
class JointEntry:
    """One loss of ``joint``.

    Attributes:
        schedule: arguments of :class:`facezoo.losses.WeightSchedule`.
        memory: arguments of :class:`facezoo.losses.CrossBatchMemory`; empty for none.
        lr_scale: factor on the learning rate of its parameters, beside ``head_lr_scale``.
    """

    schedule: dict[str, Any]
    memory: dict[str, int]
    lr_scale: float


def joint_entry(value: object) -> JointEntry:
    """The value of a loss in ``joint``: its weight, or a mapping."""
    if not isinstance(value, Mapping):
        return JointEntry({"weight": value}, {}, 1.0)
    schedule = {name: own for name, own in value.items() if name in _SCHEDULE}
    memory = {"size": value["memory"], "delay": value.get("memory_delay", 0)} if "memory" in value else {}
    return JointEntry(schedule, memory, value.get("lr_scale", 1.0))


def _check_joint(config: TrainConfig) -> None:
    for name, value in config.model.joint.items():
        _check_joint_entry(name, value)
        mixed = config.augmentation.mixup_alpha or config.augmentation.cutmix_alpha
        if mixed and joint_entry(value).memory:
            raise ValueError(
                f"joint[{short(name)}]: a memory holds one label per image; turn off mixup and cutmix, or the memory"
            )
    for name in config.model.joint_options:
        if name not in config.model.joint:
            raise ValueError(
                f"joint_options names {short(name)}, which joint does not; joint has {short(sorted(config.model.joint))}"
            )


def _check_joint_entry(name: str, value: object) -> None:
    given = value if isinstance(value, Mapping) else {"weight": value}
    for key in given:
        if key not in _JOINT_KEYS:
            raise ValueError(unknown_name_message(f"entry of joint[{short(name)}]", key, _JOINT_KEYS))
    weight = given.get("weight")
    if not is_real(weight) or weight < 0:
        raise ValueError(
            f"joint[{short(name)}], the weight of that loss, must be a number above 0; got {short(weight)}"
        )
    if weight == 0 and not given.get("initial"):
        raise ValueError(
            f"joint[{short(name)}], the weight of that loss, must be a number above 0; leave out losses of weight 0"
        )
    size, delay = given.get("memory", 1), given.get("memory_delay", 0)
    if not is_whole(size, 1) or not is_whole(delay, 0):
        raise ValueError(
            f"joint[{short(name)}]: memory is a number of embeddings, memory_delay one of updates; got {short((size, delay))}"
        )
    if "memory_delay" in given and "memory" not in given:
        raise ValueError(f"joint[{short(name)}] has memory_delay but no memory")
    scale = given.get("lr_scale", 1.0)
    if not is_real(scale) or scale <= 0:
        raise ValueError(f"joint[{short(name)}]: lr_scale must be a factor above 0; got {short(scale)}")
    from facezoo.losses import WeightSchedule  # needs torch

    try:
        WeightSchedule(**joint_entry(given).schedule)
    except ValueError as error:
        raise ValueError(f"joint[{short(name)}]: {error}") from None


_LOCAL = "local-dir:"


def _whole(path: str) -> str:
    """A path made absolute, also behind ``local-dir:``; the name of a repository stays as it is."""
    if path.startswith("hf-hub:"):
        return path
    prefix = _LOCAL if path.startswith(_LOCAL) else ""
    return prefix + os.path.abspath(path.removeprefix(prefix))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value
