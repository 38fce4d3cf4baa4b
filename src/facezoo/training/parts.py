"""The parts of a run, built from its settings: data, network, head, additional losses, optimizer."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from facezoo.margins import BackwardAdamW, BackwardSGD, create_margin, list_margins
from facezoo.models import NetworkOptions, Preprocessing, create_model
from facezoo.registry import unknown_name_message
from facezoo.training.config import TrainConfig, joint_entry
from facezoo.training.datasets import RunData, run_data
from facezoo.training.distributed import Distributed
from facezoo.training.ema import WeightAverage
from facezoo.training.freezing import find_part
from facezoo.training.objective import Objective
from facezoo.training.optimizers import (
    OptimizerOptions,
    create_optimizer,
    parameter_groups,
    require_all_parameters,
    scale_learning_rates,
)
from facezoo.training.settings import AugmentationSettings, MachineSettings
from facezoo.training.sharding import count_parameters, fully_shard_backbone
from facezoo.training.wccn import require_foldable
from facezoo.weights import get_weights

if TYPE_CHECKING:
    from facezoo.data import MixedBatch
    from facezoo.training.teacher import Teacher


def build_data(config: TrainConfig, preprocessing: Preprocessing) -> RunData:
    """Open the data folder with the training and evaluation transforms of ``preprocessing``."""
    from facezoo.data import augment_recipe, eval_transform, open_face_data, train_transform

    if config.data.path is None:
        raise ValueError(
            f"data is not set; name the folder of faces to train on ({config.output.folder} holds no run that would name it)"
        )
    own = config.augmentation
    recipe = augment_recipe(own.recipe)
    known = [field.name for field in dataclasses.fields(recipe)]
    for name in (*own.options, *own.late_options):
        if name not in known:
            raise ValueError(unknown_name_message("augment option", name[:200], known))
    first = dataclasses.replace(recipe, **own.options)
    late = dataclasses.replace(first, **own.late_options) if own.late_options else None
    late_from = math.ceil(own.late_from * config.optimization.epochs)
    return run_data(
        open_face_data(
            config.data.path,
            train_transform=train_transform(preprocessing, first, late, late_from),
            eval_transform=eval_transform(preprocessing),
        )
    )


def build_model(config: TrainConfig) -> nn.Module:
    """The backbone, initialized with the run's seed."""
    own = config.model
    options = {name: getattr(own, name) for name in NetworkOptions.__annotations__ if hasattr(own, name)}
    _refuse_repeated("model_options", own.options, options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.optimization.seed)
        model: Any = create_model(own.name, **options, **own.options)
    if own.init_pretrained is not None:  # the images have to look as those weights know them
        known = get_weights(own.name, own.init_pretrained).preprocessing
        if len(known.mean) == len(model.preprocessing.mean):
            model.preprocessing = dataclasses.replace(known, img_size=model.preprocessing.img_size)
    return model


def head_record(config: TrainConfig, embedding_dim: int, num_classes: int) -> dict[str, Any]:
    """Name and options with which :func:`facezoo.create_margin` builds the head, now and from a checkpoint."""
    options: dict[str, Any] = {"embedding_dim": embedding_dim, "num_classes": num_classes}
    if config.optimization.label_smoothing:
        options["label_smoothing"] = config.optimization.label_smoothing
    own = ("process_group", "sample_rate", "optimizer_in_backward")  # options of the training, not of the head
    _refuse_repeated("margin_options", config.model.margin_options, {**options, **dict.fromkeys(own)})
    return {"name": config.model.margin, "options": {**options, **config.model.margin_options}}


def build_head(config: TrainConfig, record: dict[str, Any], dist: Distributed) -> nn.Module:
    """The margin head, initialized with the run's seed; with ``head_parallel`` this rank's part of it."""
    own = config.optimization
    options: dict[str, Any] = {"sample_rate": own.sample_rate}
    if config.machine.head_parallel and dist.world_size > 1:
        options["process_group"] = torch.distributed.group.WORLD
    elif own.optimizer_in_backward and dist.world_size > 1:
        raise ValueError(
            f"optimizer_in_backward on {dist.world_size} processes needs head_parallel: each would step its own class centers"
        )
    if own.optimizer_in_backward and own.optimizer.lower() == "adamw":
        options["optimizer_in_backward"] = BackwardAdamW(
            own.lr, (own.momentum, own.beta2), weight_decay=head_weight_decay(config)
        )
    elif own.optimizer_in_backward:
        options["optimizer_in_backward"] = BackwardSGD(own.lr, own.momentum, head_weight_decay(config), own.nesterov)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(own.seed + 1)
        return create_margin(record["name"], **record["options"], **options)


def head_weight_decay(config: TrainConfig) -> float:
    """Weight decay of the class centers."""
    own = config.optimization
    return own.weight_decay if own.head_weight_decay is None else own.head_weight_decay


def find_teacher(config: TrainConfig, data: RunData, preprocessing: Preprocessing, dist: Distributed) -> Teacher | None:
    """The teacher's embeddings of the training images; None without a teacher."""
    if config.model.teacher is None:
        if config.model.distill or config.model.teacher_options:
            raise ValueError(
                "distill and teacher_options need a teacher: name a network or a file of embeddings with --teacher"
            )
        return None
    from facezoo.training.teacher import find_teacher as find

    return find(config, data, preprocessing, dist)


def build_objective(config: TrainConfig, model: Any, head: Any, data: RunData, teacher: Tensor | None) -> Objective:
    """Model, head, the additional heads and losses of ``config.model.joint`` and the distillation losses, as one module.

    Losses with class centers or proxies get ``embedding_dim`` and ``num_classes``. All losses see the embeddings of all ranks, so
    that a run does not depend on the number of ranks.

    Raises:
        ValueError: ``wccn`` is set, and the network or the head allows none.
    """
    if config.optimization.wccn is not None:
        require_foldable(model, head)
    from facezoo.losses import CrossBatchMemory, JointLoss, WeightSchedule

    own, num_classes = config.model, len(data.classes)
    distill: nn.Module | None = None
    if teacher is not None:
        from facezoo.training.distill import build_distillations

        sizes = {"classes": num_classes, "student_dim": model.embedding_dim}
        distill = build_distillations(own.distill, teacher, data.labels, **sizes, seed=config.optimization.seed + 3)
    if not own.joint:
        return Objective(model, head, None, distill)
    parts: dict[str, nn.Module] = {}
    weights = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.optimization.seed + 2)
        for name, value in own.joint.items():
            entry = joint_entry(value)
            part = _joint_part(config, name, model.embedding_dim, num_classes)
            if entry.memory:
                part = CrossBatchMemory(part, embedding_dim=model.embedding_dim, **entry.memory)
            parts[name] = part
            weights.append(WeightSchedule(**entry.schedule))
    # The trainer counts the steps, because an update may have several micro-batches and two sets of labels.
    joint = JointLoss(list(parts.values()), weights=weights, names=list(parts), gather=True, count_calls=False)
    return Objective(model, head, joint, distill)


def _joint_part(config: TrainConfig, name: str, embedding_dim: int, num_classes: int) -> nn.Module:
    """A metric loss or a margin head by its name."""
    from facezoo.losses import LOSSES, create_loss

    known = {"embedding_dim": embedding_dim, "num_classes": num_classes}
    own = dict(config.model.joint_options.get(name, {}))
    if name in ("cross_entropy", "joint"):
        raise ValueError(f"joint takes losses on embeddings; {name!r} is none (plain cross-entropy is margin='linear')")
    if name not in LOSSES and name in list_margins():
        return create_margin(name, **{**known, **own})
    if name not in LOSSES:
        raise ValueError(unknown_name_message("loss or margin", name[:200], [*LOSSES.list(), *list_margins()]))
    accepted = inspect.signature(LOSSES[name]).parameters
    return create_loss(name, **{**{key: value for key, value in known.items() if key in accepted}, **own})


def place(objective: Objective, machine: MachineSettings, dist: Distributed) -> None:
    """Move everything to its device and memory format; compile and shard it if requested.

    Raises:
        ValueError: ``channels_last`` on a CPU with a convolution that oneDNN gets wrong.
    """
    backbone: Any = objective.model
    objective.to(dist.device)
    if machine.channels_last:
        if dist.device.type == "cpu":
            _refuse_narrow_convolutions(objective)
        objective.to(memory_format=torch.channels_last)
    if machine.grad_checkpointing:
        backbone.set_grad_checkpointing(True)
    if machine.compile:
        backbone.compile()
    if machine.fully_shard and dist.world_size > 1:
        fully_shard_backbone(backbone, dist)


def _refuse_narrow_convolutions(objective: Objective) -> None:
    """oneDNN's backward pass of these writes outside its memory (https://github.com/uxlfoundation/oneDNN/issues/6035)."""
    for name, module in objective.named_modules():
        if not isinstance(module, nn.Conv2d) or module.kernel_size != (1, 1) or max(module.stride) == 1:
            continue
        channels = module.in_channels // module.groups
        if channels < 16:
            raise ValueError(
                f"channels_last on a CPU: {name} is a 1×1 convolution with stride {max(module.stride)} and {channels} input "
                "channels, and with fewer than 16 the library behind torch (oneDNN) damages memory in this layout "
                "(uxlfoundation/oneDNN#6035); train this network without channels_last"
            )


def build_optimizer(config: TrainConfig, objective: Objective, device: torch.device) -> torch.optim.Optimizer:
    """The optimizer for all trained parameters, with learning rate and weight decay by part."""
    own, backbone = config.optimization, objective.model
    others = nn.ModuleList(part for part in (objective.head, objective.joint, objective.distill) if part is not None)
    groups = parameter_groups(
        backbone,
        others,
        weight_decay=own.weight_decay,
        head_weight_decay=head_weight_decay(config),
        head_lr_scale=own.head_lr_scale,
        layer_decay=own.layer_decay,
    )
    factors: dict[str, float] = dict(own.lr_scales)
    scaled = {part: [p for module in find_part(backbone, part) for p in module.parameters()] for part in factors}
    for name, value in config.model.joint.items():
        if objective.joint is not None and joint_entry(value).lr_scale != 1.0:
            factors[f"joint {name}"] = joint_entry(value).lr_scale
            scaled[f"joint {name}"] = list(objective.joint.parts[name].parameters())
    groups = scale_learning_rates(groups, scaled, factors)
    require_all_parameters(groups, objective)
    options = OptimizerOptions(
        own.lr,
        own.momentum,
        own.beta2,
        own.nesterov,
        own.weight_decay,
        fused=device.type == "cuda",
        further=own.optimizer_options,
    )
    return create_optimizer(own.optimizer, groups, options)


def build_average(config: TrainConfig, objective: nn.Module, updates_per_epoch: int) -> WeightAverage | None:
    """The moving average of ``ema_decay``, or the mean from ``swa_start`` on; None without either."""
    own = config.optimization
    if own.swa_start is not None:
        return WeightAverage(objective, None, start=(own.swa_start - 1) * updates_per_epoch)
    return WeightAverage(objective, own.ema_decay) if own.ema_decay is not None else None


def mix(own: AugmentationSettings, images: Tensor, labels: Tensor, generator: torch.Generator) -> MixedBatch:
    """Mix a batch with mixup or CutMix."""
    from facezoo.data import mix_batch

    alphas = {"mixup_alpha": own.mixup_alpha or 0.0, "cutmix_alpha": own.cutmix_alpha or 0.0}
    return mix_batch(images, labels, **alphas, generator=generator)


def tell_class_counts(objective: nn.Module, labels: Tensor, num_classes: int) -> None:
    """Set the number of training images per class in heads that need it (``"dyn_arcface"``), the same on every rank.

    Args:
        objective: module that contains the heads.
        labels: labels of all training images, int64 (N,).
        num_classes: number of identities C.

    Raises:
        ValueError: a class without images, for such a head.
    """
    for module in objective.modules():
        if "class_counts" in dict(module.named_buffers(recurse=False)) and hasattr(module, "set_class_counts"):
            module.set_class_counts(torch.bincount(labels, minlength=num_classes))  # type: ignore[operator]


def require_budget(objective: nn.Module, max_params: float | None) -> None:
    """Check the parameter budget, including the class centers. Raises ValueError with the count by part."""
    counts = {name: count_parameters(part) for name, part in objective.named_children()}
    count = sum(counts.values())
    if max_params is not None and count > max_params:
        parts = ", ".join(f"{name} {number:,}" for name, number in counts.items())
        raise ValueError(
            f"{count:,} parameters ({parts}) exceed max_params={max_params:,.0f}; "
            "`facezoo models --max-params` lists what fits"
        )


def require_batches_that_train(model: nn.Module, preprocessing: Preprocessing, smallest: int) -> None:
    """Try a batch of one image, if the run has one: batch norm cannot train on a single value per channel.

    Raises:
        ValueError: the network cannot train on it.
    """
    if smallest > 1:
        return
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    modes = {name: module.training for name, module in model.named_modules()}
    parameter = next(model.parameters())
    image = torch.zeros(1, len(preprocessing.mean), *preprocessing.img_size, device=parameter.device)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.train()(image)
    except ValueError as error:
        raise ValueError(
            f"some update would see a batch of 1 image, on which batch norm cannot train ({str(error)[:80]}): "
            "choose another batch_size or accumulation, or set drop_last to true"
        ) from None
    finally:
        for name, module in model.named_modules():
            module.training = modes[name]
        for name, value in model.named_buffers():
            value.copy_(buffers[name])


def _refuse_repeated(field: str, options: Any, own: dict[str, Any]) -> None:
    repeated = sorted(set(options) & set(own))
    if repeated:
        raise ValueError(f"{field} repeats {repeated}, which TrainConfig sets already; use its own field")
