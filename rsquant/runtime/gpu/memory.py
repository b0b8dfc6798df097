"""The values of a program as tensors in one piece of device memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rsquant.kernels.gpu import words
from rsquant.packed.program import Program, Value
from rsquant.runtime import memory

_WORD = 4
# Bytes: vector accesses want 16, memory transactions 128.
_ALIGN = 128


@dataclass(frozen=True)
class Place:
    """A value's shape in memory, (N, H, W, words or channels), and its offset in words."""

    shape: tuple[int, int, int, int]
    is_float: bool
    offset: int


@dataclass(frozen=True)
class DeviceMemory:
    """Places of all values; `words` of 32 bits together."""

    places: tuple[Place, ...]
    words: int

    def views(self, memory: Tensor) -> tuple[Tensor, ...]:
        """The values inside a piece of int32 memory."""
        found = []
        for place in self.places:
            n, h, w, c = place.shape
            flat = memory[place.offset : place.offset + n * h * w * c]
            flat = flat.view(torch.float32) if place.is_float else flat
            found.append(flat.view(place.shape))
        return tuple(found)


def plan(program: Program, batch: int) -> DeviceMemory:
    """Place the values of a batch."""
    shapes = [(batch, value.height, value.width, _last(value)) for value in program.values]
    sizes = [_WORD * n * h * w * c for n, h, w, c in shapes]
    planned = memory.plan(memory.lifetimes(program, sizes), _ALIGN)
    places = tuple(
        Place(shape, value.kind == "float", offset // _WORD)
        for shape, value, offset in zip(shapes, program.values, planned.offsets, strict=True)
    )
    return DeviceMemory(places, planned.total // _WORD)


def _last(value: Value) -> int:
    if value.kind == "codes":
        return words.words_of(value.channels, words.field_bits(len(value.basis)))
    return 1 if value.kind == "image" else value.channels
