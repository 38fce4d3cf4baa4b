"""Embeddings of many images, from any model or callable, with flip test-time augmentation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, TypeAlias, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from facezoo.checks import is_whole, plain_number
from facezoo.devices import resolve_device
from facezoo.modes import compiled_method, compiled_part, unwrap, view_in_mode

Embedder: TypeAlias = "nn.Module | Callable[[Tensor], Tensor]"
Images: TypeAlias = "Dataset[Any] | Tensor | Sequence[str | os.PathLike[str]]"
Item = TypeVar("Item")
Flip: TypeAlias = Literal["none", "sum", "concat"]

_FLIPS = ("none", "sum", "concat")
_EMBEDDING_NAMES = ("feats", "embedding", "embeddings", "features", "feature")
_LOGITS_NAMES = ("out", "logits", "output")


def embed_images(
    model: Embedder,
    images: Images,
    *,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    flip: Flip = "none",
    normalize: bool = True,
    transform: Callable[[Any], Tensor] | None = None,
    autocast: torch.dtype | None = None,
    num_workers: int = 0,
    progress: bool = False,
) -> Tensor:
    """Embed every image, in order.

    Args:
        model: an ``nn.Module`` (its ``embed`` method is used if it has one, else the call), or any callable; it maps float images
            ``(N, 3, H, W)`` to embeddings ``(N, D)``, or a dictionary with ``feats``, or a tuple that begins with them (HW2P2).
            A module is used in evaluation mode and not changed; if it is wrapped (DDP, compiled), the inner network is used.
        images: a map-style dataset whose items are images or ``(image, ...)`` tuples, a tensor ``(N, 3, H, W)``, or image files.
        batch_size: images per batch. Default: 16 on a CPU, where larger batches do not fit into the caches, else 256.
        device: device to compute on; the model is moved there and stays there. Default: the device of its parameters, else the
            CPU.
        flip: ``"none"``; ``"sum"``: e(x) + e(mirrored x); ``"concat"``: both side by side, ``(N, 2 D)``, as in
            insightface. L2 normalization follows.
        normalize: scale each row to unit length, so that a dot product is a cosine.
        transform: for a list of files: PIL image to float tensor. Default: ``facezoo.data.eval_transform(model.preprocessing)``.
        autocast: dtype of mixed precision, such as ``torch.bfloat16``; ``None`` computes in the model's own precision.
        num_workers: processes that load images.
        progress: show a progress bar.

    Returns:
        float32 ``(N, D)`` on the CPU, an ordinary tensor (usable in autograd).

    Raises:
        ValueError: no images, or an unknown ``flip``, or images of differing size.
        TypeError: items that are not tensors, or an output that is not ``(N, D)``.
        RuntimeError: NaN or infinite embeddings; the message names the first image.
    """
    if flip not in _FLIPS:
        raise ValueError(f"flip must be one of {', '.join(_FLIPS)}; got {flip!r}")
    where = device_of(model, device)
    network = at_rest(model)
    dataset = as_dataset(images, model=network, transform=transform)
    embed = _embed_function(network)
    embeddings: Tensor | None = None
    position = 0
    batches = load_batches(dataset, batch_size=batch_size, device=where, num_workers=num_workers)
    for batch, _ in with_progress(batches, show=progress, label="embed"):
        with inference(where, autocast):
            _check_batch(model, batch)
            fused = _fused(embed, in_type_of(model, batch, autocast), flip)
            fused = (_unit_rows(fused) if normalize else fused).cpu()
        # Allocated and filled outside inference_mode, so that the caller's tensor can be used with autograd.
        if embeddings is None:
            embeddings = torch.empty(len(dataset), fused.shape[1], dtype=torch.float32, device="cpu")
        _check_finite(fused, dataset, position)
        embeddings[position : position + len(fused)] = fused
        position += len(fused)
    return cast("Tensor", embeddings)  # as_dataset refuses an empty dataset


def embed_files(
    model: Embedder,
    files: Sequence[str | os.PathLike[str]],
    *,
    transform: Callable[[Any], Tensor] | None = None,
    **options: Any,
) -> tuple[Tensor, dict[int, str]]:
    """Embed image files, of which some may be unreadable.

    Args:
        model: see :func:`embed_images`.
        files: image files.
        transform: see :func:`embed_images`.
        **options: the other options of :func:`embed_images`.

    Returns:
        float32 ``(N, D)``: a row for every file that can be read, in order; and why the others cannot, by their place in ``files``.

    Raises:
        DataError: none of the files can be read. Also what :func:`embed_images` raises.
    """
    from facezoo.data import DataError, ImageDecodeError, read_image  # imports torchvision

    if not len(files):
        raise ValueError("no images to embed: the list is empty")
    images = _Readable(files, transform or default_transform(at_rest(model)))
    embeddings = embed_images(model, images, **options)
    reasons: dict[int, str] = {}
    for index in images.unreadable.nonzero().flatten().tolist():
        reasons[index] = f"{images.paths[index]} could not be read at first"
        try:
            read_image(images.paths[index])
        except ImageDecodeError as error:
            reasons[index] = str(error)
    if len(reasons) == len(files):
        raise DataError(f"none of the {len(files)} images can be read: {next(iter(reasons.values()))}")
    return embeddings[~images.unreadable], reasons


# ------------------------------------------------------------------------- shared with the protocols


class _Readable(Dataset[Any]):
    """Image files; for one that cannot be read a gray image, and a mark in ``unreadable``, which workers share."""

    def __init__(self, files: Sequence[str | os.PathLike[str]], transform: Callable[[Any], Tensor]) -> None:
        from facezoo.data import ImageList
        from facezoo.data.image import transformed

        self._images = ImageList(files, transform)
        self._gray = transformed(np.full((112, 112, 3), 128, dtype=np.uint8), transform)
        self.paths = self._images.paths
        self.unreadable = torch.zeros(len(files), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        from facezoo.data import ImageDecodeError

        try:
            return cast(Tensor, self._images[index])
        except ImageDecodeError:
            self.unreadable[index] = True
            return cast(Tensor, self._gray)


class SizedDataset(Dataset[Any]):
    """Typing aid: a map-style dataset with a length."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError


def _unit_rows(embeddings: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True)
    # F.normalize turns a row of infinite length into zeros; the last term turns it into NaN, which is an error later.
    return embeddings / (lengths.clamp_min(1e-12) + 0.0 * lengths)


def _fused(embed: Callable[[Tensor], Any], batch: Tensor, flip: Flip) -> Tensor:
    """Embeddings of a batch, float32, with those of the mirrored images added or beside them."""
    plain = _check_embeddings(embed(batch), len(batch)).float()
    if flip == "none":
        return plain
    mirrored = _check_embeddings(embed(batch.flip(-1)), len(batch)).float()
    return with_mirrored(plain, mirrored, flip)


def with_mirrored(plain: Tensor, mirrored: Tensor, flip: Flip) -> Tensor:
    """Embeddings ``(N, D)`` with those of the mirrored images added (``"sum"``), beside them (``"concat"``), or not used."""
    if flip == "none":
        return plain
    return plain + mirrored if flip == "sum" else torch.cat([plain, mirrored], dim=1)


def as_dataset(images: Images, *, model: Embedder, transform: Callable[[Any], Tensor] | None) -> SizedDataset:
    """``images`` as a map-style dataset; see :func:`embed_images`."""
    if isinstance(images, (str, bytes, os.PathLike)):
        raise TypeError(
            f"expected a dataset or a list of image files, got the single path {os.fspath(images)!r}; put it in a list"
        )
    if not (hasattr(images, "__len__") and hasattr(images, "__getitem__")):
        raise TypeError(
            f"expected a map-style dataset (with a length and indexing), a tensor or a list of files; got {type(images).__name__}"
        )
    if len(cast(SizedDataset, images)) == 0:
        raise ValueError("no images to evaluate: the dataset or list is empty")
    if isinstance(images, (list, tuple)) and isinstance(images[0], (str, os.PathLike)):
        from facezoo.data import ImageList  # imports torchvision

        return cast(SizedDataset, ImageList(list(images), transform=transform or default_transform(model)))
    if transform is not None:
        raise ValueError("transform applies to a list of files only; give the dataset itself the transform")
    return cast(SizedDataset, images)


def default_transform(model: Embedder) -> Callable[[Any], Tensor]:
    """The evaluation transform of the model's weights, or the default one for a plain callable."""
    from facezoo.data import eval_transform  # imports torchvision
    from facezoo.preprocessing import Preprocessing

    preprocessing = getattr(model, "preprocessing", None)
    return cast(
        Callable[[Any], Tensor], eval_transform(preprocessing if preprocessing is not None else Preprocessing())
    )


def device_of(model: Embedder, device: str | torch.device | None) -> torch.device:
    """The device to compute on: ``device``, to which a module is moved, else the module's own device."""
    if isinstance(model, nn.Module):
        model = unwrap(model)
    if device is not None:
        device = resolve_device(device)
        if isinstance(model, nn.Module):
            model.to(device)
        return device
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return torch.device("cpu")


def at_rest(model: Embedder) -> Embedder:
    """The network inside any wrapper, in evaluation mode, without changing ``model``.

    A network in training mode keeps its mode: it is used through a view (:mod:`facezoo.modes`). A compiled network in evaluation
    mode is used compiled, with a compiled ``embed``.
    """
    if not isinstance(model, nn.Module):
        return model
    network = unwrap(model)
    view = view_in_mode(network, training=False)
    compiled = compiled_part(model) if view is network else None
    return view if compiled is None else _Compiled(network, compiled)


class _Compiled:
    """A compiled network for evaluation, with a compiled ``embed`` if it has that method."""

    def __init__(self, network: nn.Module, compiled: nn.Module) -> None:
        self.compiled = compiled
        if callable(getattr(network, "embed", None)):
            self.embed = compiled_method(compiled, "embed")
        if hasattr(network, "preprocessing"):
            self.preprocessing = network.preprocessing

    def __call__(self, images: Tensor) -> Any:
        return self.compiled(images)


def in_type_of(model: Embedder, batch: Tensor, autocast: torch.dtype | None) -> Tensor:
    """Convert images to the dtype of the network's weights, so that float64 and half-precision networks accept images from
    files."""
    if autocast is not None or not isinstance(model, nn.Module):
        return batch
    weights = (tensor.dtype for tensor in unwrap(model).parameters() if tensor.is_floating_point())
    return batch.to(next(weights, batch.dtype))


@contextmanager
def inference(device: torch.device, autocast: torch.dtype | None) -> Iterator[None]:
    """``torch.inference_mode``, with autocast if a dtype is given."""
    mixed = nullcontext() if autocast is None else torch.autocast(device.type, dtype=autocast)
    with torch.inference_mode(), mixed:
        yield


def load_batches(
    dataset: SizedDataset, *, batch_size: int | None, device: torch.device, num_workers: int
) -> DataLoader[tuple[Tensor, Tensor | None]]:
    """Batches ``(images on the device, labels or None)`` in dataset order."""
    if batch_size is None:
        batch_size = 16 if device.type == "cpu" else 256
    batch_size = cast(int, plain_number(batch_size))
    if not is_whole(batch_size, 1):
        raise ValueError(f"batch_size must be an integer >= 1, got {batch_size!r}")
    loader: DataLoader[Any] = DataLoader(
        cast(Dataset[Any], dataset),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
        # Without its own generator a loader draws its base seed from the global one: an evaluation between two epochs would then
        # change the random numbers of the training.
        generator=torch.Generator(),
    )
    return cast("DataLoader[tuple[Tensor, Tensor | None]]", _ToDevice(loader, device))


def with_progress(batches: Iterable[Item], *, show: bool, label: str) -> Iterator[Item]:
    """The batches, behind a progress bar if ``show``."""
    if not show:
        return iter(batches)
    from tqdm import tqdm

    return iter(tqdm(batches, desc=label, unit="batch", leave=False))


class _ToDevice:
    def __init__(self, loader: DataLoader[Any], device: torch.device) -> None:
        self.loader, self.device = loader, device

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        with torch.device("cpu"):  # a loader draws a seed on the default device, which may be the meta device
            batches = iter(self.loader)
        try:
            while True:
                with torch.device("cpu"):
                    batch = next(batches, None)
                if batch is None:
                    return
                images, labels = batch
                yield images.to(self.device, non_blocking=True), labels
        finally:
            if self.loader.num_workers:
                from facezoo.data import stop_workers  # imports torchvision

                stop_workers(batches)


def _collate(items: list[Any]) -> tuple[Tensor, Tensor | None]:
    labeled = isinstance(items[0], (tuple, list))
    images = [item[0] if labeled else item for item in items]
    for image in images:
        if not isinstance(image, Tensor):
            raise TypeError(
                f"the dataset gives images as {type(image).__name__}, not tensors; "
                "build it with transform=facezoo.data.eval_transform(model.preprocessing)"
            )
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise ValueError(f"images of differing size in one batch: {sorted(shapes)}; let the transform resize them")
    labels = None
    if labeled and len(items[0]) > 1 and all(isinstance(plain_number(item[1]), (int, Tensor)) for item in items):
        labels = torch.tensor([int(item[1]) for item in items])
    return torch.stack(images), labels


def _embed_function(model: Embedder) -> Callable[[Tensor], Any]:
    if callable(embed := getattr(model, "embed", None)):
        return cast(Callable[[Tensor], Any], embed)
    if not callable(model):
        raise TypeError(f"expected a module or a callable that maps images to embeddings, got {type(model).__name__}")
    return model


def _check_batch(model: Embedder, batch: Tensor) -> None:
    if isinstance(model, nn.Module) and not batch.is_floating_point():
        raise TypeError(
            f"the dataset gives {batch.dtype} images, a network needs normalized float images; "
            "build it with transform=facezoo.data.eval_transform(model.preprocessing)"
        )


def _check_embeddings(output: Any, images: int) -> Tensor:
    found = embeddings_in(output)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != images or not found.is_floating_point():
        got = (
            f"a {found.dtype} tensor of shape {tuple(found.shape)}"
            if isinstance(found, Tensor)
            else f"a dictionary of {', '.join(map(str, found))}"[:200]
            if isinstance(found, Mapping)
            else type(found).__name__
        )
        raise TypeError(f"the model must give float embeddings ({images}, D) for {images} images; got {got}")
    return found


def embeddings_in(output: Any) -> Any:
    """The embeddings in another network's output: ``feats`` (or a similar key) of a dictionary, or the first item of a tuple."""
    if isinstance(output, Mapping):
        return next((output[name] for name in _EMBEDDING_NAMES if name in output), output)
    return output[0] if isinstance(output, (tuple, list)) and output else output


def logits_in(output: Any) -> Any:
    """The logits in another network's output: ``out`` (or a similar key) of a dictionary, or the last item of a tuple."""
    if isinstance(output, Mapping):
        return next((output[name] for name in _LOGITS_NAMES if name in output), output)
    return output[-1] if isinstance(output, (tuple, list)) and output else output


def _check_finite(embeddings: Tensor, dataset: SizedDataset, position: int) -> None:
    bad = (~torch.isfinite(embeddings).all(dim=1)).nonzero()
    if len(bad):
        index = position + int(bad[0])
        paths = getattr(dataset, "paths", None)
        name = f"image {index}" + (f" ({paths[index]})" if isinstance(paths, Sequence) and index < len(paths) else "")
        raise RuntimeError(
            f"the embedding of {name} is NaN or infinite ({len(bad)} such in its batch); the weights may have diverged, "
            "or half precision overflowed: try autocast=None or torch.bfloat16"
        )
