"""What a training run is told: one frozen record that the command line, ``config.json`` and the checkpoints share."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facezoo.files import write_atomic
from facezoo.losses import WeightSchedule
from facezoo.registry import unknown_name_message

Options = Mapping[str, Any]


def _about(text: str, group: str, *, resumable: bool = False) -> dict[str, Any]:
    """Metadata of a field. ``resumable``: it may differ between a run and its continuation, since it changes no result."""
    return {"help": text, "group": group, "resumable": resumable}


@dataclass(frozen=True)
class TrainConfig:
    """A training run. Every field is explained by its ``help`` metadata, which ``facezoo train --help`` prints.

    Raises:
        ValueError, TypeError: a value outside its range or of another type; the message names the field.
    """

    # Where from and where to
    data: str = field(
        default="",
        metadata=_about("folder of faces (HW2P2 layouts, train/ + dev/, or one folder per identity)", "data"),
    )
    out: str = field(
        default="runs/facezoo",
        metadata=_about("run folder: config.json, logs, last and best checkpoint", "data", resumable=True),
    )

    # What is trained
    model: str = field(default="resnet18", metadata=_about("backbone; `facezoo models` lists them", "model"))
    margin: str = field(
        default="arcface", metadata=_about("margin-softmax head; 'linear' is plain cross-entropy", "model")
    )
    embedding_dim: int = field(default=512, metadata=_about("dimension of the embedding", "model"))
    img_size: int = field(default=112, metadata=_about("side of the square input, pixels", "model"))
    stem: str = field(
        default="face",
        metadata=_about("stem of the backbone: face (3x3, stride 1) or imagenet (as published)", "model"),
    )
    drop_rate: float = field(
        default=-1.0, metadata=_about("dropout before the embedding, probability; negative: the network's own", "model")
    )
    drop_path_rate: float = field(
        default=0.0,
        metadata=_about("stochastic depth: probability at the last block, grows linearly with depth", "model"),
    )
    drop_block_rate: float = field(
        default=0.0, metadata=_about("DropBlock: probability at the end of training, ramps up linearly from 0", "model")
    )
    model_options: Options = field(
        default_factory=dict, metadata=_about("further arguments of create_model, JSON", "model")
    )
    margin_options: Options = field(
        default_factory=dict,
        metadata=_about('arguments of create_margin, JSON, such as {"scale": 64, "margin": 0.5}', "model"),
    )
    joint: Options = field(
        default_factory=dict,
        metadata=_about(
            'metric losses beside the head and their weights, JSON, such as {"center": 0.003}, or with a schedule in updates, '
            '{"center": {"weight": 0.003, "warmup": 500}} (further: initial, delay, shape linear or cosine), or with a '
            'cross-batch memory, {"contrastive": {"weight": 1, "memory": 8192, "memory_delay": 1000}}',
            "model",
        ),
    )
    joint_options: Options = field(
        default_factory=dict, metadata=_about('their arguments, JSON, such as {"triplet": {"margin": 0.3}}', "model")
    )
    max_params: float = field(
        default=0.0,
        metadata=_about(
            "refuse to train more parameters than this, class head counted, such as 30e6; 0: no limit", "model"
        ),
    )
    init_checkpoint: str = field(
        default="",
        metadata=_about("start from the weights of this checkpoint (sequential fine-tuning); it must match", "model"),
    )
    init_head: str = field(
        default="none",
        metadata=_about(
            "class centers at the start: none (random), checkpoint (those of init_checkpoint), class_means (of "
            "the training embeddings)",
            "model",
        ),
    )

    # How long, and how fast
    epochs: int = field(default=25, metadata=_about("passes over the training images", "optimization"))
    batch_size: int = field(
        default=128,
        metadata=_about("images per update, over all ranks and accumulation steps together", "optimization"),
    )
    sampler: str = field(
        default="shuffle",
        metadata=_about(
            "order of the images: shuffle, or pk (batch_size / images_per_identity identities with images_per_identity "
            "images each, for losses on pairs)",
            "optimization",
        ),
    )
    images_per_identity: int = field(
        default=4, metadata=_about("images of each identity in a batch (sampler pk)", "optimization")
    )
    accumulation: int = field(default=1, metadata=_about("forward-backward passes per update", "optimization"))
    optimizer: str = field(default="sgd", metadata=_about("sgd or adamw", "optimization"))
    lr: float = field(default=0.1, metadata=_about("peak learning rate", "optimization"))
    warmup_epochs: float = field(
        default=1.0, metadata=_about("epochs of linear warm-up; the schedule moves at every update", "optimization")
    )
    final_lr: float = field(
        default=0.0, metadata=_about("learning rate at the end of the cosine, fraction of lr", "optimization")
    )
    momentum: float = field(default=0.9, metadata=_about("momentum of sgd; beta1 of adamw", "optimization"))
    nesterov: bool = field(default=False, metadata=_about("Nesterov's form of the momentum (sgd)", "optimization"))
    beta2: float = field(default=0.999, metadata=_about("second-moment decay (adamw)", "optimization"))
    weight_decay: float = field(
        default=0.0005,
        metadata=_about("weight decay of matrices and filters; norms and biases get none", "optimization"),
    )
    head_weight_decay: float = field(
        default=-1.0, metadata=_about("weight decay of the class centers; negative: as weight_decay", "optimization")
    )
    head_lr_scale: float = field(
        default=1.0, metadata=_about("learning rate of head and joint losses, factor on lr", "optimization")
    )
    sample_rate: float = field(
        default=1.0,
        metadata=_about(
            "share of the identities that an update computes with (PartialFC); below 1 with optimizer_in_backward",
            "optimization",
        ),
    )
    optimizer_in_backward: bool = field(
        default=False,
        metadata=_about(
            "step the class centers within the backward pass: their gradient is never held, for millions of identities",
            "optimization",
        ),
    )
    clip_grad_norm: float = field(
        default=0.0, metadata=_about("largest gradient norm (L2, all parameters); 0: no clipping", "optimization")
    )
    label_smoothing: float = field(
        default=0.0, metadata=_about("probability mass given to the other classes", "optimization")
    )
    ema_decay: float = field(
        default=0.0,
        metadata=_about(
            "decay per update of the moving average of the weights, which is then what is evaluated; 0: off",
            "optimization",
        ),
    )
    drop_last: bool = field(
        default=True,
        metadata=_about(
            "leave out the images that do not fill a batch; false: one smaller update per epoch", "optimization"
        ),
    )
    seed: int = field(
        default=0, metadata=_about("seed of initialization, order, augmentation and dropout", "optimization")
    )

    # Augmentation
    augment: str = field(
        default="standard",
        metadata=_about("recipe of facezoo.data.AUGMENT_RECIPES: none, light, standard, strong", "augmentation"),
    )
    augment_options: Options = field(
        default_factory=dict,
        metadata=_about('changes to the recipe, JSON, such as {"rotation": 10, "erasing": 0.3}', "augmentation"),
    )
    mixup_alpha: float = field(default=0.0, metadata=_about("mixup: Beta(alpha, alpha); 0: off", "augmentation"))
    cutmix_alpha: float = field(
        default=0.0,
        metadata=_about("CutMix: Beta(alpha, alpha); 0: off; with mixup: one of the two per batch", "augmentation"),
    )

    # Machine
    device: str = field(
        default="auto",
        metadata=_about("auto (cuda if there is one), cpu, cuda, cuda:1, ...", "machine", resumable=True),
    )
    head_parallel: bool = field(
        default=False,
        metadata=_about(
            "spread the class centers over the ranks, for millions of identities", "machine", resumable=True
        ),
    )
    amp: str = field(
        default="none", metadata=_about("mixed precision: none, bf16 (any device), fp16 (cuda)", "machine")
    )
    channels_last: bool = field(
        default=False, metadata=_about("NHWC memory: faster convolutions with mixed precision", "machine")
    )
    compile: bool = field(default=False, metadata=_about("torch.compile the backbone", "machine", resumable=True))
    grad_checkpointing: bool = field(
        default=False,
        metadata=_about("recompute activations in the backward pass: less memory, a third more time", "machine"),
    )
    num_workers: int = field(
        default=2, metadata=_about("processes per rank that decode and augment", "machine", resumable=True)
    )

    # Evaluation, logs, checkpoints
    best_metric: str = field(
        default="eer",
        metadata=_about(
            "what best.safetensors is best by: eer, accuracy, combined (0.5 accuracy + 0.5 (1 - EER)), or last",
            "output",
        ),
    )
    eval_every: int = field(
        default=1,
        metadata=_about("epochs between evaluations; the last epoch is always evaluated", "output", resumable=True),
    )
    eval_batch_size: int = field(
        default=256, metadata=_about("images per batch of the evaluation", "output", resumable=True)
    )
    eval_flip: str = field(
        default="none",
        metadata=_about("mirror test-time augmentation of the pairs: none, sum, concat", "output", resumable=True),
    )
    log_interval: int = field(
        default=50,
        metadata=_about("updates between rows of steps.csv and between looks at the loss", "output", resumable=True),
    )
    checkpoint_minutes: float = field(
        default=10.0,
        metadata=_about(
            "minutes between writes of last.safetensors within an epoch; 0: only at its end", "output", resumable=True
        ),
    )
    checkpoint_updates: int = field(
        default=0,
        metadata=_about("updates between writes of last.safetensors; 0: by time only", "output", resumable=True),
    )
    tensorboard: bool = field(
        default=False, metadata=_about("write TensorBoard events too (extra `tensorboard`)", "output", resumable=True)
    )
    progress: bool = field(default=True, metadata=_about("progress bar", "output", resumable=True))
    stop_after: int = field(
        default=0,
        metadata=_about(
            "stop, resumably, after this many updates in all; 0: train to the end", "output", resumable=True
        ),
    )

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            object.__setattr__(self, entry.name, _checked_type(entry, getattr(self, entry.name), _TYPES[entry.name]))
        self._require_choice("stem", ("face", "imagenet"))
        self._require_choice("optimizer", ("sgd", "adamw"))
        self._require_choice("sampler", ("shuffle", "pk"))
        self._require_choice("amp", ("none", "bf16", "fp16"))
        self._require_choice("best_metric", ("eer", "accuracy", "combined", "last"))
        self._require_choice("eval_flip", ("none", "sum", "concat"))
        self._require_choice("init_head", ("none", "checkpoint", "class_means"))
        for name in (
            "embedding_dim",
            "img_size",
            "epochs",
            "batch_size",
            "accumulation",
            "images_per_identity",
            "eval_every",
            "log_interval",
            "eval_batch_size",
        ):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("num_workers", "checkpoint_updates", "stop_after", "seed"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in (
            "weight_decay",
            "clip_grad_norm",
            "mixup_alpha",
            "cutmix_alpha",
            "checkpoint_minutes",
            "max_params",
            "warmup_epochs",
        ):
            self._require(name, 0 <= getattr(self, name) < math.inf, "0 or more")
        self._require("drop_rate", self.drop_rate < 1, "below 1")
        for name in ("drop_path_rate", "drop_block_rate", "label_smoothing", "momentum", "beta2", "ema_decay"):
            self._require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        self._require("lr", 0 < self.lr < math.inf, "above 0")
        self._require("head_lr_scale", 0 < self.head_lr_scale < math.inf, "above 0")
        self._require("final_lr", 0 <= self.final_lr <= 1, "a fraction in [0, 1]")
        self._require("warmup_epochs", self.warmup_epochs <= self.epochs, f"at most epochs ({self.epochs})")
        self._require(
            "batch_size", self.batch_size % self.accumulation == 0, f"a multiple of accumulation ({self.accumulation})"
        )
        group = self.accumulation * self.images_per_identity
        self._require(
            "batch_size",
            self.sampler != "pk" or self.batch_size % group == 0,
            f"a multiple of accumulation x images_per_identity ({self.accumulation} x {self.images_per_identity})",
        )
        self._require(
            "nesterov", not (self.nesterov and self.optimizer == "sgd" and self.momentum == 0), "false without momentum"
        )
        self._require("sample_rate", 0 < self.sample_rate <= 1, "above 0 and up to 1")
        if self.sample_rate < 1 and not self.optimizer_in_backward:
            raise ValueError(
                "sample_rate below 1 needs optimizer_in_backward: another optimizer's momentum and weight decay would move the "
                "centers that were not drawn"
            )
        if self.optimizer_in_backward:
            for name in ("mixup_alpha", "cutmix_alpha", "clip_grad_norm"):
                self._require(
                    name, getattr(self, name) == 0, "0 with optimizer_in_backward, which is over too early for it"
                )
            self._require("accumulation", self.accumulation == 1, "1 with optimizer_in_backward: each pass is a step")
        if self.optimizer_in_backward or self.head_parallel:
            self._require("amp", self.amp != "fp16", "bf16 or none with head_parallel or optimizer_in_backward")
        if self.init_head == "checkpoint" and not self.init_checkpoint:
            raise ValueError("init_head='checkpoint' needs init_checkpoint, the file to take the class centers from")
        for name, entry in self.joint.items():
            _check_joint_entry(name, entry)
            if (self.mixup_alpha or self.cutmix_alpha) and split_joint_entry(entry)[1]:
                raise ValueError(
                    f"joint[{name!r}]: a memory holds one label per image; turn off mixup and cutmix, or the memory"
                )
        for name in self.joint_options:
            if name not in self.joint:
                raise ValueError(f"joint_options names {name!r}, which joint does not; joint has {sorted(self.joint)}")

    def replace(self, **changes: Any) -> TrainConfig:
        """A copy with ``changes``, validated anew."""
        _refuse_unknown(changes)
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        return {entry.name: _plain(getattr(self, entry.name)) for entry in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The inverse of :meth:`to_dict`; missing fields take their default, unknown ones are an error."""
        _refuse_unknown(values)
        return cls(**values)

    def save(self, path: str | Path) -> None:
        """Write ``config.json``."""
        write_atomic(path, json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> TrainConfig:
        """Read ``config.json``. Raises ValueError naming the file if it is not one."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(
                f"{path} must hold a JSON object with the fields of TrainConfig; got {type(values).__name__}"
            )
        return cls.from_dict(values)

    def differences(self, other: TrainConfig) -> dict[str, tuple[Any, Any]]:
        """Fields that change what is learned and differ: name -> (own value, other's value)."""
        return {
            entry.name: (getattr(self, entry.name), getattr(other, entry.name))
            for entry in dataclasses.fields(self)
            if not entry.metadata["resumable"]
            and _plain(getattr(self, entry.name)) != _plain(getattr(other, entry.name))
        }

    def _require_choice(self, name: str, choices: tuple[str, ...]) -> None:
        self._require(name, getattr(self, name) in choices, "one of " + ", ".join(choices))

    def _require(self, name: str, condition: bool, expected: str) -> None:
        if not condition:
            raise ValueError(f"{name} must be {expected}; got {getattr(self, name)!r}")


def field_type(name: str) -> type:
    """``str``, ``int``, ``float``, ``bool`` or ``dict``: the type of a field of :class:`TrainConfig`."""
    return _TYPES[name]


def split_joint_entry(entry: Any) -> tuple[dict[str, Any], dict[str, int]]:
    """The value of a loss in ``TrainConfig.joint``: arguments of ``WeightSchedule``, and of ``CrossBatchMemory`` (empty: none)."""
    if not isinstance(entry, Mapping):
        return {"weight": float(entry)}, {}
    schedule = {name: value for name, value in entry.items() if name not in _MEMORY}
    memory = {"size": entry["memory"], "delay": entry.get("memory_delay", 0)} if "memory" in entry else {}
    return schedule, memory


def _check_joint_entry(name: str, entry: Any) -> None:
    if not isinstance(entry, Mapping):
        entry = {"weight": entry}
    for key in entry:
        if key not in (*_SCHEDULE, *_MEMORY):
            raise ValueError(unknown_name_message(f"entry of joint[{name!r}]", key, (*_SCHEDULE, *_MEMORY)))
    weight = entry.get("weight")
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
        raise ValueError(f"joint[{name!r}], the weight of that loss, must be a number above 0; got {weight!r}")
    if weight == 0 and not entry.get("initial"):
        raise ValueError(
            f"joint[{name!r}], the weight of that loss, must be a number above 0; leave out losses of weight 0"
        )
    size, delay = entry.get("memory", 1), entry.get("memory_delay", 0)
    if type(size) is not int or size < 1 or type(delay) is not int or delay < 0:
        raise ValueError(
            f"joint[{name!r}]: memory is a number of embeddings, memory_delay one of updates; got {size!r}, {delay!r}"
        )
    if "memory_delay" in entry and "memory" not in entry:
        raise ValueError(f"joint[{name!r}] has memory_delay but no memory")
    try:
        WeightSchedule(**split_joint_entry(entry)[0])
    except ValueError as error:
        raise ValueError(f"joint[{name!r}]: {error}") from None


def _resolve_types() -> dict[str, type]:
    hints = typing.get_type_hints(TrainConfig)
    return {name: hint if isinstance(hint, type) else dict for name, hint in hints.items()}


def _checked_type(entry: dataclasses.Field[Any], value: Any, wanted: type) -> Any:
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted is str and isinstance(value, Path):
        return str(value)
    if wanted is dict and isinstance(value, Mapping):
        try:
            return json.loads(json.dumps(dict(value)))
        except TypeError as error:
            raise TypeError(f"{entry.name} must be JSON-able: {error}") from None
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise TypeError(f"{entry.name} must be {'an' if wanted is int else 'a'} {wanted.__name__}; got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{entry.name} must be finite; got {value!r}")
    return value


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _refuse_unknown(values: Mapping[str, Any]) -> None:
    known = [entry.name for entry in dataclasses.fields(TrainConfig)]
    for name in values:
        if name not in known:
            raise ValueError(
                unknown_name_message("training option", name, known, hint="`facezoo train --help` lists all")
            )


_TYPES = _resolve_types()
_SCHEDULE = tuple(entry.name for entry in dataclasses.fields(WeightSchedule))
_MEMORY = ("memory", "memory_delay")
