"""Synthetic faces as a data set: nothing on disk, each picture is drawn when it is accessed."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from facezoo.checks import whole
from facezoo.synthetic.parameters import LFW_IDENTITIES, sample_conditions, sample_identity
from facezoo.synthetic.render import render_face

DEFAULT_DIFFICULTY = 0.65


class SyntheticFaces(Dataset[tuple[Any, int]]):
    """Map-style data set of procedurally drawn faces, aligned to the ArcFace five-point template (arXiv:1801.07698).

    Item ``i`` is image ``i % images_per_identity`` of identity ``i // images_per_identity``. A picture is a function of
    ``(seed, identity, image, size, difficulty)`` only: it does not depend on the order of access, the number of workers, or the
    number of identities and images. The random numbers are the same everywhere; the last bit of a pixel may differ between
    processors and between versions of NumPy and libjpeg.

    Every identity number is another person. Two data sets have disjoint people if their number ranges are disjoint.
    ``write_synthetic_faces`` trains on ``range(0, 2**40)``, verifies on ``range(2**40, 2**41)``, and draws its LFW-style
    protocol from ``range(2**41, 2**42)``.

    Args:
        num_identities: number of people, the classes.
        images_per_identity: number of pictures per person.
        seed: the population; with another seed the same identity number is another person.
        first_identity: number of the first person; labels always count from 0.
        first_image: number of the first picture of each person; a dev set with other numbers shows the same people in new
            pictures.
        size: height and width in pixels, at least 32.
        difficulty: fraction in [0, 1] that scales pose, light, expression, blur and noise, and how often the face is covered.
            0 is a passport photograph.
        transform: applied to the PIL image (RGB) of an item.

    Raises:
        ValueError: a count or fraction outside its range.
    """

    def __init__(
        self,
        num_identities: int,
        images_per_identity: int,
        *,
        seed: int = 0,
        first_identity: int = 0,
        first_image: int = 0,
        size: int = 112,
        difficulty: float = DEFAULT_DIFFICULTY,
        transform: Callable[[Image.Image], Any] | None = None,
    ) -> None:
        self.num_identities = whole("num_identities", num_identities, 1)
        self.images_per_identity = whole("images_per_identity", images_per_identity, 1)
        self.seed = whole("seed", seed, None)
        self.first_identity = whole("first_identity", first_identity, 0)
        self.first_image = whole("first_image", first_image, 0)
        self.size = whole("size", size, 32)
        self.difficulty = check_difficulty(difficulty)
        self.transform = transform
        if self.first_identity + self.num_identities > LFW_IDENTITIES.stop:
            raise ValueError(
                f"identities {self.first_identity} to {self.first_identity + self.num_identities - 1} asked for; "
                f"numbers end at {LFW_IDENTITIES.stop - 1}"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each person, by label."""
        return tuple(identity_name(self.first_identity + label) for label in range(self.num_identities))

    @property
    def labels(self) -> NDArray[np.int64]:
        """The label of each picture, int64 (N,), without drawing any."""
        return np.repeat(np.arange(self.num_identities), self.images_per_identity)

    def __len__(self) -> int:
        return self.num_identities * self.images_per_identity

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """The picture, after ``transform`` if there is one, and its label, 0 to num_identities − 1."""
        position = operator.index(index)
        if position < 0:
            position += len(self)
        if not 0 <= position < len(self):
            raise IndexError(f"index {index} of a data set with {len(self)} images")
        label, image = divmod(position, self.images_per_identity)
        picture = Image.fromarray(self.render(label, image))
        return (picture if self.transform is None else self.transform(picture)), label

    def render(self, identity: int, image: int) -> NDArray[np.uint8]:
        """Draw one picture; the numbers may exceed the counts of the data set.

        Args:
            identity: counted from ``first_identity``, at least 0.
            image: counted from ``first_image``, at least 0.

        Returns:
            uint8 array of shape (size, size, 3), RGB.
        """
        identity = self.first_identity + whole("identity", identity, 0)
        image = self.first_image + whole("image", image, 0)
        return render_numbered(self.seed, identity, image, size=self.size, difficulty=self.difficulty)

    def __repr__(self) -> str:
        return (
            f"SyntheticFaces({self.num_identities}, {self.images_per_identity}, seed={self.seed}, "
            f"first_identity={self.first_identity}, first_image={self.first_image}, size={self.size}, "
            f"difficulty={self.difficulty})"
        )


def render_numbered(seed: int, identity: int, image: int, *, size: int, difficulty: float) -> NDArray[np.uint8]:
    """Draw picture number ``image`` of person number ``identity``: uint8 (size, size, 3), RGB."""
    return render_face(sample_identity(seed, identity), sample_conditions(seed, identity, image, difficulty), size)


def identity_name(identity: int) -> str:
    """Folder name of a person, with constant width, so that names sort like numbers."""
    return f"id_{identity:05d}"


def check_difficulty(value: float) -> float:
    """``value`` as a plain float in [0, 1], or an error."""
    if not 0.0 <= value <= 1.0:  # also refuses NaN
        raise ValueError(f"difficulty must be a fraction from 0 to 1, got {value!r}")
    return float(value)
