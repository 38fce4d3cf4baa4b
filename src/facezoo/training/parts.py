"""The swappable parts of a run, built from its settings: data, network, head, metric losses."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from facezoo.evaluation import embed_images
from facezoo.margins import BackwardAdamW, BackwardSGD, create_margin
from facezoo.models import create_model
from facezoo.registry import unknown_name_message
from facezoo.training.checkpoint import load_initial_weights
from facezoo.training.config import TrainConfig, split_joint_entry
from facezoo.training.distributed import Distributed
from facezoo.training.objective import Objective
from facezoo.training.sharding import count_parameters

if TYPE_CHECKING:
    from facezoo.data import FaceData


def build_data(config: TrainConfig, preprocessing: Any) -> FaceData:
    """Open the data folder with the training and evaluation transforms of ``preprocessing``."""
    from facezoo.data import augment_recipe, eval_transform, open_face_data, train_transform

    if not config.data:
        raise ValueError("data is empty; name the folder of faces to train on")
    recipe = augment_recipe(config.augment)
    known = [field.name for field in dataclasses.fields(recipe)]
    for name in config.augment_options:
        if name not in known:
            raise ValueError(unknown_name_message("augment option", name, known))
    return open_face_data(
        config.data,
        train_transform=train_transform(preprocessing, dataclasses.replace(recipe, **config.augment_options)),
        eval_transform=eval_transform(preprocessing),
    )


def build_model(config: TrainConfig) -> nn.Module:
    """The backbone, initialized by the run's seed."""
    options: dict[str, Any] = {
        "embedding_dim": config.embedding_dim,
        "img_size": config.img_size,
        "stem": config.stem,
        "drop_rate": config.drop_rate if config.drop_rate >= 0 else None,
        "drop_path_rate": config.drop_path_rate,
        "drop_block_rate": config.drop_block_rate,
    }
    _refuse_repeated("model_options", config.model_options, options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model: nn.Module = create_model(config.model, **options, **config.model_options)
    return model


def head_record(config: TrainConfig, embedding_dim: int, num_classes: int) -> dict[str, Any]:
    """Name and options with which :func:`facezoo.create_margin` builds the head, now and from a checkpoint."""
    options: dict[str, Any] = {"embedding_dim": embedding_dim, "num_classes": num_classes}
    if config.label_smoothing:
        options["label_smoothing"] = config.label_smoothing
    own = ("process_group", "sample_rate", "optimizer_in_backward")  # of this training, not of what it trains
    _refuse_repeated("margin_options", config.margin_options, {**options, **dict.fromkeys(own)})
    return {"name": config.margin, "options": {**options, **config.margin_options}}


def build_head(config: TrainConfig, record: dict[str, Any], dist: Distributed) -> nn.Module:
    """The margin head, initialized by the run's seed; with ``head_parallel`` this rank's part of it."""
    options: dict[str, Any] = {"sample_rate": config.sample_rate}
    if config.head_parallel and dist.world_size > 1:
        options["process_group"] = torch.distributed.group.WORLD
    if config.optimizer_in_backward and config.optimizer == "adamw":
        options["optimizer_in_backward"] = BackwardAdamW(
            config.lr, (config.momentum, config.beta2), weight_decay=head_weight_decay(config)
        )
    elif config.optimizer_in_backward:
        options["optimizer_in_backward"] = BackwardSGD(
            config.lr, config.momentum, head_weight_decay(config), config.nesterov
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed + 1)
        return create_margin(record["name"], **record["options"], **options)


def head_weight_decay(config: TrainConfig) -> float:
    """Weight decay of the class centers."""
    return config.head_weight_decay if config.head_weight_decay >= 0 else config.weight_decay


def build_objective(config: TrainConfig, model: Any, head: Any, num_classes: int) -> Objective:
    """Model, head and the metric losses of ``config.joint`` as one module.

    Metric losses that have centers or proxies of their own are told ``embedding_dim`` and ``num_classes``. All of them see the
    embeddings of all ranks, so that a run does not depend on their number.
    """
    from facezoo.losses import LOSSES, CrossBatchMemory, JointLoss, WeightSchedule, create_loss

    if not config.joint:
        return Objective(model, head)
    known = {"embedding_dim": model.embedding_dim, "num_classes": num_classes}
    parts: dict[str, nn.Module] = {}
    weights = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed + 2)
        for name, entry in config.joint.items():
            if name in ("cross_entropy", "joint"):
                raise ValueError(
                    f"joint takes losses on embeddings; {name!r} is none (plain cross-entropy is margin='linear')"
                )
            accepted = inspect.signature(LOSSES[name]).parameters
            options = {key: value for key, value in known.items() if key in accepted}
            part = create_loss(name, **{**options, **config.joint_options.get(name, {})})
            schedule, memory = split_joint_entry(entry)
            if memory:
                part = CrossBatchMemory(part, embedding_dim=model.embedding_dim, **memory)
            parts[name] = part
            weights.append(WeightSchedule(**schedule))
    # Steps are updates, which only the trainer can tell: an update may have several micro-batches, and two sets of labels.
    joint = JointLoss(list(parts.values()), weights=weights, names=list(parts), gather=True, count_calls=False)
    return Objective(model, head, joint)


def initialize(config: TrainConfig, model: Any, head: Any, device: torch.device) -> None:
    """Put in the weights and the class centers that the run starts from; see ``init_checkpoint`` and ``init_head``."""
    if config.init_checkpoint:
        load_initial_weights(config.init_checkpoint, model, head if config.init_head == "checkpoint" else None)
    if config.init_head == "class_means":
        embeddings, labels = _training_embeddings(config, model, device)
        head.init_from_embeddings(embeddings, labels)


def tell_class_counts(head: Any, samples: Any, num_classes: int) -> None:
    """Tell a head that asks for them (``"dyn_arcface"``) how many training images each class has, the same on every rank.

    Args:
        head: the margin head.
        samples: pairs of a path and a label, of all training images.
        num_classes: number of identities C.

    Raises:
        ValueError: a class without images, for such a head.
    """
    if "class_counts" in dict(head.named_buffers()):
        labels = torch.tensor([label for _, label in samples])
        head.set_class_counts(torch.bincount(labels, minlength=num_classes))


def _training_embeddings(config: TrainConfig, model: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (N, D) of the training images without augmentation, and their labels (N,)."""
    from facezoo.data import eval_transform, open_face_data

    transform = eval_transform(model.preprocessing)
    train = open_face_data(config.data, train_transform=transform, eval_transform=transform).train
    embeddings = embed_images(
        model, train, batch_size=config.eval_batch_size, device=device, num_workers=config.num_workers, normalize=False
    )
    return embeddings, train.labels


def require_labels(samples: Any, classes: tuple[str, ...], source: str) -> None:
    """Check that every label is the index of a class. Raises ValueError naming the first image that has another one."""
    for path, label in samples:
        if not 0 <= label < len(classes):
            raise ValueError(
                f"{source}: {path} has label {label}, but there are {len(classes)} classes (labels 0 to {len(classes) - 1})"
            )


def require_budget(objective: nn.Module, max_params: float) -> None:
    """Check the parameter budget, class centers counted. Raises ValueError with the count by part."""
    counts = {name: count_parameters(part) for name, part in objective.named_children()}
    count = sum(counts.values())
    if max_params and count > max_params:
        parts = ", ".join(f"{name} {number:,}" for name, number in counts.items())
        raise ValueError(
            f"{count:,} parameters ({parts}) exceed max_params={max_params:,.0f}; "
            "`facezoo models --max-params` lists what fits"
        )


def _refuse_repeated(field: str, options: Any, own: dict[str, Any]) -> None:
    repeated = sorted(set(options) & set(own))
    if repeated:
        raise ValueError(f"{field} repeats {repeated}, which TrainConfig sets already; use its own field")
