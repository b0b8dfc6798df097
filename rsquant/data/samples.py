"""How a labelled image becomes what a network is given and what it is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from rsquant.data.transforms import evaluation_crop, training_crop, training_side

# S images (3, H, W) uint8, in the order of the sizes, and their label.
Sample = tuple[list[Tensor], Any]


@dataclass(frozen=True)
class Augmentation:
    """What is left to chance in training, see `transforms.training_crop`."""

    area: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    crop: str = "single"
    augment: str = "none"


class Samples(Protocol):
    """What a task makes of an image and of the label that a split has for it.

    The label of a sample is a number or a tensor; a batch stacks those of its samples, so they have
    one shape. What is wrong with an image or its label is a DataError; the loader adds the name.
    """

    def decoded_side(self, sizes: Sequence[int], augmentation: Augmentation) -> int | None:
        """The short side that suffices of images to train on, see `images.decode`; None: whole."""

    def training_sample(
        self,
        image: Tensor,
        label: Any,
        sizes: Sequence[int],
        rng: np.random.Generator,
        augmentation: Augmentation,
    ) -> Sample:
        """One (3, H, W) uint8 image at all sizes, squares, and its label; chance is `rng` alone."""

    def evaluation_sample(self, image: Tensor, label: Any, sizes: Sequence[int]) -> Sample:
        """The same without chance."""


class WholeImageLabels:
    """Samples whose label belongs to the image as a whole: it stays what it is."""

    def decoded_side(self, sizes: Sequence[int], augmentation: Augmentation) -> int | None:
        return training_side(max(sizes), augmentation.area)

    def training_sample(
        self,
        image: Tensor,
        label: Any,
        sizes: Sequence[int],
        rng: np.random.Generator,
        augmentation: Augmentation,
    ) -> Sample:
        images = training_crop(image, sizes, rng, **dataclasses.asdict(augmentation))
        return images, label

    def evaluation_sample(self, image: Tensor, label: Any, sizes: Sequence[int]) -> Sample:
        return [evaluation_crop(image, size) for size in sizes], label


class Unlabelled(WholeImageLabels):
    """Squares of images whose labels nobody reads."""

    def evaluation_sample(self, image: Tensor, label: Any, sizes: Sequence[int]) -> Sample:
        return super().evaluation_sample(image, 0, sizes)


LABELLED: Samples = WholeImageLabels()
UNLABELLED: Samples = Unlabelled()
