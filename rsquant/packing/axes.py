"""Which numbers of a map the places of a viewed tensor hold, as torch's views move them.

A view cuts dimensions into factors, exchanges them and puts them together again. Seen as

    (N, C, H, W) -> (N, 2, C / 2, H, W):  (n), (c: 2 of stride C / 2), (c: C / 2), (h), (w)

it stays a list of factors for each axis, whatever comes after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Factor:
    """index // stride % size of one dimension of a map.

    Attributes:
        dim: "n" (images), "c" (channels), "h" or "w".
    """

    dim: str
    stride: int
    size: int


Axis = tuple[Factor, ...]
Axes = tuple[Axis, ...]


def axes_of_map(batch: int, channels: int, sides: Sequence[int], rank: int) -> Axes:
    """Axes of a map (N, C, H, W), or of one pixel: (N, C) and sides of 1 up to a rank.

    Args:
        sides: height and width; none of one pixel.
    """
    pixels = tuple((Factor(dim, 1, side),) for dim, side in zip("hw", sides, strict=False))
    channel = (Factor("c", 1, channels),) if channels > 1 else ()
    first = ((Factor("n", 1, batch),), channel, *pixels)
    return first + ((),) * (rank - len(first))


def size_of(axis: Axis) -> int:
    return prod(factor.size for factor in axis)


def reshaped(axes: Axes, shape: Sequence[int], fixed: Sequence[bool]) -> Axes | None:
    """The axes seen in another shape; None where that is no view of whole factors.

    Args:
        fixed: of each side of `shape`: it is the same for images of every size. Height and width
            may be cut only so that all parts but the outermost are.
    """
    rest = [factor for axis in axes for factor in axis]
    known = list(rest)
    result: list[list[Factor]] = []
    for side in shape:
        axis: list[Factor] = []
        if side == 1 and rest and rest[0].size == 1:
            axis.append(rest.pop(0))
        while side > 1 and rest:
            first = rest.pop(0)
            if side % first.size == 0:
                axis.append(first)
                side //= first.size
            elif first.size % side == 0:
                inner = first.size // side
                axis.append(Factor(first.dim, first.stride * inner, side))
                rest.insert(0, Factor(first.dim, first.stride, inner))
                side = 1
            else:
                return None
        if side > 1:
            return None
        result.append(axis)
    if any(factor.size > 1 for factor in rest) or not result:
        return None
    result[-1] += rest
    for place, axis in enumerate(result):
        for factor in axis:
            cut = factor.dim in "hw" and factor not in known and not _is_outer(factor, known)
            if cut and not (len(axis) == 1 and fixed[place]):
                return None
    return tuple(tuple(axis) for axis in result)


def _is_outer(factor: Factor, known: Sequence[Factor]) -> bool:
    """Whether it is the outermost part of what was one factor."""
    end = factor.stride * factor.size
    return any(f.dim == factor.dim and f.stride * f.size == end for f in known)


def is_whole(axis: Axis, dims: str) -> bool:
    """Whether an axis is these dimensions, each uncut, in this order; "" is a side of 1.

    Channels that were cut and put together again are uncut.
    """
    merged: list[Factor] = []
    for factor in axis:
        last = merged[-1] if merged else None
        if last and last.dim == factor.dim and last.stride == factor.stride * factor.size:
            merged[-1] = Factor(factor.dim, factor.stride, last.size * factor.size)
        else:
            merged.append(factor)
    return "".join(f.dim for f in merged) == dims and all(f.stride == 1 for f in merged)


def is_of(axis: Axis, dim: str) -> bool:
    """Whether an axis has factors of one dimension only, or none."""
    return all(factor.dim == dim for factor in axis)


def channels_of(axes: Sequence[Axis]) -> NDArray[np.int64]:
    """The channels of the map in the order in which the axes have them; (channels,)."""
    order = np.zeros(1, np.int64)
    for axis in axes:
        for factor in axis:
            if factor.dim == "c":
                steps = np.arange(factor.size) * factor.stride
                order = (order[:, None] + steps).reshape(-1)
    return order


def in_order(axes: Axes) -> Axes:
    """The same axes of a map whose channels are in the order in which these axes have them."""
    stride = prod(f.size for axis in axes for f in axis if f.dim == "c")
    result = []
    for axis in axes:
        new = []
        for factor in axis:
            if factor.dim == "c":
                stride //= factor.size
                factor = Factor("c", stride, factor.size)
            new.append(factor)
        result.append(tuple(new))
    return tuple(result)
