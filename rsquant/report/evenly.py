"""A part of a split, evenly over it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rsquant.data.split import Split


def positions(total: int, count: int) -> list[int]:
    """`count` different positions in 0 .. total - 1, evenly apart; all, if there are no more."""
    count = min(total, count)
    return [i * total // count for i in range(count)]


class Evenly:
    """So many images of a split, evenly over it: over the classes too, as splits are by class."""

    def __init__(self, split: Split, count: int) -> None:
        self._split, self.positions = split, positions(len(split), count)

    def __len__(self) -> int:
        return len(self.positions)

    def label(self, i: int) -> Any:
        return self._split.label(self.positions[i])

    def name(self, i: int) -> str:
        return self._split.name(self.positions[i])

    def image(self, i: int, min_side: int | None = None) -> Tensor:
        return self._split.image(self.positions[i], min_side)
