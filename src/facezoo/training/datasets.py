"""The data of a run: a data folder, or any map-style dataset of (image, label)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from facezoo.evaluation import embed_images
from facezoo.models import Preprocessing
from facezoo.training.config import TrainConfig


@dataclass(frozen=True)
class RunData:
    """The data of a run.

    Attributes:
        train: training images, map-style, items ``(image, label)``.
        labels: their labels, int64 (N,).
        classes: names of the identities by label.
        dev: held-out images of the same identities, or None.
        val_pairs: a :class:`facezoo.data.PairList` with labels, or None.
        description: text for display, one or more lines.
    """

    train: Any
    labels: Tensor
    classes: tuple[str, ...]
    dev: Any = None
    val_pairs: Any = None
    description: str = ""

    def fingerprint(self) -> dict[str, str]:
        """Identifies the data, so that a run is not resumed with other data: counts, and a hash of names and labels."""
        parts = {"train": _fingerprint(self.train, self.labels)}
        if self.dev is not None:
            parts["dev"] = _fingerprint(self.dev, None)
        if self.val_pairs is not None:
            left, right = self.val_pairs.left.tolist(), self.val_pairs.right.tolist()
            parts["val_pairs"] = _digest(len(left), (left, right, self.val_pairs.labels.tolist()), self.val_pairs.paths)
        return parts


def run_data(data: Any) -> RunData:
    """Convert the argument of ``Trainer(data=...)``.

    Args:
        data: a map-style dataset of (image, label), or an object with ``train``, ``classes`` and optionally ``dev`` and
            ``val_pairs``, such as a :class:`facezoo.data.FaceData`.

    Raises:
        ValueError: the dataset has no labels, a label is out of range, or all pairs are of one kind.
        TypeError: ``data`` is not a map-style dataset.
    """
    train: Any = getattr(data, "train", None)  # a flag in torchvision's MNIST
    if not hasattr(train, "__getitem__"):
        train = data
    if not (hasattr(train, "__len__") and hasattr(train, "__getitem__")):
        raise TypeError(f"data must be a map-style dataset (with a length and indexing); got {type(data).__name__}")
    labels = labels_of(train)
    classes = getattr(data, "classes", None) or classes_of(train, labels)
    pairs = getattr(data, "val_pairs", None)
    pairs = pairs if pairs is not None and pairs.labels is not None else None
    _require_labels(train, labels, classes)
    if pairs is not None:
        _require_both_kinds(pairs)
    describe = getattr(data, "describe", None)
    text = describe() if callable(describe) else f"{len(train)} training images of {len(classes)} identities"
    return RunData(train, labels, tuple(classes), getattr(data, "dev", None), pairs, text)


def labels_of(dataset: Any) -> Tensor:
    """The labels of a map-style dataset, int64 (N,), without reading images.

    They are taken from ``targets``, ``labels`` or ``samples`` (pairs whose second item is the label), also through ``Subset`` and
    ``ConcatDataset``. Raises ValueError if there are none, or the wrong number.
    """
    if isinstance(dataset, Subset):
        return labels_of(dataset.dataset)[torch.as_tensor(list(dataset.indices), dtype=torch.int64)]
    if isinstance(dataset, ConcatDataset):
        return torch.cat([labels_of(part) for part in dataset.datasets])
    for name in ("targets", "labels", "samples"):
        found = getattr(dataset, name, None)
        if found is None or callable(found):
            continue
        values = [item[1] for item in found] if name == "samples" else found
        labels = torch.as_tensor(values)
        if labels.shape != (len(dataset),) or labels.is_floating_point() or labels.dtype == torch.bool:
            raise ValueError(
                f"{type(dataset).__name__}.{name} must hold one whole number per image ({len(dataset)}); "
                f"got shape {tuple(labels.shape)} of {labels.dtype}"
            )
        return labels.to(torch.int64)
    raise ValueError(
        f"{type(dataset).__name__} has no labels: give it `targets` or `labels`, one class index per image, or `samples`, "
        "pairs of a name and a class index"
    )


def classes_of(dataset: Any, labels: Tensor) -> tuple[str, ...]:
    """Names of the classes: the dataset's ``classes``, else the numbers from 0."""
    if isinstance(dataset, Subset):
        return classes_of(dataset.dataset, labels)
    if isinstance(dataset, ConcatDataset):
        named = [getattr(part, "classes", None) for part in dataset.datasets]
        if named and named[0] is not None and all(own is not None and list(own) == list(named[0]) for own in named):
            return tuple(named[0])
        if any(own is not None for own in named):
            raise ValueError("the parts of the ConcatDataset have different `classes`; number their identities alike")
    classes = getattr(dataset, "classes", None)
    if classes is not None:
        return tuple(str(name) for name in classes)
    return tuple(str(index) for index in range(int(labels.max()) + 1 if len(labels) else 0))


def without_augmentation(dataset: Any, transform: Callable[[Any], Any]) -> Dataset[Any]:
    """The same images with the evaluation transform, for facezoo's datasets; other datasets are returned unchanged."""
    from facezoo.data import LabeledFiles, PackedFaces

    if isinstance(dataset, (LabeledFiles, PackedFaces)):
        return dataset.subset(range(len(dataset)), transform)
    if isinstance(dataset, Subset):
        return Subset(without_augmentation(dataset.dataset, transform), dataset.indices)
    if isinstance(dataset, ConcatDataset):
        return ConcatDataset([without_augmentation(part, transform) for part in dataset.datasets])
    return dataset


def embed_training_images(
    model: Any,
    data: RunData,
    config: TrainConfig,
    preprocessing: Preprocessing,
    device: torch.device | None,
    *,
    mirrored: bool = False,
    progress: bool = False,
) -> Tensor:
    """Embeddings of the run's training images without augmentation, in order, not normalized, float32 (N, D), on the CPU.

    Args:
        model: images -> embeddings.
        data: the run's data.
        config: the run's settings.
        preprocessing: what the model expects.
        device: device to compute on; None for the model's own.
        mirrored: whether to give the mean of the embeddings of an image and of its mirror image.
        progress: whether to show a progress bar.
    """
    from facezoo.data import SeededDataset, eval_transform

    images: Any = without_augmentation(data.train, eval_transform(preprocessing))
    embeddings = embed_images(
        model,
        SeededDataset(images, config.optimization.seed),
        batch_size=config.output.eval_batch_size,
        device=device,
        flip="sum" if mirrored else "none",
        normalize=False,
        num_workers=config.machine.num_workers,
        progress=progress,
    )
    return embeddings / 2 if mirrored else embeddings


def knows_images(dataset: Any) -> bool:
    """Whether :func:`without_augmentation` can change the transform of a dataset."""
    from facezoo.data import LabeledFiles, PackedFaces

    if isinstance(dataset, Subset):
        return knows_images(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return all(knows_images(part) for part in dataset.datasets)
    return isinstance(dataset, (LabeledFiles, PackedFaces))


def require_images(train: Any, preprocessing: Preprocessing) -> None:
    """Read one image and check that it is a valid input of the network. Raises ValueError or TypeError."""
    item = train[0]
    if not isinstance(item, (tuple, list)) or len(item) < 2:
        raise TypeError(f"the training data gives {type(item).__name__}; each item must be (image, label)")
    image = item[0]
    advice = "give the dataset transform=facezoo.data.train_transform(model.preprocessing)"
    if not isinstance(image, Tensor) or not image.is_floating_point():
        got = str(image.dtype) if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(f"the training data gives images as {got}, not normalized float tensors; {advice}")
    wanted = (len(preprocessing.mean), *preprocessing.img_size)
    if tuple(image.shape) != wanted:
        raise ValueError(f"the training images have shape {tuple(image.shape)}, the network takes {wanted}; {advice}")


def image_name(dataset: Any, index: int) -> str:
    """Name of an image in errors: its file, or its number."""
    samples = getattr(dataset, "samples", None)
    if isinstance(samples, Sequence) and index < len(samples):
        return str(samples[index][0])[:200]
    return f"image {index}"


def _require_labels(train: Any, labels: Tensor, classes: Sequence[str]) -> None:
    if len(train) == 0:
        raise ValueError("there are no training images")
    wrong = ((labels < 0) | (labels >= len(classes))).nonzero()
    if len(wrong):
        index = int(wrong[0])
        raise ValueError(
            f"{image_name(train, index)} has label {int(labels[index])}, but there are {len(classes)} classes "
            f"(labels 0 to {len(classes) - 1})"
        )


def _require_both_kinds(pairs: Any) -> None:
    genuine = int(pairs.labels.sum())
    if genuine in (0, len(pairs.labels)):
        kind = "genuine" if genuine else "impostor"
        raise ValueError(
            f"all {len(pairs.labels)} validation pairs are {kind} pairs, so there is no EER: add pairs of the other kind to "
            "val_pairs.txt, or remove the file"
        )


def _fingerprint(dataset: Any, labels: Tensor | None) -> str:
    names = getattr(dataset, "names", None)
    labels = labels if labels is not None else _labels_or_none(dataset)
    return _digest(len(dataset), [] if labels is None else labels.tolist(), names if isinstance(names, tuple) else ())


def _labels_or_none(dataset: Any) -> Tensor | None:
    try:
        return labels_of(dataset)
    except ValueError:
        return None


def _digest(count: int, numbers: Any, names: Sequence[Any]) -> str:
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8)
    for name in names:
        digest.update(getattr(name, "name", str(name)).encode("utf-8", "surrogatepass") + b"\0")
    return f"{count} {digest.hexdigest()}"
