"""What torch calls a view: the same numbers in another shape.

    x.view(n, groups, -1, h, w).transpose(1, 2).reshape(n, -1, h, w)      channels, shuffled
    torch.flatten(x, 1)                                                   one pixel, or `flatten`
    x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)          blocks of pixels

Each call gives a view of a map (`axes`), until its axes are images, channels, height and width
again; then there is an operation for it, or nothing to do. Views of other shapes are for
`branches`; everything else refuses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from rsquant.nn.tracer import argument
from rsquant.packing.axes import (
    Axes,
    Factor,
    axes_of_map,
    channels_of,
    is_of,
    is_whole,
    reshaped,
    size_of,
)
from rsquant.packing.call import Call
from rsquant.packing.ops import BLOCKS, VIEW, Op
from rsquant.packing.shapes import shape_of
from rsquant.packing.tracers import BATCH

_RESHAPES = (
    *("view", "view_as", "reshape", "reshape_as", "flatten", "unflatten"),
    *("unsqueeze", "squeeze", "ravel", "Flatten", "Unflatten"),
)
_EXCHANGES = ("transpose", "swapaxes", "swapdims")
_UNSHUFFLES = (nn.PixelUnshuffle, functional.pixel_unshuffle)
# Ranges of channels that an order of no other form may be put together from.
_MAX_RANGES = 64


def view_of(call: Call) -> Op | None:
    """What a call gives that only moves the numbers of its first argument; None of any other.

    That argument's own operation where it gives the same numbers in the same places.

    Raises:
        PackError: it flattens a map whose size is not fixed, say.
    """
    source = _first(call)
    if not call.is_value(source):
        return None
    x = call.value(source)
    axes = axes_of(x, source)
    if axes is None:
        return None
    if call.node.target in _UNSHUFFLES or type(call.module) in _UNSHUFFLES:
        moved = _unshuffled(axes, call.argument(1, "downscale_factor"))
    elif call.what in _RESHAPES:
        shape = shape_of(call.node)
        moved = None if shape is None else reshaped(axes, shape, _fixed(call, len(shape)))
    elif call.what in _EXCHANGES or call.what == "permute":
        moved = _permuted(call, axes)
    elif call.what == "getitem":
        moved = _indexed(call, axes)
    else:
        return None
    return None if moved is None else placed(call, x, moved)


def axes_of(op: Op, node: Any) -> Axes | None:
    """The axes of a value, whose node says what shape it has; None where they are not known."""
    if op.kind == VIEW:
        axes: Axes = op.fields["axes"]
        return axes
    shape = shape_of(node)
    if shape is None or shape[:2] != (BATCH, op.channels):
        return None
    if op.pooled:
        return axes_of_map(BATCH, op.channels, (), len(shape)) if set(shape[2:]) <= {1} else None
    return axes_of_map(BATCH, op.channels, shape[2:], 4) if len(shape) == 4 else None


def placed(call: Call, x: Op, axes: Axes) -> Op:
    """An operation that moves the numbers of a value so, or a view of it where there is none."""
    if x.kind == VIEW:
        x = x.inputs[0]
    images, *rest = axes
    if not is_whole(images, "n"):
        return _view(call, x, axes)
    if (
        rest
        and is_of(rest[0], "c")
        and (
            not any(rest[1:])
            if x.pooled
            else len(rest) == 3 and is_whole(rest[1], "h") and is_whole(rest[2], "w")
        )
    ):
        return channels(call, x, channels_of(rest[:1]), call.op)
    if len(rest) == 1 and any(f.dim in "hw" for f in rest[0]):
        return _flattened(call, x, is_whole(rest[0], "chw" if x.channels > 1 else "hw"))
    if len(rest) == 3 and (blocks := _blocks(call, x, rest)) is not None:
        return blocks
    return _view(call, x, axes)


def channels(call: Call, x: Op, order: NDArray[np.int64], make: Any = None) -> Op:
    """Channels of a value in an order; itself where that is its own.

    Args:
        order: numbers of channels.
        make: what makes the operation: `Call.op` of the call's result, else a step before it.
    Raises:
        PackError: the order is none that shuffles or ranges of channels give.
    """
    make = make or call.step
    if np.array_equal(order, np.arange(x.channels)):
        return x
    if x.kind == "concat":  # one of its inputs, or several
        firsts = np.cumsum([0, *(part.channels for part in x.inputs)])
        for part, first in zip(x.inputs, firsts, strict=False):
            if np.array_equal(order, np.arange(first, first + part.channels)):
                return part
    first, count = int(order[0]), len(order)
    for groups in range(1, count + 1):
        if count % groups == 0 and np.array_equal(
            order, first + np.arange(count).reshape(groups, -1).T.reshape(-1)
        ):
            return _channels(make, x, first, count, groups)
    starts = [0, *(np.flatnonzero(np.diff(order) != 1) + 1).tolist()]
    if len(starts) > _MAX_RANGES:
        call.refuse(f"permutes {x.channels} channels in no way the runtime has", "shuffle groups")
    parts = tuple(
        _channels(call.step, x, int(order[start]), end - start, 1)
        for start, end in zip(starts, [*starts[1:], count], strict=True)
    )
    made: Op = make("concat", parts, channels=count, pixels=x.pixels)
    return made


def _channels(make: Any, x: Op, first: int, count: int, groups: int) -> Op:
    fields = {"first": first, "count": count, "groups": groups}
    made: Op = make("channels", (x,), channels=count, pixels=x.pixels, **fields)
    return made


def _view(call: Call, x: Op, axes: Axes) -> Op:
    return call.op(VIEW, (x,), pixels=x.pixels, axes=axes)


def shown(op: Op) -> str:
    """The axes of a view, for messages: what does not depend on the image in numbers."""
    sides = ("N" if axis and axis[0].dim == "n" else _side(axis) for axis in op.fields["axes"])
    return "x".join(sides)


def _side(axis: tuple[Factor, ...]) -> str:
    pixels = "".join(f.dim.upper() for f in axis if f.dim in "hw")
    size = prod(f.size for f in axis if f.dim == "c")
    return pixels if pixels and size == 1 else f"{size}{pixels}"


def _flattened(call: Call, x: Op, in_torchs_order: bool) -> Op:
    """A map as one pixel."""
    if x.pixels is None:
        call.refuse(
            "flattens a map of several pixels",
            "average the whole map first, or pool it to a fixed number of pixels",
        )
    if not in_torchs_order:
        call.refuse("flattens a map with its channels last", "flatten it channel by channel")
    height, width = x.pixels
    op = call.op("flatten", (x,), channels=x.channels * height * width, pixels=(1, 1))
    op.fields = {"pixels": x.pixels}
    return op


def _blocks(call: Call, x: Op, rest: Sequence[tuple[Factor, ...]]) -> Op | None:
    """Pixels of square blocks as channels: how many, and which channel and pixel each is."""
    channel, rows, columns = rest
    inner = {f.dim: f.size for f in channel if f.dim in "hw" and f.stride == 1}
    side = inner.get("h", 0)
    whole = len(rows) == len(columns) == 1 and rows[0].dim == "h" and columns[0].dim == "w"
    if not whole or set(inner.values()) != {side} or len(channel) - len(inner) > 1:
        return None
    if (rows[0].stride, columns[0].stride) != (side, side) or not is_of(
        tuple(f for f in channel if f.dim not in "hw"), "c"
    ):
        return None
    taps: list[tuple[int, ...]] = [(0, 0, 0)]
    for factor in channel:
        place = "chw".index(factor.dim)
        taps = [
            (*tap[:place], step * factor.stride, *tap[place + 1 :])
            for tap in taps
            for step in range(factor.size)
        ]
    return call.op(BLOCKS, (x,), channels=len(taps), side=side, taps=tuple(taps))


def _unshuffled(axes: Axes, side: Any) -> Axes | None:
    if len(axes) != 4 or type(side) is not int or not all(map(is_whole, axes, "nchw")):
        return None
    images, channel, *pixels = axes
    if any(size_of(axis) % side for axis in pixels):
        return None
    inner = tuple(Factor(f.dim, 1, side) for (f,) in pixels)
    outer = ((Factor(f.dim, side, f.size // side),) for (f,) in pixels)
    return (images, (*channel, *inner), *outer)


def _fixed(call: Call, rank: int) -> list[bool]:
    """Which sides of a view's shape are the same for images of every size."""
    given: list[Any] = list(call.node.args[1:]) if call.module is None else []
    if call.what == "unflatten" and len(given) == 2:
        dim, sizes = given
        given = [None] * (dim % (rank - len(sizes) + 1)) + list(sizes)
    elif len(given) == 1 and isinstance(given[0], (list, tuple)):
        given = list(given[0])
    given += [None] * (rank - len(given))
    return [type(side) is int and side > 0 and not call.sized for side in given]


def _permuted(call: Call, axes: Axes) -> Axes | None:
    dims: Any = call.node.args[1:]
    if len(dims) == 1 and isinstance(dims[0], (list, tuple)):
        dims = tuple(dims[0])
    if not dims:
        names = ("dims",) if call.what == "permute" else ("dim0", "dim1")
        dims = tuple(call.node.kwargs.get(name) for name in names)
        dims = dims[0] if call.what == "permute" else dims
    if not isinstance(dims, (list, tuple)) or not all(type(d) is int for d in dims):
        return None
    order = [d % len(axes) for d in dims]
    if call.what != "permute":
        one, other = order
        order = list(range(len(axes)))
        order[one], order[other] = other, one
    return tuple(axes[d] for d in order)


def _indexed(call: Call, axes: Axes) -> Axes | None:
    """x[:, :, None] and x[..., 0]: sides of 1 added and dropped."""
    index = call.node.args[1]
    places = list(index) if isinstance(index, tuple) else [index]
    if any(
        p is not None and p is not Ellipsis and p != slice(None) and p not in (0, -1)
        for p in places
    ):
        return None
    if places.count(Ellipsis) == 0:
        places.append(Ellipsis)
    taken = sum(p is not None and p is not Ellipsis for p in places)
    at = places.index(Ellipsis)
    places[at : at + 1] = [slice(None)] * (len(axes) - taken)
    rest, result = list(axes), []
    for place in places:
        axis = () if place is None else rest.pop(0)
        if place is None or place == slice(None):
            result.append(axis)
        elif axis:  # one of several, or of the pixels that are one at this size only
            return None
    return tuple(result)


def _first(call: Call) -> Any:
    """The node that a call reads first."""
    if call.module is not None:
        return call.node.args[0] if call.node.args else None
    return argument(call.node, 0, "input", None)
