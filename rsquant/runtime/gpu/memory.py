"""Where the values of a program lie in one piece of device memory.

A value needs its place from the step that writes it to the last that reads it. Values are placed
largest first, each at the lowest offset where no value alive at the same time lies. A residual sum
takes the place of the value it adds to: each element is read, then written, by one program, unless
the step is a convolution of that value, whose windows read elements of other programs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rsquant.kernels.gpu import words
from rsquant.packed.ops.base import Kind
from rsquant.packed.program import Program, Value

# Of 32 bits: vector accesses want 16 bytes, memory transactions 128.
_ALIGN = 32
_TYPES = {"float": torch.float32, "bytes": torch.uint8}


@dataclass(frozen=True)
class Place:
    """A value's shape in memory, (N, H, W, words or channels), and its offset in words."""

    shape: tuple[int, int, int, int]
    kind: Kind
    offset: int


@dataclass(frozen=True)
class MemoryPlan:
    """Places of all values; `words` of 32 bits together."""

    places: tuple[Place, ...]
    words: int

    def views(self, memory: Tensor) -> tuple[Tensor, ...]:
        """The values inside a piece of int32 memory: float32, uint8 of a multiple of four channels,
        or words."""
        found = []
        for place in self.places:
            n, h, w, c = place.shape
            value = memory[place.offset : place.offset + n * h * w * c].view(place.shape)
            found.append(value.view(_TYPES.get(place.kind, torch.int32)))
        return tuple(found)


def plan(program: Program, batch: int) -> MemoryPlan:
    """Place the values of a batch."""
    shapes = [(batch, value.height, value.width, _last(value)) for value in program.values]
    sizes = [-(-(n * h * w * c) // _ALIGN) * _ALIGN for n, h, w, c in shapes]
    first = [0] * len(shapes)
    last = [0] * len(shapes)
    for number, step in enumerate(program.steps):
        for value in step.writes:
            first[value] = last[value] = number
        for value in step.reads:
            last[value] = number
    last[program.logits] = len(program.steps)
    home = _homes(program, last)
    for value, at in enumerate(home):
        first[at], last[at] = min(first[at], first[value]), max(last[at], last[value])
    offsets: dict[int, int] = {}
    for value in sorted({*home}, key=lambda v: -sizes[v]):
        taken = sorted(
            (offsets[other], offsets[other] + sizes[other])
            for other in offsets
            if first[other] <= last[value] and first[value] <= last[other]
        )
        offsets[value] = _gap(taken, sizes[value])
    places = tuple(
        Place(shapes[v], program.values[v].kind, offsets[home[v]]) for v in range(len(shapes))
    )
    return MemoryPlan(places, max(offsets[v] + sizes[v] for v in offsets))


def _last(value: Value) -> int:
    if value.kind == "codes":
        return words.words_of(value.channels, words.field_bits(len(value.basis)))
    if value.kind == "bytes":
        return words.words_of(value.channels, words.BYTE_FIELD)
    return 1 if value.kind == "image" else value.channels


def _homes(program: Program, last: list[int]) -> list[int]:
    """For each value, the one whose place it takes; itself for most."""
    home = list(range(len(program.values)))
    for number, step in enumerate(program.steps):
        if step.in_place is not None:
            read, written = step.in_place
            if last[read] == number:
                home[written] = home[read]
    return home


def _gap(taken: list[tuple[int, int]], size: int) -> int:
    """Lowest offset of a free stretch among sorted (begin, end)."""
    end = 0
    for begin, stop in [*taken, (2**62, 2**62)]:
        if begin - end >= size:
            return end
        end = max(end, stop)
    raise ValueError("unreachable: the last stretch has no end")
