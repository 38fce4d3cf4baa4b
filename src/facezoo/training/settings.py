"""The settings of a training run, in sections. Nothing here imports torch, so ``facezoo train --help`` does not either.

Each field has a help text, a name on the command line, a range, and a flag whether a resumed run may change it.
"""

# ruff: noqa: RUF009  (option() makes a dataclass field)

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Options = Mapping[str, Any]
Check = tuple[Callable[[Any], bool], str]

AT_LEAST_0: Check = (lambda value: 0 <= value < math.inf, "0 or more")
AT_LEAST_1: Check = (lambda value: value >= 1, "at least 1")
ABOVE_0: Check = (lambda value: 0 < value < math.inf, "above 0")
FRACTION: Check = (lambda value: 0 <= value <= 1, "a fraction in [0, 1]")
BELOW_1: Check = (lambda value: 0 <= value < 1, "in [0, 1)")
FACTOR: Check = (lambda value: 0 < value <= 1, "above 0 and up to 1")


def option(
    default: Any,
    about: str,
    *,
    flat: str = "",
    check: Check | None = None,
    choices: tuple[str, ...] = (),
    resumable: bool = False,
) -> Any:
    """A field of a section.

    Args:
        default: its default; a mapping is copied for each section.
        about: help text for ``facezoo train --help``.
        flat: name on the command line, if it differs from the field's name.
        check: the allowed range; None is not checked.
        choices: the allowed words; () for any.
        resumable: whether a resumed run may have another value, because it does not change results.
    """
    metadata = {"help": about, "flat": flat, "check": check, "choices": choices, "resumable": resumable}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Section:
    """Base class of the sections. Types and ranges are checked when one is created.

    Raises:
        ValueError, TypeError: a value out of range or of the wrong type; the message gives the name on the command line.
    """

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            name = flat_name(entry)
            kind, optional = field_kind(type(self), entry.name)
            value = getattr(self, entry.name)
            if not (optional and value is None):
                value = checked_type(name, value, kind)
                require_one_of(name, value, entry.metadata["choices"])
                check = entry.metadata["check"]
                if check is not None and not check[0](value):
                    none = " or none" if optional else ""
                    raise ValueError(f"{name} must be {check[1]}{none}; got {short(value)}")
            object.__setattr__(self, entry.name, value)


@dataclass(frozen=True)
class DataSettings(Section):
    """The images and their order."""

    path: str | None = option(
        None,
        "folder of faces (HW2P2 layouts, train/ + dev/, or one folder per identity)",
        flat="data",
        resumable=True,
    )
    sampler: str = option(
        "shuffle",
        "order of the images: shuffle, or pk (batch_size / images_per_identity identities with images_per_identity images "
        "each, for losses on pairs)",
        choices=("shuffle", "pk"),
    )
    images_per_identity: int = option(4, "images of each identity in a batch (sampler pk)", check=AT_LEAST_1)
    overfit_batch: bool = option(
        False, "train on the first batch only: a test whether network, head and loss can learn at all"
    )
    drop_last: bool = option(True, "leave out the images that do not fill a batch; false: one smaller update per epoch")


@dataclass(frozen=True)
class ModelSettings(Section):
    """The network, its head and additional losses, and their initial weights."""

    name: str = option("resnet18", "backbone; `facezoo models` lists them", flat="model")
    margin: str = option("arcface", "margin-softmax head; 'linear' is plain cross-entropy")
    embedding_dim: int = option(512, "dimension of the embedding", check=AT_LEAST_1)
    img_size: int = option(112, "side of the square input, pixels", check=AT_LEAST_1)
    stem: str = option(
        "face", "stem of the backbone: face (3x3, stride 1) or imagenet (as published)", choices=("face", "imagenet")
    )
    drop_rate: float | None = option(
        None, "dropout before the embedding, probability; none: the network's own", check=BELOW_1
    )
    drop_path_rate: float = option(
        0.0, "stochastic depth: probability at the last block, grows linearly with depth", check=BELOW_1
    )
    drop_block_rate: float = option(
        0.0, "DropBlock: probability at the end of training, ramps up linearly from 0", check=BELOW_1
    )
    options: Options = option({}, "further arguments of create_model, JSON", flat="model_options")
    margin_options: Options = option({}, 'arguments of create_margin, JSON, such as {"scale": 64, "margin": 0.5}')
    joint: Options = option(
        {},
        'additional heads and metric losses with their weights, JSON, such as {"arcface": 1.5, "center": 0.003}; or with '
        'a schedule in updates, {"center": {"weight": 0.003, "warmup": 500}} (further: initial, delay, shape linear or '
        'cosine), a learning rate of their own, {"arcface": {"weight": 1, "lr_scale": 0.1}}, or a cross-batch memory, '
        '{"contrastive": {"weight": 1, "memory": 8192, "memory_delay": 1000}}',
    )
    joint_options: Options = option({}, 'their arguments, JSON, such as {"arcface": {"margin": 0.3}}')
    teacher: str | None = option(
        None,
        "teacher network for distillation: a run, a checkpoint, hf-hub:…, an ONNX file, another library's weights or a model (with "
        "teacher_options), or a file of embeddings (.npz, .parquet, .safetensors)",
    )
    teacher_options: Options = option(
        {}, 'how to open it, JSON, such as {"model": "ir_50"} for a weight file or {"pretrained": "adaface_webface4m"}'
    )
    distill: Options = option(
        {},
        'distillation losses with their weights, JSON, such as {"cosine": 10}; others: l2, logit, margin; or with '
        'options, {"cosine": {"weight": 10, "projection": true}}',
    )
    max_params: float | None = option(
        None, "refuse to train more parameters than this, including the class head, such as 30e6", check=ABOVE_0
    )
    init_checkpoint: str | None = option(
        None, "start from the weights of this checkpoint (fine-tuning); the network must match"
    )
    init_pretrained: str | None = option(
        None,
        "start from registered weights of the model, by their tag (`facezoo info MODEL` lists them); with init_checkpoint, "
        "from your download of them",
    )
    init_head: str = option(
        "none",
        "class centers at the start: none (random), checkpoint (those of init_checkpoint, by the name of the identity; new "
        "identities get their class mean), class_means (of the training embeddings)",
        choices=("none", "checkpoint", "class_means"),
    )
    freeze: tuple[str, ...] = option(
        (), "parts of the backbone that are not trained, including batch norms: stem stages.0-2 stages.3.blocks.0 head"
    )
    unfreeze: Options = option(
        {}, 'epoch, from 1, in which training of a frozen part starts, JSON, such as {"stages.0-2": 5}'
    )


@dataclass(frozen=True)
class OptimizationSettings(Section):
    """Length of the training, learning rate, optimizer and schedule."""

    epochs: int = option(25, "passes over the training images", check=AT_LEAST_1)
    batch_size: int = option(128, "images per update, over all ranks and accumulation steps together", check=AT_LEAST_1)
    accumulation: int = option(1, "forward-backward passes per update", check=AT_LEAST_1)
    optimizer: str = option(
        "sgd", "sgd, adamw, muon, any class of torch.optim by its name, or one that a plugin registers"
    )
    optimizer_options: Options = option({}, 'further arguments of the optimizer, JSON, such as {"eps": 1e-6}')
    lr: float = option(0.1, "peak learning rate", check=ABOVE_0)
    schedule: str = option(
        "cosine",
        "learning rate after the warm-up: cosine, linear, polynomial, step, multi_step, warm_restarts, plateau, one_cycle, "
        "wsd, constant, or one that a plugin registers",
    )
    schedule_options: Options = option(
        {}, 'arguments of the schedule, JSON, such as {"milestones": [12, 20, 24], "gamma": 0.1} (epochs)'
    )
    warmup_epochs: float = option(1.0, "epochs of linear warm-up; the schedule moves at every update", check=AT_LEAST_0)
    final_lr: float = option(0.0, "learning rate at the end of the schedule, fraction of lr", check=FRACTION)
    momentum: float = option(0.9, "momentum of sgd; beta1 of the Adam family", check=BELOW_1)
    nesterov: bool = option(False, "Nesterov's form of the momentum (sgd)")
    beta2: float = option(0.999, "second-moment decay (the Adam family)", check=BELOW_1)
    weight_decay: float = option(
        0.0005, "weight decay of matrices and filters; norms and biases get none", check=AT_LEAST_0
    )
    head_weight_decay: float | None = option(
        None, "weight decay of the class centers; none: as weight_decay", check=AT_LEAST_0
    )
    head_lr_scale: float = option(1.0, "learning rate of head and joint losses, factor on lr", check=ABOVE_0)
    lr_scales: Options = option(
        {}, 'learning rate of parts of the backbone, factors on lr, JSON, such as {"stem": 0.1, "stages.0-1": 0.3}'
    )
    layer_decay: float | None = option(
        None, "factor on the learning rate from each block to the one before it", check=FACTOR
    )
    sample_rate: float = option(
        1.0,
        "fraction of the identities sampled for each update (PartialFC); a value below 1 needs optimizer_in_backward",
        check=FACTOR,
    )
    optimizer_in_backward: bool = option(
        False,
        "update the class centers during the backward pass, without storing their gradient, for millions of identities",
    )
    clip_grad_norm: float | None = option(None, "largest gradient norm (L2, all parameters)", check=ABOVE_0)
    label_smoothing: float = option(0.0, "probability mass given to the other classes", check=BELOW_1)
    ema_decay: float | None = option(
        None,
        "decay per update of the moving average of the weights; the average is evaluated",
        check=(lambda value: 0 < value < 1, "in (0, 1)"),
    )
    swa_start: int | None = option(
        None,
        "epoch, from 1, from which the mean of the weights over all updates is kept and evaluated (SWA)",
        check=AT_LEAST_1,
    )
    recalibrate: int = option(
        0,
        "training batches used to recompute batch norm statistics of averaged weights before an evaluation; 0: the statistics "
        "are averaged too",
        check=AT_LEAST_0,
    )
    wccn: float | None = option(
        None,
        "within-class covariance normalization after the last epoch, for the margin linear: shrinkage of the covariance, such as "
        "0.3; images of one person come closer to each other, and the logits stay the same",
        check=(lambda value: 0 <= value <= 1, "in [0, 1]"),
    )
    wccn_between: float | None = option(
        None,
        "with wccn: weigh each direction by its variance v between identities, v / (v + this * mean v), as probabilistic LDA does; "
        "none: all alike",
        check=ABOVE_0,
    )
    wccn_offset: float | None = option(
        None,
        "with wccn_between: move the origin by this times the mean length of an embedding along the direction that tells "
        "identities apart least, such as 0.7; cosines of long embeddings, which are like many people, become smaller; none: not",
        check=ABOVE_0,
    )
    seed: int = option(0, "seed of initialization, order, augmentation and dropout", check=AT_LEAST_0)


@dataclass(frozen=True)
class AugmentationSettings(Section):
    """Augmentation of the training images."""

    recipe: str = option(
        "standard",
        "none, light, standard, strong, adaface, arcface, course, trivial, occluded, or one that a plugin registers",
        flat="augment",
    )
    options: Options = option(
        {}, 'changes to the recipe, JSON, such as {"rotation": 10, "erasing": 0.3}', flat="augment_options"
    )
    late_options: Options = option(
        {},
        "further changes for the last epochs, JSON: with little augmentation at first the network learns faster",
        flat="augment_late_options",
    )
    late_from: float = option(0.5, "share of the epochs before those", flat="augment_late_from", check=FRACTION)
    mixup_alpha: float | None = option(None, "mixup: Beta(alpha, alpha)", check=ABOVE_0)
    cutmix_alpha: float | None = option(
        None, "CutMix: Beta(alpha, alpha); with mixup: one of the two per batch", check=ABOVE_0
    )


@dataclass(frozen=True)
class MachineSettings(Section):
    """Device, precision and workers."""

    device: str = option("auto", "auto (cuda if there is one), cpu, cuda, cuda:1, ...", resumable=True)
    fully_shard: bool = option(
        False,
        "spread weights, gradients and optimizer state of the backbone over the ranks (FSDP2), where one device cannot hold them",
        resumable=True,
    )
    head_parallel: bool = option(
        False, "spread the class centers over the ranks, for millions of identities", resumable=True
    )
    amp: str = option("none", "mixed precision: none, bf16 (any device), fp16 (cuda)", choices=("none", "bf16", "fp16"))
    channels_last: bool = option(False, "NHWC memory: faster convolutions with mixed precision")
    compile: bool = option(False, "torch.compile the backbone", resumable=True)
    grad_checkpointing: bool = option(
        False, "recompute activations in the backward pass: less memory, one third more time"
    )
    num_workers: int = option(2, "processes per rank that decode and augment", check=AT_LEAST_0, resumable=True)


@dataclass(frozen=True)
class OutputSettings(Section):
    """Evaluation, logs, checkpoints."""

    folder: str = option(
        "runs/facezoo", "run folder: config.json, logs, last and best checkpoint", flat="out", resumable=True
    )
    best_metric: str = option(
        "eer",
        "metric that chooses best.safetensors: eer, accuracy, combined (0.5 accuracy + 0.5 (1 - EER)), or last",
        choices=("eer", "accuracy", "combined", "last"),
    )
    eval_every: int = option(
        1, "epochs between evaluations; the last epoch is always evaluated", check=AT_LEAST_1, resumable=True
    )
    eval_batch_size: int = option(256, "images per batch of the evaluation", check=AT_LEAST_1, resumable=True)
    eval_flip: str = option(
        "none",
        "mirror test-time augmentation of the pairs: none, sum, concat",
        choices=("none", "sum", "concat"),
        resumable=True,
    )
    log_interval: int = option(
        50, "updates between rows of steps.csv and between checks of the loss", check=AT_LEAST_1, resumable=True
    )
    checkpoint_minutes: float | None = option(
        10.0,
        "minutes between writes of last.safetensors within an epoch; none: only at its end",
        check=ABOVE_0,
        resumable=True,
    )
    checkpoint_updates: int | None = option(
        None, "updates between writes of last.safetensors; none: by time only", check=AT_LEAST_1, resumable=True
    )
    checkpoint_format: str = option(
        "single",
        "last checkpoint as one file that rank 0 writes (single), or in parts, every rank its own (sharded; torch 2.8)",
        choices=("single", "sharded"),
        resumable=True,
    )
    loggers: tuple[str, ...] = option(
        (), "loggers beside the CSV files: tensorboard, wandb, or what a plugin registers", resumable=True
    )
    progress: bool = option(True, "progress bar", resumable=True)
    stop_epoch: int | None = option(
        None, "stop, resumably, after this epoch; none: train to the end", check=AT_LEAST_1, resumable=True
    )
    stop_after: int | None = option(
        None,
        "stop, resumably, after this many updates in all; none: train to the end",
        check=AT_LEAST_1,
        resumable=True,
    )


def flat_name(entry: dataclasses.Field[Any]) -> str:
    """The name of a field on the command line."""
    return entry.metadata["flat"] or entry.name


def field_kind(section: type, name: str) -> tuple[type, bool]:
    """``str``, ``int``, ``float``, ``bool``, ``tuple`` or ``dict``, and whether None is allowed."""
    if section not in _HINTS:
        _HINTS[section] = typing.get_type_hints(section)
    hint = _HINTS[section][name]
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    (kind,) = (kind for kind in kinds if kind is not type(None))
    if kind in (str, int, float, bool):
        return kind, len(kinds) > 1
    return (tuple if typing.get_origin(kind) is tuple else dict), len(kinds) > 1


def checked_type(name: str, value: Any, kind: type) -> Any:
    """``value`` converted to the type of the field ``name``. Raises TypeError for a wrong type, ValueError for NaN and
    infinity."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is str and isinstance(value, Path):
        return str(value)
    if kind is dict and isinstance(value, Mapping):
        try:
            return json.loads(json.dumps(dict(value)))
        except TypeError as error:
            raise TypeError(f"{name} must be JSON-able: {error}") from None
    if kind is tuple and isinstance(value, (list, tuple)):
        if all(isinstance(item, str) for item in value):
            return tuple(value)
        raise TypeError(f"{name} must be a list of words; got {short(value)}")
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        wanted = {"int": "an int", "tuple": "a list of words", "dict": "a mapping"}.get(
            kind.__name__, f"a {kind.__name__}"
        )
        raise TypeError(f"{name} must be {wanted}; got {short(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be finite; got {value!r}")
    return value


def require_one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ValueError if ``choices`` is not empty and ``value`` is not one of them."""
    if choices and value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {short(value)}")


def short(value: object) -> str:
    """The value for an error message: at most 200 characters."""
    text = repr(value)
    return text if len(text) <= 200 else text[:197] + "..."


_HINTS: dict[type, dict[str, Any]] = {}
