"""Memory that batches are written to, again and again.

A batch of 64 images at five sizes has 21 MB. In new memory each of its pages is a fault where it is
written and, between processes, again where it is copied to shared memory: a third of a loader's
time on a virtual machine. These pages stay, and worker processes write right where the batch is
read.
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Slots:
    """Places for batches of squares. They are made before workers are forked, who share them.

    Args:
        count: how many batches have a place at a time.
        batch: images of the largest.
        sides: of the squares, in pixels.
    Raises:
        OSError, ValueError, OverflowError: there is no such memory.
    """

    def __init__(self, count: int, batch: int, sides: Sequence[int]) -> None:
        self._sides = tuple(sides)
        self._starts = np.cumsum([0, *(batch * 3 * side * side for side in sides)]).tolist()
        self._memory = [mmap.mmap(-1, max(1, self._starts[-1])) for _ in range(count)]
        self._free = list(range(count))

    def take(self) -> int | None:
        """The number of a free slot, which then is not free any more; None: there is none."""
        return self._free.pop() if self._free else None

    def give(self, slot: int) -> None:
        """Free a slot that was not used."""
        self._free.append(slot)

    def write(self, slot: int, n: int) -> list[Tensor]:
        """For each side (n, 3, side, side) uint8 channels_last, to write to."""
        return [_tensor(array) for array in self._arrays(slot, n)]

    def lend(self, slot: int, n: int) -> list[Tensor]:
        """The same to keep: the slot is free again when these tensors and all views of them end."""
        arrays = self._arrays(slot, n)
        held = len(arrays)

        def end() -> None:
            nonlocal held
            held -= 1
            if not held:
                self._free.append(slot)

        for array in arrays:  # a tensor of an array holds it for as long as its memory is used
            weakref.finalize(array, end).atexit = False
        return [_tensor(array) for array in arrays]

    def _arrays(self, slot: int, n: int) -> list[np.ndarray]:
        return [
            np.ndarray((n, side, side, 3), np.uint8, self._memory[slot], start)
            for side, start in zip(self._sides, self._starts, strict=False)
        ]


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2)
