"""What is wrong with images and their maps of classes, before anything is trained on them."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from rsquant.data.images import UnreadableImage
from rsquant.data.label_maps import Classes
from rsquant.data.loader import UNREADABLE_SHARE
from rsquant.data.split import IGNORED
from rsquant.errors import DataError


class CheckedMaps(ABC):
    """A split whose labels are maps, (H, W) uint8: a class, or `split.IGNORED`.

    Attributes:
        classes: what the numbers in label files mean.
    """

    classes: Classes

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, i: int) -> str: ...

    @abstractmethod
    def label(self, i: int) -> Tensor: ...

    @abstractmethod
    def label_name(self, i: int) -> str:
        """What to call the map of image i in a message."""

    @abstractmethod
    def size(self, i: int) -> tuple[int, int] | None:
        """(height, width) of image i, without decoding it; None where it cannot be read."""

    def check(self, smallest: int) -> Tensor:
        """Raise DataError for the first image that cannot be trained on; all maps are read, once.

        Also where no pixel has a class, or more maps are unreadable than the loader skips.

        Args:
            smallest: sides that images need at least, in pixels.
        Returns:
            (classes,) int64: the pixels of each class.
        """
        unreadable: list[str] = []
        counts = np.zeros(IGNORED + 1, np.int64)
        for i in range(len(self)):
            image = self.size(i)
            if image is not None and min(image) < smallest:
                raise DataError(
                    f"data: {self.name(i)} is {image[1]}x{image[0]} pixels, and the network needs "
                    f"{smallest} each way; leave it out, or choose another network"
                )
            try:
                numbers = self.label(i)
            except UnreadableImage as error:
                unreadable.append(f"{self.label_name(i)}: {error.reason}")
                continue
            label = tuple(numbers.shape)
            if image is not None and label != image:
                raise DataError(
                    f"data: {self.label_name(i)} is {label[1]}x{label[0]} pixels and its image "
                    f"{self.name(i)} {image[1]}x{image[0]}; both must have one size"
                )
            counts += np.bincount(numbers.numpy().ravel(), minlength=len(counts))
        if len(unreadable) > UNREADABLE_SHARE * len(self):
            raise DataError(
                f"data: {len(unreadable)} of {len(self)} label maps are unreadable (at most "
                f"{100 * UNREADABLE_SHARE:g} % are skipped); the first is {unreadable[0]}; repair "
                "or remove them"
            )
        known = counts[: len(self.classes.names)]
        if not known.any():
            raise DataError(
                f"data: {self.label_name(0)} and all {len(self)} label maps of this part have "
                "ignored pixels alone; correct them, or the list of classes"
            )
        return torch.from_numpy(known)
