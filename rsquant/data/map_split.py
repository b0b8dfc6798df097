"""A split of images with label files, and what is wrong with it before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from rsquant.data.images import UnreadableImage, decode
from rsquant.data.label_maps import Classes, decode_numbers, size_of
from rsquant.data.loader import UNREADABLE_SHARE
from rsquant.data.split import IGNORED
from rsquant.errors import DataError


class MapSplit:
    """Pairs of files: images, and a class for each of their pixels, (H, W) uint8.

    Args:
        images, labels: files, in the same order.
        classes: what the numbers in label files mean.
    """

    def __init__(self, images: Sequence[Path], labels: Sequence[Path], classes: Classes) -> None:
        # Arrays of bytes: strings would be copied into every worker.
        self._images = np.array([str(p).encode(errors="surrogateescape") for p in images])
        self._labels = np.array([str(p).encode(errors="surrogateescape") for p in labels])
        self.classes = classes

    def __len__(self) -> int:
        return len(self._images)

    def name(self, i: int) -> str:
        return _text(self._images[i])

    def label_file(self, i: int) -> str:
        return _text(self._labels[i])

    def image(self, i: int, min_side: int | None = None) -> Tensor:
        return decode(self.name(i), min_side)

    def label(self, i: int) -> Tensor:
        """(H, W) uint8: a class, or `split.IGNORED`.

        Raises:
            UnreadableImage: the file cannot be read. DataError: it has a number without a meaning,
                or no numbers.
        """
        path = self.label_file(i)
        return self.classes.apply(decode_numbers(path), path)

    def part(self, limit: int | None) -> MapSplit:
        """At most `limit` pairs, evenly spaced."""
        if limit is None or limit >= len(self):
            return self
        chosen = (np.arange(limit) * len(self)) // limit
        part = MapSplit((), (), self.classes)
        part._images, part._labels = self._images[chosen], self._labels[chosen]
        return part

    def check(self, smallest: int) -> None:
        """Raise DataError for the first pair that cannot be trained on; all label files are read.

        Also where no pixel has a class, or more label files are unreadable than the loader skips.

        Args:
            smallest: sides that images need at least, in pixels.
        """
        unreadable: list[str] = []
        known = False
        for i in range(len(self)):
            image = size_of(self.name(i))
            if image is not None and min(image) < smallest:
                raise DataError(
                    f"data: {self.name(i)} is {image[1]}x{image[0]} pixels, and the network needs "
                    f"{smallest} each way; leave it out"
                )
            try:
                numbers = self.label(i)
            except UnreadableImage as error:
                unreadable.append(error.reason)
                continue
            known = known or bool((numbers != IGNORED).any())
            label = tuple(numbers.shape)
            if image is not None and label != image:
                raise DataError(
                    f"data: {self.label_file(i)} is {label[1]}x{label[0]} pixels and its image "
                    f"{self.name(i)} {image[1]}x{image[0]}; both must have one size"
                )
        if len(unreadable) > UNREADABLE_SHARE * len(self):
            raise DataError(
                f"data: {len(unreadable)} of {len(self)} label files are unreadable (at most 1 % "
                f"are skipped); the first is {unreadable[0]}; repair or remove them"
            )
        if not known:
            raise DataError(
                f"data: {self.label_file(0)} and all {len(self)} label files of this part have "
                "ignored pixels alone; correct them, or the list of classes"
            )

    def identity(self, root: Path) -> bytes:
        """What tells its pairs apart, wherever the folder is."""
        pairs = zip(self._images, self._labels, strict=True)
        return b"\0".join(
            str(Path(_text(part)).relative_to(root)).encode(errors="surrogateescape")
            for pair in pairs
            for part in pair
        )


def _text(path: bytes) -> str:
    return bytes(path).decode(errors="surrogateescape")
