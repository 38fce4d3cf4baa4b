"""Distillation: a student learns what a teacher says of its training images.

The teacher sees every training image once, without augmentation, as it is and mirrored; the mean of the two embeddings is kept in a
file beside the packed data, or in the run folder. So the teacher costs nothing during the training, it need not be there when a run
goes on, and it may be anything that gives embeddings: a run, registered weights, another library's checkpoint, an ONNX file, or a
file of embeddings.

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
    """What a form knows of the teacher.

    Attributes:
        centers: class means of its normalized embeddings, normalized, (C, T).
        largest_angle: between an embedding and its class mean, over the training images, radians.
    """

    centers: Tensor
    largest_angle: float


class Distillation(nn.Module):
    """One form: a loss on the student's and the teacher's embeddings of a batch.

    A form is made with ``teacher``, what is known of the teacher, and ``student_dim``; its other arguments are its options.
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
    """Decorator that makes a subclass of :class:`Distillation` a form by name."""
    return DISTILLATIONS.register(name)


def list_distillations() -> list[str]:
    """Names of all forms, those of plugins too."""
    return DISTILLATIONS.list()


@register_distillation("cosine")
class CosineDistillation(Distillation):
    """``1 - cos(student, teacher)``, mean over the batch: the same directions, whatever the lengths.

    Args:
        teacher: what is known of the teacher.
        student_dim: dimension D of the student's embeddings.
        projection: a trained linear map into the teacher's space; None: where the dimensions differ.
    """

    def __init__(self, teacher: TeacherSpace, student_dim: int, *, projection: bool | None = None) -> None:
        super().__init__()
        self.projection = _projection(student_dim, teacher, projection)

    def forward(self, embeddings: Tensor, labels: Tensor, teacher: Tensor, head: nn.Module) -> Tensor:
        """See :class:`Distillation`."""
        return 1.0 - F.cosine_similarity(self.projection(embeddings).float(), teacher, dim=1).mean()


@register_distillation("l2")
class SquaredDistillation(Distillation):
    """Squared difference, mean over batch and components: the same vectors, their lengths too.

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

    The teacher's logits are ``scale`` times the cosines of its embedding and its class means, so that a teacher needs no head for
    these identities. The student's are those of its own head, without margin.

    Args:
        teacher: what is known of the teacher.
        student_dim: not needed: logits are compared.
        temperature: T, above 0.
        scale: of the teacher's cosines.
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
    """ArcFace on the teacher's class centers, with a margin for every image that the teacher decides. After 2003.02586.

    Centers are the teacher's and stay. The margin falls linearly with the teacher's angle between image and center: ``most`` where
    they coincide, ``least`` at the largest angle of the training images. What is clear to the teacher has to be clear.

    Args:
        teacher: what is known of the teacher.
        student_dim: dimension D of the student's embeddings.
        projection: as of :class:`CosineDistillation`.
        scale: of the cosines.
        least: margin of the image that the teacher finds hardest, radians.
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
        own: Tensor = self.centers[labels]  # type: ignore[index]
        angle = torch.acos(F.cosine_similarity(teacher, own, dim=1).clamp(-1, 1))
        hard = (angle / max(self.largest_angle, 1e-6)).clamp(0, 1)
        margin = self.most + (self.least - self.most) * hard
        cosines = F.normalize(self.projection(embeddings).float(), dim=1) @ self.centers.t()  # type: ignore[operator]
        target = cosines.gather(1, labels[:, None])[:, 0].clamp(-1 + 1e-7, 1 - 1e-7)
        moved = torch.cos((torch.acos(target) + margin).clamp(max=math.pi))
        return F.cross_entropy(self.scale * cosines.scatter(1, labels[:, None], moved[:, None]), labels)


class Distillations(nn.Module):
    """The forms of a run, each with its weight, as one loss.

    Args:
        parts: by name.
        weights: of the parts, in the same order.
    """

    def __init__(self, parts: Mapping[str, Distillation], weights: Iterable[float]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.weights = tuple(weights)

    def forward(self, embeddings: Tensor, labels: Tensor, teacher: Tensor, head: nn.Module) -> Tensor:
        """The weighted sum; arguments as of :class:`Distillation`."""
        teacher = teacher.float()
        losses = [
            weight * part(embeddings, labels, teacher, head)
            for weight, part in zip(self.weights, self.parts.values(), strict=True)
        ]
        return torch.stack(losses).sum()


def build_distillations(
    wanted: Mapping[str, Any], teacher: Tensor, labels: Tensor, *, classes: int, student_dim: int, seed: int
) -> Distillations:
    """The forms that the setting ``distill`` names.

    Args:
        wanted: name -> weight, or a mapping with ``weight`` and the form's options.
        teacher: the teacher's embeddings of all training images, (N, T).
        labels: their labels, int64 (N,).
        classes: number of identities C.
        student_dim: dimension of the student's embeddings.
        seed: of the projections.

    Raises:
        ValueError: no such form or option, or dimensions that differ.
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
    """Weight and options of an entry of ``distill``. Raises ValueError for a weight that is no number above 0."""
    given = dict(value) if isinstance(value, Mapping) else {"weight": value}
    weight = given.pop("weight", None)
    if not is_real(weight) or weight <= 0:
        raise ValueError(f"distill[{name!r}] needs a weight above 0; got {short(value)}")
    return float(weight), given


def class_means(embeddings: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, float]:
    """Normalized means of the normalized embeddings (C, T), and the largest angle of an embedding to its own, radians.

    A class without images has a mean of zeros.
    """
    sums = torch.zeros(classes, embeddings.shape[1])
    chunks = range(0, len(embeddings), 65536)
    for start in chunks:  # the table may be larger than the memory
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
    """The map from the student's space into the teacher's. Raises ValueError where it is needed and not wanted."""
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
