"""From a decoded image to the network's input, with and without augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from facezoo.data.augment import AUGMENT_RECIPES, AugmentConfig
from facezoo.data.augment_batches import Normalization, normalized_batch
from facezoo.data.augment_images import augment_image
from facezoo.data.augment_plan import Floats, Plan, columns_of, plan, uniforms
from facezoo.data.image import Pixels
from facezoo.data.sampling import epoch_now
from facezoo.preprocessing import Preprocessing


def train_transform(
    preprocessing: Preprocessing,
    augment: AugmentConfig = AUGMENT_RECIPES["standard"],
    late: AugmentConfig | None = None,
    late_from: int = 0,
) -> TrainTransform:
    """The transform for training: crop if the network needs it, resize if the size differs, augment, normalize.

    Called by itself, it draws from torch's global generator. :class:`SeededDataset` gives it a batch at a time, with the random
    numbers that packed faces get for the same seed, epoch and index.

    Args:
        preprocessing: the network's, from ``model.preprocessing``.
        augment: the augmentations: ``augment_recipe("strong")``, or your own configuration.
        late: the augmentations from epoch ``late_from`` on; None for the same. The epoch is that of :class:`SeededDataset`, else 0.
        late_from: the first epoch with ``late``; epochs begin at 0.

    Returns:
        A transform from a PIL RGB image, a uint8 array (H, W, 3) or a uint8 tensor (3, H, W), in RGB order, to a float32 tensor
        (3, *img_size), normalized and in ``preprocessing.channel_order``.
    """
    return TrainTransform(preprocessing, augment, late, late_from)


def eval_transform(preprocessing: Preprocessing) -> EvalTransform:
    """The transform for evaluation: crop if the network needs it, resize if the size differs, normalize.

    Inputs and outputs are those of :func:`train_transform`.
    """
    return EvalTransform(preprocessing)


class EvalTransform(nn.Module):
    """The transform of :func:`eval_transform`.

    Args:
        preprocessing: the network's.

    Attributes:
        preprocessing: as given.
        takes_pixels: data sets may give it uint8 arrays (H, W, 3) instead of PIL images.
    """

    takes_pixels = True

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        _check_channels(preprocessing)
        self.preprocessing = preprocessing
        self.sized = v2.Compose(_sized(preprocessing))
        self.to_input = ToInput(preprocessing)
        self._crops = preprocessing.crop is not None

    def forward(self, image: Any) -> Tensor:
        """Crop, resize and normalize one image."""
        result: Tensor = self.to_input(self.fitted(image))
        return result

    def fitted(self, image: Any) -> Any:
        """The image in the network's input size, still 8-bit."""
        if isinstance(image, np.ndarray):
            if image.shape[:2] == self.preprocessing.img_size and not self._crops:
                return image
            image = Image.fromarray(image)
        return self.sized(image)

    @property
    def takes_batches(self) -> bool:
        """Whether :meth:`draw`, :meth:`fitted` and :meth:`batch` do the same as calling it; not if a subclass changes that."""
        return type(self).forward in (EvalTransform.forward, TrainTransform.forward)

    def draw(self, seed: int, epoch: int, positions: NDArray[np.int64]) -> Plan:
        """What is done to images in an epoch, determined by (seed, epoch, position) for each of them.

        Args:
            seed: of the run.
            epoch: from 0.
            positions: which image of the data set each one is, (N,).
        """
        return Plan(self.preprocessing.img_size, (0, 0, 0))

    def batch(self, images: Sequence[Any], drawn: Plan, out: Tensor | None = None) -> Tensor:
        """Augment and normalize images together. The result of an image does not depend on the others.

        Args:
            images: N images in the network's input size, see :meth:`fitted`.
            drawn: a plan for N images.
            out: where the result goes; None makes a tensor.

        Returns:
            float32 (N, 3, H, W), contiguous.
        """
        pixels = [_pixels(image) for image in images]
        if drawn.has_policy:  # on a CPU Pillow is faster than torch at these operations
            pixels = [augment_image(one, drawn, index) for index, one in enumerate(pixels)]
            drawn = Plan(drawn.size, drawn.fill, erase=drawn.erase)
        return normalized_batch(pixels, drawn, self.to_input.normalization, out)


class TrainTransform(EvalTransform):
    """The transform of :func:`train_transform`.

    Args:
        preprocessing: the network's.
        augment: the augmentations.
        late: see :func:`train_transform`.
        late_from: likewise.

    Attributes:
        augment: as given.
        late: as given.
        late_from: as given.
        fill: 8-bit R, G, B of pixels outside the image (rotation, shift, perspective): the mean color, 0 after normalization.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        augment: AugmentConfig,
        late: AugmentConfig | None = None,
        late_from: int = 0,
    ) -> None:
        super().__init__(preprocessing)
        self.augment, self.late, self.late_from = augment, late, late_from
        mean = preprocessing.mean if preprocessing.channel_order == "rgb" else preprocessing.mean[::-1]
        self.fill = tuple(round(255 * value) for value in mean)

    def augment_in(self, epoch: int) -> AugmentConfig:
        """The augmentations of an epoch."""
        return self.augment if self.late is None or epoch < self.late_from else self.late

    def forward(self, image: Any) -> Tensor:
        """Augment and normalize one image, with random numbers from torch's global generator."""
        augment = self.augment_in(epoch_now())
        numbers = torch.rand(1, columns_of(augment), dtype=torch.float64).numpy()
        return self.batch([self.fitted(image)], self._plan(augment, numbers))[0]

    def draw(self, seed: int, epoch: int, positions: NDArray[np.int64]) -> Plan:  # noqa: D102
        augment = self.augment_in(epoch)
        return self._plan(augment, uniforms(seed, epoch, positions, columns_of(augment)))

    def _plan(self, augment: AugmentConfig, numbers: Floats) -> Plan:
        return plan(augment, numbers, self.preprocessing.img_size, self.fill)

    def extra_repr(self) -> str:  # noqa: D102
        late = "" if self.late is None else f", from epoch {self.late_from} on {self.late}"
        return f"augment={self.augment}{late}"


def _pixels(image: Any) -> Pixels:
    """A PIL image or a tensor (3, H, W) as an array (H, W, 3)."""
    if isinstance(image, Tensor):
        _check_pixels(image)
        return np.ascontiguousarray(image.as_subclass(Tensor).permute(1, 2, 0).numpy())
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.shape[2:] != (3,):  # its error is that of a tensor
        _check_pixels(torch.from_numpy(np.atleast_3d(pixels).copy()).permute(2, 0, 1))
    return pixels


def _sized(preprocessing: Preprocessing) -> list[nn.Module]:
    """Crop and resize an image of any size to the network's input size."""
    resize = ResizeIfNeeded(preprocessing.img_size)
    return [resize] if preprocessing.crop is None else [FaceCrop(preprocessing), resize]


class FaceCrop(nn.Module):
    """Cut out the part of an aligned face that the network sees, see :class:`Preprocessing`.

    Args:
        preprocessing: the network's; its ``crop`` is the part to cut out.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self._preprocessing = preprocessing

    def forward(self, image: Any) -> Any:
        """Crop a PIL image or a tensor (C, H, W)."""
        height, width = F.get_size(image)
        box = self._preprocessing.crop_of((height, width))
        if box is None:
            return image
        top, left, bottom, right = box
        return F.crop(image, top, left, bottom - top, right - left)

    def extra_repr(self) -> str:  # noqa: D102
        return f"crop={self._preprocessing.crop}"


class ResizeIfNeeded(nn.Module):
    """Resize to an exact size (antialiased, bilinear; the aspect ratio may change). Images of that size are left unchanged.

    Args:
        size: height and width in pixels.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = (int(size[0]), int(size[1]))

    def forward(self, image: Any) -> Any:
        """Resize a PIL image or a tensor (C, H, W)."""
        if tuple(F.get_size(image)) == self.size:
            return image
        return F.resize(image, list(self.size), interpolation=v2.InterpolationMode.BILINEAR, antialias=True)

    def extra_repr(self) -> str:  # noqa: D102
        return f"size={self.size}"


class ToInput(nn.Module):
    """Convert 8-bit RGB to normalized float32 in the network's channel order: ``(x / 255 - mean) / std``.

    One multiplication and one addition instead of torchvision's ToImage, ToDtype and Normalize, which take three times as long.

    Args:
        preprocessing: mean, std and channel order.

    Attributes:
        normalization: the same for whole batches.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        _check_channels(preprocessing)
        mean = torch.tensor(preprocessing.mean, dtype=torch.float64).view(3, 1, 1)
        std = torch.tensor(preprocessing.std, dtype=torch.float64).view(3, 1, 1)
        scale, shift = (1 / (255 * std)).float(), (-mean / std).float()
        self.normalization = Normalization(scale, shift, reverse=preprocessing.channel_order == "bgr")
        self._preprocessing = preprocessing

    def forward(self, image: Any) -> Tensor:
        """Normalize a PIL RGB image, a uint8 array (H, W, 3) or a uint8 tensor (3, H, W).

        Raises:
            TypeError: the image is not 8-bit.
        ValueError: a wrong shape.
        """
        if isinstance(image, np.ndarray):
            pixels = torch.from_numpy(image if image.flags.writeable else image.copy()).movedim(-1, 0)
        else:
            pixels = image.as_subclass(Tensor) if isinstance(image, Tensor) else F.pil_to_tensor(image)
        _check_pixels(pixels)
        own = self.normalization
        if own.reverse:
            pixels = pixels.flip(0)
        return pixels.to(torch.float32, memory_format=torch.contiguous_format).mul_(own.scale).add_(own.shift)

    def extra_repr(self) -> str:  # noqa: D102
        chosen = self._preprocessing
        return f"mean={chosen.mean}, std={chosen.std}, channel_order={chosen.channel_order!r}"


def _check_pixels(pixels: Tensor) -> None:
    if pixels.dtype != torch.uint8:
        raise TypeError(f"expected an 8-bit image (PIL, or a uint8 tensor), got a tensor of {pixels.dtype}")
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise ValueError(f"expected an RGB image, (3, H, W) as a tensor, got shape {tuple(pixels.shape)}")


def _check_channels(preprocessing: Preprocessing) -> None:
    if len(preprocessing.mean) != 3:
        raise ValueError(
            f"images have 3 channels, but the preprocessing has {len(preprocessing.mean)} (mean {preprocessing.mean}); "
            "use a network with in_chans=3, or write a transform of your own"
        )
