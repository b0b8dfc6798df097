"""Where the values of a program are in one block of memory, on any device.

A value needs its place from the step that writes it to the last one that reads it. Values are
placed largest first, each at the lowest offset where no value alive at the same time is. A residual
sum takes the place of the value it adds to, where nothing else reads that afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rsquant.packed.program import Program

_STEPS = 16


@dataclass(frozen=True)
class Lifetime:
    """A value's size, and when it needs its place.

    Attributes:
        size: in bytes.
        first, last: the step that writes it and the last one that reads it.
        home: an earlier value, last read in the step `first`, whose place it takes; None: its own.
    """

    size: int
    first: int
    last: int
    home: int | None = None


@dataclass(frozen=True)
class MemoryPlan:
    """Offset of each value in bytes, and bytes of all together."""

    offsets: tuple[int, ...]
    total: int


def lifetimes(program: Program, sizes: Sequence[int]) -> list[Lifetime]:
    """When the values of a program need their places.

    Args:
        sizes: of the values, in bytes.
    """
    first = [0] * len(sizes)  # of the image, which is there before the first step
    last = [0] * len(sizes)
    for number, step in enumerate(program.steps, start=1):
        for value in step.writes:
            first[value] = last[value] = number
        for value in step.reads:
            last[value] = number
    last[program.logits] = len(program.steps) + 1
    home: list[int | None] = [None] * len(sizes)
    for number, step in enumerate(program.steps, start=1):
        if step.in_place is not None:
            read, written = step.in_place
            if last[read] == number and sizes[read] == sizes[written]:
                home[written] = read
    return [Lifetime(*of) for of in zip(sizes, first, last, home, strict=True)]


def plan(values: Sequence[Lifetime], align: int) -> MemoryPlan:
    """Place values, so that two that are alive in the same step share no byte.

    Args:
        align: what offsets are multiples of, in bytes.
    Raises:
        ValueError: a `home` that is no earlier value of the size, last read where this is written,
            or that two values have.
    """
    roots = _roots(values)
    places = _merged(values, roots, align)
    # By some steps, the places in use; by step, those whose time begins: few are looked at for each
    # value, however long the program.
    steps = 1 + max((place.last for place in places.values()), default=0)
    used: list[list[int]] = [[] for _ in range(steps // _STEPS + 1)]
    begun: list[list[int]] = [[] for _ in range(steps)]
    offsets, ends = [0] * len(values), [0] * len(values)
    # Small ones fill the gaps.
    for number in sorted(places, key=lambda number: (-places[number].size, number)):
        place = places[number]
        near = used[place.first // _STEPS]
        beside = [n for n in near if places[n].first <= place.first <= places[n].last]
        for step in range(place.first + 1, place.last + 1):
            beside += begun[step]
        beside.sort(key=offsets.__getitem__)
        offset = 0
        for other in beside:
            if offsets[other] - offset >= place.size:
                break
            offset = max(offset, ends[other])
        offsets[number], ends[number] = offset, offset + place.size
        begun[place.first].append(number)
        for some in range(place.first // _STEPS, place.last // _STEPS + 1):
            used[some].append(number)
    return MemoryPlan(tuple(offsets[root] for root in roots), max(ends, default=0))


def _merged(values: Sequence[Lifetime], roots: Sequence[int], align: int) -> dict[int, Lifetime]:
    """Places by their first value: of rounded size, and as long as any value in them needs it."""
    places: dict[int, Lifetime] = {}
    for number, (value, root) in enumerate(zip(values, roots, strict=True)):
        if value.home is None:
            size = -(-value.size // align) * align
            places[number] = Lifetime(size, value.first, value.last)
            continue
        before = values[value.home]
        if (before.size, before.last) != (value.size, value.first):
            raise ValueError(
                f"value {number}: takes the place of value {value.home}, which must have its size "
                f"{value.size} and be read last in step {value.first}, got size {before.size} and "
                f"step {before.last}"
            )
        place = places[root]
        places[root] = Lifetime(place.size, place.first, max(place.last, value.last))
    return places


def _roots(values: Sequence[Lifetime]) -> list[int]:
    """For each value, the first of those whose place it takes; itself for most."""
    roots: list[int] = []
    given: set[int] = set()
    for number, value in enumerate(values):
        if value.home is not None:
            if not 0 <= value.home < number or value.home in given:
                raise ValueError(
                    f"value {number}: takes the place of value {value.home}, which must be an "
                    "earlier one that gives its place to no other"
                )
            given.add(value.home)
        roots.append(number if value.home is None else roots[value.home])
    return roots
