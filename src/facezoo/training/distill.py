"""Distillation: a student learns from a teacher's embeddings of the training images.

The teacher embeds every training image once, without augmentation, original and mirrored. The mean of the two embeddings is
stored in a file beside the packed data, or in the run folder. So the teacher takes no time during the training and is not
needed to resume a run. It may be anything that gives embeddings: a run, registered weights, another library's checkpoint, an
ONNX file, or a file of embeddings.

To add a form of distillation::

    @register_distillation("mine")
    class Mine(Distillation): ...
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facezoo.checks import is_real
from facezoo.registry import Registry
from facezoo.training.settings import short


@dataclass(frozen=True)
class TeacherSpace:
    """Statistics of the teacher's embeddings.

    Attributes:
        centers: class means of the normalized embeddings, normalized, (C, T).
        largest_angle: largest angle between a training image's embedding and its class mean, radians.
    """

    centers: Tensor
    largest_angle: float


class Distillation(nn.Module):
    """A distillation loss on the student's and the teacher's embeddings of a batch.

    The constructor takes ``teacher`` (a :class:`TeacherSpace`) and ``student_dim``; its other arguments are options.
    """

    def forward(self, embeddings: Tensor, labels: Tensor, teacher: Tensor, head: nn.Module) -> Tensor:
        """The loss of a batch.

        Args:
            embeddings: the student's, (N, D), not normalized.
            labels: int64 (N,).
            teacher: the teacher's, (N, T), not normalized.
            head: the student's margin head.

        Returns:
            A scalar, float32.
        """
        raise NotImplementedError


Form = TypeVar("Form", bound=Distillation)

DISTILLATIONS: Registry[Callable[..., Distillation]] = Registry(
    "form of distillation", listed_by="facezoo.training.list_distillations()"
)


def register_distillation(name: str) -> Callable[[type[Form]], type[Form]]:
    """Decorator that registers a subclass of :class:`Distillation` by name."""
    return DISTILLATIONS.register(name)


def list_distillations() -> list[str]:
    """Names of all distillation losses, including those of plugins."""
    return DISTILLATIONS.list()


@register_distillation("cosine")
class CosineDistillation(Distillation):
    """``1 - cos(student, teacher)``, mean over the batch. The lengths of the embeddings do not matter.

    Args:
        teacher: statistics of the teacher.
        student_dim: dimension D of the student's embeddings.
        projection: whether to train a linear map into the teacher's space; None: only if the dimensions differ.
    """

    def __init__(self, teacher: TeacherSpace, student_dim: int, *, projection: bool | None = None) -> None:
        super().__init__()
        self.projection = _projection(student_dim, teacher, projection)

    def forward(self, embeddings: Tensor, labels: Tensor, teacher: Tensor, head: nn.Module) -> Tensor:
        """See :class:`Distillation`."""
        return 1.0 - F.cosine_similarity(self.projection(embeddings).float(), teacher, dim=1).mean()


@register_distillation("l2")
class SquaredDistillation(Distillation):
    """Squared difference, mean over batch and components. The lengths of the embeddings matter.

    Args: as :class:`CosineDistillation`.
    """

    def __init__(self, teacher: TeacherSpace, student_dim: int, *, projection: bool | None = None) -> None:
        super().__init__()
        self.projection = _projection(student_dim, teacher, projection)

    def forward(self, embeddings: Tensor, labels: Tensor, teacher: Tensor, head: nn.Module) -> Tensor:
        """See :class:`Distillation`."""
        return F.mse_loss(self.projection(embeddings).float(), teacher)


@register_distillation("logit")
class LogitDistillation(Distillation):
    """``T² KL(teacher || student)`` of the softmax over identities at temperature T. 1503.02531.

    The teacher's logits are ``scale`` times the cosines between its embedding and its class means, so it needs no head for these
    identities. The student's logits are those of its own head, without margin.

    Args:
        teacher: statistics of the teacher.
        student_dim: not used.
        temperature: T, above 0.
        scale: factor on the teacher's cosines.
    """

    def __init__(
        self, teacher: TeacherSpace, student_dim: int, *, temperature: float = 4.0, scale: float = 32.0
    ) -> None:
        super().__init__()
        self.register_buffer("centers", teacher.centers, persistent=False)
        self.temperature, self.scale = _above_0("temperature", temperature), _above_0("scale", scale)

    def forward(self, embeddings: Tensor, labels: Tensor, teacher: Tensor, head: nn.Module) -> Tensor:
        """See :class:`Distillation`."""
        wanted = self.scale * F.normalize(teacher, dim=1) @ self.centers.t()  # type: ignore[operator]
        given: Tensor = head.logits(embeddings).float()  # type: ignore[operator]
        own, theirs = (F.log_softmax(logits / self.temperature, dim=1) for logits in (given, wanted))
        return self.temperature**2 * F.kl_div(own, theirs, reduction="batchmean", log_target=True)


@register_distillation("margin")
class MarginDistillation(Distillation):
    """ArcFace with the teacher's class centers, and a margin per image that depends on the teacher. After 2003.02586.

    The centers are fixed. The margin falls linearly with the teacher's angle between image and center: ``most`` at angle 0,
    ``least`` at the largest angle of the training images. Images that are easy for the teacher get a larger margin.

    Args:
        teacher: statistics of the teacher.
        student_dim: dimension D of the student's embeddings.
        projection: see :class:`CosineDistillation`.
        scale: factor on the cosines.
        least: margin of the image that is hardest for the teacher, radians.
        most: margin of an image at its center, radians.
    """

    def __init__(
        self,
        teacher: TeacherSpace,
        student_dim: int,
        *,
        projection: bool | None = None,
        scale: float = 32.0,
        least: float = 0.2,
        most: float = 0.5,
    ) -> None:
        super().__init__()
        self.projection = _projection(student_dim, teacher, projection)
        self.register_buffer("centers", teacher.centers, persistent=False)
        self.largest_angle = teacher.largest_angle
        self.scale = _above_0("scale", scale)
        if not (is_real(least) and is_real(most) and 0 <= least <= most < math.pi):
            raise ValueError(f"margins must be 0 <= least <= most < pi radians; got {short((least, most))}")
        self.least, self.most = float(least), float(most)

    def forward(self, embeddings: Tensor, labels: Tensor, teacher: Tensor, head: nn.Module) -> Tensor:
        """See :class:`Distillation`."""
        with torch.autocast(embeddings.device.type, enabled=False):  # angles near 0 and pi need all digits
            return self._loss(embeddings.float(), labels, teacher)

    def _loss(self, embeddings: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
        own: Tensor = self.centers[labels]  # type: ignore[index]
        angle = torch.acos(F.cosine_similarity(teacher, own, dim=1).clamp(-1, 1))
        hard = (angle / max(self.largest_angle, 1e-6)).clamp(0, 1)
        margin = self.most + (self.least - self.most) * hard
        cosines = F.normalize(self.projection(embeddings), dim=1) @ self.centers.t()  # type: ignore[operator]
        target = cosines.gather(1, labels[:, None])[:, 0].clamp(-1 + 1e-7, 1 - 1e-7)
        moved = torch.cos((torch.acos(target) + margin).clamp(max=math.pi))
        return F.cross_entropy(self.scale * cosines.scatter(1, labels[:, None], moved[:, None]), labels)


class Distillations(nn.Module):
    """The weighted sum of the distillation losses of a run.

    Args:
        parts: losses by name.
        weights: weights of the parts, in the same order.
    """

    def __init__(self, parts: Mapping[str, Distillation], weights: Iterable[float]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.weights = tuple(weights)

    def forward(self, embeddings: Tensor, labels: Tensor, teacher: Tensor, head: nn.Module) -> Tensor:
        """The weighted sum; see :class:`Distillation` for the arguments."""
        teacher = teacher.float()
        losses = [
            weight * part(embeddings, labels, teacher, head)
            for weight, part in zip(self.weights, self.parts.values(), strict=True)
        ]
        return torch.stack(losses).sum()


def build_distillations(
    wanted: Mapping[str, Any], teacher: Tensor, labels: Tensor, *, classes: int, student_dim: int, seed: int
) -> Distillations:
    """Build the losses named in the setting ``distill``.

    Args:
        wanted: name -> weight, or a mapping with ``weight`` and the loss's options.
        teacher: the teacher's embeddings of all training images, (N, T).
        labels: their labels, int64 (N,).
        classes: number of identities C.
        student_dim: dimension of the student's embeddings.
        seed: seed of the projections.

    Raises:
        ValueError: an unknown loss or option, or the dimensions differ.
    """
    space = TeacherSpace(*class_means(teacher, labels, classes))
    parts, weights = {}, []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, value in wanted.items():
            weight, options = weight_and_options(name, value)
            form = DISTILLATIONS[name]
            known = [key for key in inspect.signature(form).parameters if key not in ("teacher", "student_dim")]
            for key in options:
                if key not in known:
                    raise ValueError(f"distill[{name!r}] has no option {key[:80]!r}; it has weight, {', '.join(known)}")
            try:
                parts[name] = form(space, student_dim, **options)
            except (ValueError, TypeError) as error:
                raise ValueError(f"distill[{name!r}]: {error}") from None
            weights.append(weight)
    return Distillations(parts, weights)


def weight_and_options(name: str, value: object) -> tuple[float, dict[str, Any]]:
    """Weight and options of an entry of ``distill``. Raises ValueError if the weight is not a number above 0."""
    given = dict(value) if isinstance(value, Mapping) else {"weight": value}
    weight = given.pop("weight", None)
    if not is_real(weight) or weight <= 0:
        raise ValueError(f"distill[{name!r}] needs a weight above 0; got {short(value)}")
    return float(weight), given


def class_means(embeddings: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, float]:
    """Normalized means of the normalized embeddings (C, T), and the largest angle of an embedding to its class mean, radians.

    The mean of a class without images is zero.
    """
    sums = torch.zeros(classes, embeddings.shape[1])
    chunks = range(0, len(embeddings), 65536)
    for start in chunks:  # the table may not fit into memory
        part = slice(start, start + 65536)
        sums.index_add_(0, labels[part], F.normalize(embeddings[part].float(), dim=1))
    means = F.normalize(sums, dim=1)
    least = 1.0
    for start in chunks:
        part = slice(start, start + 65536)
        cosines = (F.normalize(embeddings[part].float(), dim=1) * means[labels[part]]).sum(1)
        least = min(least, float(cosines.min()))
    return means, math.acos(max(-1.0, min(1.0, least)))


def _projection(student_dim: int, teacher: TeacherSpace, wanted: bool | None) -> nn.Module:
    """The map from the student's space to the teacher's. Raises ValueError if it is needed but ``projection`` is False."""
    teacher_dim = teacher.centers.shape[1]
    if wanted is False and student_dim != teacher_dim:
        raise ValueError(
            f"the student's embedding has {student_dim} numbers, the teacher's {teacher_dim}: "
            f"set projection to true, or embedding_dim to {teacher_dim}"
        )
    if wanted or student_dim != teacher_dim:
        return nn.Linear(student_dim, teacher_dim, bias=False)
    return nn.Identity()


def _above_0(name: str, value: float) -> float:
    if not is_real(value) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0; got {short(value)}")
    return float(value)
