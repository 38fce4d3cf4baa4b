"""Within-class covariance normalization (WCCN): the embedding's directions that vary within identities are scaled down.

Hatch, Kajarekar and Stolcke, Interspeech 2006, https://www.isca-archive.org/interspeech_2006/hatch06_interspeech.html. On request
the directions that tell identities apart then get more weight, as in probabilistic linear discriminant analysis (Ioffe, ECCV 2006,
https://doi.org/10.1007/11744085_41), and the origin moves away from the mean, which makes cosines of long embeddings smaller. The
map is affine, so it is folded into the network's last layers: files, dimensions and the cost of an image stay the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from facezoo.margins import MarginHead
from facezoo.training.config import TrainConfig
from facezoo.training.datasets import RunData, embed_training_images
from facezoo.training.distributed import Distributed


@dataclass(frozen=True)
class Map:
    """The map ``z -> matrix @ (z - origin)`` of embeddings, float64.

    Attributes:
        matrix: (D, D).
        inverse: its inverse.
        origin: (D,).
    """

    matrix: Tensor
    inverse: Tensor
    origin: Tensor


def require_foldable(model: nn.Module, head: nn.Module) -> tuple[nn.Linear, nn.BatchNorm1d]:
    """The linear layer and the batch norm that end the network.

    Raises:
        ValueError: the network ends otherwise, or the head is not a linear classifier.
    """
    end = getattr(model, "head", None)
    layer, norm = getattr(end, "embedding", None), getattr(end, "embedding_norm", None)
    act = getattr(end, "embedding_act", None)
    if type(layer) is not nn.Linear or type(norm) is not nn.BatchNorm1d or not isinstance(act, nn.Identity):
        raise ValueError(
            "wccn needs a network that ends with a linear layer and a batch norm, such as a ResNet; leave it out for this one"
        )
    if not isinstance(head, MarginHead) or head.bias is None or head.weight.dim() != 2:
        raise ValueError("wccn needs the margin 'linear': class centers on a sphere cannot follow a linear map")
    return layer, norm


def within_class_map(model: nn.Module, data: RunData, config: TrainConfig, device: torch.device) -> Map:
    """The map that gives the training images' embeddings mean 0 and the unit matrix as (shrunken) covariance within identities.

    The images come without augmentation, each as the mean of the embeddings of the image and of its mirror image.

    Args:
        model: the network.
        data: the run's data.
        config: the run's settings; ``optimization.wccn`` is the shrinkage, ``wccn_between`` the weighting, ``wccn_offset`` the way
            of the origin.
        device: device to compute on.

    Raises:
        ValueError: the covariance is singular.
    """
    own: Any = model
    embeddings = embed_training_images(
        model, data, config, own.preprocessing, device, mirrored=True, progress=config.output.progress
    )
    own_settings = config.optimization
    return fit_map(
        embeddings, data.labels, own_settings.wccn or 0.0, own_settings.wccn_between, own_settings.wccn_offset or 0.0
    )


def normalize(objective: nn.Module, data: RunData, config: TrainConfig, process: Distributed) -> Exception | None:
    """Fold the map into the network and the head of every rank; rank 0 finds it. All ranks must call it.

    Returns:
        What went wrong on rank 0, on every rank; the network is then unchanged.
    """
    model: Any = objective.model
    # The norms have seen other images on every rank, and are part of what is folded.
    process.broadcast_tensors(model.buffers())
    found, failure = process.on_main(lambda: within_class_map(model, data, config, process.device))
    if found is not None:
        head: Any = objective.head
        fold(model, head, found)
    return failure


def fit_map(
    embeddings: Tensor, labels: Tensor, shrinkage: float, between: float | None = None, offset: float = 0.0
) -> Map:
    """The map of embeddings by their covariance about the mean of their identity.

    With ``between`` = k, the axes of the result are those along which identities differ, and the variance along each is not 1, but
    ``v / (v + k·mean(v))``, with v the variance of the identities' means. The inner product of two embeddings is then proportional
    to the term that both have in common in the score of probabilistic LDA, if the variance within new identities is
    ``2·k·mean(v)``; training makes that of its own identities, here 1, too small.

    With ``offset`` = c the last axis, along which identities differ least, gets c times the mean length of an embedding added. Two
    embeddings a and b with the angle α then have the cosine ``(|a|·|b|·cos α + o²) / sqrt((|a|² + o²)·(|b|² + o²))``, o being what
    was added. At the same angle it is the smaller, the longer they are; and embeddings of images that are like many identities
    at once tend to be long.

    Args:
        embeddings: (N, D).
        labels: (N,) int64.
        shrinkage: share of the unit matrix times the mean variance in the covariance, in [0, 1].
        between: k, above 0; None for WCCN alone.
        offset: c, from 0; only with ``between``, which orders the axes.

    Raises:
        ValueError: the covariance is singular: there is a direction in which the images of every identity are the same; or, with
            ``between``, all identities have the same mean.
    """
    x = embeddings.double()
    _, labels, counts = labels.unique(return_inverse=True, return_counts=True)
    means = torch.zeros(len(counts), x.shape[1], dtype=x.dtype).index_add_(0, labels, x) / counts[:, None]
    within = x - means[labels]
    covariance = within.T @ within / len(x)
    level = covariance.diagonal().mean()
    covariance = (1 - shrinkage) * covariance + shrinkage * level * torch.eye(len(covariance), dtype=x.dtype)
    values, vectors = torch.linalg.eigh(covariance)
    if not values[0] > 1e-12 * values[-1]:
        raise ValueError(
            "wccn: the covariance within identities is singular (too few images per identity); set a larger shrinkage, such as 0.3"
        )
    matrix, inverse = ((vectors * values**power) @ vectors.T for power in (-0.5, 0.5))
    if between is not None:
        variances, axes = torch.linalg.eigh(matrix @ (means - x.mean(0)).T.cov(correction=0) @ matrix)
        variances, axes = variances.flip(0), axes.flip(1)  # the axis that tells most comes first
        if not variances.mean() > 1e-9:  # in units of the variance within identities
            raise ValueError("wccn_between: the identities' means are all alike; leave it out")
        # With few identities some are 0, and the map needs an inverse.
        variances = variances.clamp_min(1e-3 * variances.mean())
        weights = (variances / (variances + between * variances.mean())).sqrt()
        matrix, inverse = weights[:, None] * axes.T @ matrix, inverse @ axes / weights
    origin = x.mean(0)
    if offset:
        length = ((x - origin) @ matrix.T).norm(dim=1).mean()
        origin = origin - offset * length * inverse[:, -1]
    return Map(matrix, inverse, origin)


@torch.no_grad()
def fold(model: nn.Module, head: nn.Module, found: Map) -> None:
    """Replace the embedding z by ``matrix @ (z - origin)`` in the network's last layers and in the classifier.

    The logits do not change. Afterwards only evaluation mode has meaning: in training mode the batch norm would undo the map.

    Args:
        model: network for which :func:`require_foldable` holds; changed in place.
        head: its linear classifier; changed in place. It may have a part of the classes.
        found: the map.
    """
    layer, norm = require_foldable(model, head)
    matrix, inverse, origin = (tensor.to(layer.weight.device) for tensor in (found.matrix, found.inverse, found.origin))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert isinstance(head, MarginHead)
    assert head.bias is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.double()
    center = norm.running_mean.double() - (0.0 if layer.bias is None else layer.bias.double())
    offset = -origin if norm.bias is None else norm.bias.double() - origin
    layer.weight.copy_(matrix @ (scale[:, None] * layer.weight.double()))
    norm.running_mean.copy_(matrix @ (scale * center - offset))
    norm.running_var.fill_(1 - norm.eps)
    for parameter, value in ((layer.bias, 0.0), (norm.weight, 1.0), (norm.bias, 0.0)):
        if parameter is not None:
            parameter.fill_(value)
    head.bias.add_((head.weight.double() @ origin).to(head.bias.dtype))
    head.weight.copy_(head.weight.double() @ inverse)
