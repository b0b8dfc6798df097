"""A split of images with label files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from rsquant.data.checked_maps import CheckedMaps
from rsquant.data.images import decode
from rsquant.data.label_maps import Classes, decode_numbers, size_of


class MapSplit(CheckedMaps):
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

    def label_name(self, i: int) -> str:
        return _text(self._labels[i])

    def size(self, i: int) -> tuple[int, int] | None:
        return size_of(self.name(i))

    def image(self, i: int, min_side: int | None = None) -> Tensor:
        return decode(self.name(i), min_side)

    def label(self, i: int) -> Tensor:
        """(H, W) uint8: a class, or `split.IGNORED`.

        Raises:
            UnreadableImage: the file cannot be read. DataError: it has a number without a meaning,
                or no numbers.
        """
        path = self.label_name(i)
        return self.classes.apply(decode_numbers(path), path)

    def part(self, limit: int | None) -> MapSplit:
        """At most `limit` pairs, evenly spaced."""
        if limit is None or limit >= len(self):
            return self
        chosen = (np.arange(limit) * len(self)) // limit
        part = MapSplit((), (), self.classes)
        part._images, part._labels = self._images[chosen], self._labels[chosen]
        return part

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
