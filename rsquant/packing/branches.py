"""Branches in a dimension of their own: stacked, weighted by a softmax over them, and added.

    x = torch.stack([a, b], 1);  (x * torch.softmax(gates.view(n, 2, -1, 1, 1), 1)).sum(1)

as selective kernels and split attention have them. What torch keeps in five dimensions are channels
of a map here (`views`), and few branches: each has operations of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from rsquant.nn.tracer import argument
from rsquant.packing.arithmetic import affine, arithmetic_of
from rsquant.packing.axes import (
    Axes,
    Factor,
    channels_of,
    in_order,
    is_of,
    is_whole,
    size_of,
)
from rsquant.packing.call import Call
from rsquant.packing.ops import VIEW, Op
from rsquant.packing.views import axes_of, channels, placed

# Of a softmax or sum over branches.
MAX_BRANCHES = 16
_STACKS = (torch.stack,)
_SOFTMAXES = (torch.softmax, functional.softmax, nn.Softmax, "softmax")
_SUMS = (torch.sum, "sum", torch.mean, "mean")


def branches_of(call: Call) -> Op | tuple[Op, ...] | None:
    """What a call makes of views with branches; None of any other call.

    Raises:
        PackError: it makes something of them that the runtime does not have.
    """
    target = call.node.target if call.module is None else type(call.module)
    if target in _STACKS:
        return _stacked(call)
    given = argument(call.node, 0, "input", None)
    if target is torch.cat and isinstance(given, (list, tuple)) and given:
        return _stacked(call) if all(_is_view(call, node) for node in given) else None
    other = argument(call.node, 1, "other", None)
    if arithmetic_of(call) in ("mul", "add") and (_is_view(call, given) or _is_view(call, other)):
        return _pair(call, given, other, str(arithmetic_of(call)))
    if not _is_view(call, given):
        return None
    if target in _SOFTMAXES:
        return _softmax(call, given)
    if target in _SUMS:
        return _sum(call, given)
    if call.what == "unbind":
        x, axes = _value(call, given)
        place = _dim(call.argument(1, "dim", 0), axes)
        return None if place is None else tuple(_parts(call, x, axes, place))
    if call.what == "getitem":
        return _taken(call, given)
    return None


def _is_view(call: Call, node: Any) -> bool:
    return call.is_value(node) and call.value(node).kind == VIEW


def _value(call: Call, node: Any) -> tuple[Op, Axes]:
    """The map that a view is of, and its axes."""
    op = call.value(node)
    axes = axes_of(op, node)
    if axes is None:
        call.refuse("reads a map of unknown shape")
    return (op.inputs[0] if op.kind == VIEW else op), axes


def _dim(dim: Any, axes: Axes) -> int | None:
    """Which axis a number or a list of one is; None where it is none of channels alone."""
    if isinstance(dim, (list, tuple)) and len(dim) == 1:
        dim = dim[0]
    if type(dim) is not int or not -len(axes) <= dim < len(axes):
        return None
    place = dim % len(axes)
    return place if is_of(axes[place], "c") else None


def _stacked(call: Call) -> Op | None:
    """Values put together along a new axis, or along one in which each has a side of 1."""
    nodes = argument(call.node, 0, "tensors", None)
    dim = argument(call.node, 1, "dim", 0)
    if not isinstance(nodes, (list, tuple)) or not all(map(call.is_value, nodes)):
        return None
    values = [_value(call, node) for node in nodes]
    axes = values[0][1]
    if call.what == "stack":
        if type(dim) is not int or not -len(axes) - 1 <= dim <= len(axes):
            return None
        place = dim % (len(axes) + 1)
        every = [(*each[:place], (), *each[place:]) for _, each in values]
    else:
        every = [each for _, each in values]
        found = _dim(dim, axes)
        if found is None or any(each[found] for each in every):
            call.refuse("puts views together along another dimension than a new one")
        place = found
    ordered = [_ordered(call, x, each) for (x, _), each in zip(values, every, strict=True)]
    first, axes = ordered[0]
    if any(each != axes or x.pixels != first.pixels for x, each in ordered[1:]):
        call.refuse("puts maps of different shapes together")
    parts = tuple(x for x, _ in ordered)
    count = first.channels
    branch = (Factor("c", count, len(parts)),)
    axes = (*axes[:place], branch, *axes[place + 1 :])
    joined = call.step("concat", parts, channels=count * len(parts), pixels=first.pixels)
    return placed(call, joined, axes)


def _ordered(call: Call, x: Op, axes: Axes) -> tuple[Op, Axes]:
    """A value with its channels in the order in which its axes have them."""
    return channels(call, x, channels_of(axes)), in_order(axes)


def _parts(call: Call, x: Op, axes: Axes, place: int) -> list[Op]:
    """What each index of an axis of channels has, without that axis."""
    rest = (*axes[:place], *axes[place + 1 :])
    return [
        placed(call, channels(call, x, order), in_order(rest))
        for order in _orders(call, axes, place)
    ]


def _orders(call: Call, axes: Axes, place: int) -> list[Any]:
    """Channels of each index of an axis, in the order of the other axes."""
    count = size_of(axes[place])
    if count > MAX_BRANCHES:
        call.refuse(
            f"works on {count} branches, at most {MAX_BRANCHES} are known", "use fewer of them"
        )
    order = channels_of((axes[place], *axes[:place], *axes[place + 1 :]))
    return list(order.reshape(count, -1))


def _taken(call: Call, node: Any) -> Op | None:
    """x[:, i]: one index of an axis."""
    x, axes = _value(call, node)
    index: Any = call.node.args[1]
    places: list[Any] = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in places:
        at = places.index(Ellipsis)
        places[at : at + 1] = [slice(None)] * (len(axes) - len(places) + 1)
    numbers = [i for i, place in enumerate(places) if type(place) is int]
    if len(numbers) != 1 or any(p != slice(None) for p in places if type(p) is not int):
        return None
    place = _dim(numbers[0], axes)
    if place is None or not -size_of(axes[place]) <= places[place] < size_of(axes[place]):
        return None
    return _parts(call, x, axes, place)[places[place]]


def _sum(call: Call, node: Any) -> Op | None:
    """Sum or mean over branches; or the mean over all pixels."""
    x, axes = _value(call, node)
    dims, keep = call.argument(1, "dim", None), call.argument(2, "keepdim", False)
    several = dims if isinstance(dims, (list, tuple)) else (dims,)
    if call.what == "mean" and all(type(d) is int and -len(axes) <= d < len(axes) for d in several):
        places = {d % len(axes) for d in several}
        pixels = tuple(f for place in sorted(places) for f in axes[place])
        if is_whole(pixels, "hw"):
            left = [() if i in places else axis for i, axis in enumerate(axes)]
            left = [axis for i, axis in enumerate(left) if keep or i not in places]
            return placed(call, call.step("avgpool", (x,), pixels=(1, 1)), tuple(left))
    place = _dim(dims, axes)
    if place is None or not axes[place]:
        return None
    rest = (*axes[:place], *([()] if keep else []), *axes[place + 1 :])
    parts = [channels(call, x, order) for order in _orders(call, axes, place)]
    total = parts[0]
    for part in parts[1:]:
        total = call.step("add", (total, part), pixels=total.pixels)
    if call.what == "mean":
        total = call.before(affine(call, total, 1 / len(parts), 0.0))
    return placed(call, total, in_order(rest))


def _softmax(call: Call, node: Any) -> Op | None:
    """Over branches: softmax(x)_i = sigmoid(x_i - log sum_{j != i} exp(x_j)).

    The logarithm is a chain: log(exp(a) + exp(b)) = a + softplus(b - a).
    """
    x, axes = _value(call, node)
    place = _dim(call.argument(1, "dim", None), axes)
    if place is None or not axes[place]:
        call.refuse("is a softmax over channels or pixels", "only one over branches packs")
    parts = [channels(call, x, order) for order in _orders(call, axes, place)]

    def less(one: Op, other: Op) -> Op:
        negative = call.before(affine(call, other, -1.0, 0.0))
        return call.step("add", (one, negative), pixels=one.pixels)

    def of(function: str, value: Op, *parameters: float) -> Op:
        fields = {"function": function, "parameters": parameters}
        return call.step("function", (value,), pixels=value.pixels, **fields)

    shares: list[Op] = []
    for index, part in enumerate(parts):
        others = parts[:index] + parts[index + 1 :]
        if len(parts) == 2 and index == 1:
            shares.append(call.before(affine(call, shares[0], -1.0, 1.0)))
            break
        total = others[0]
        for other in others[1:]:
            grown = of("softplus", less(other, total), 1.0)
            total = call.step("add", (total, grown), pixels=total.pixels)
        shares.append(of("sigmoid", less(part, total)))
    joined = call.step("concat", tuple(shares), channels=x.channels, pixels=x.pixels)
    inner = list(in_order((*axes[:place], *axes[place + 1 :])))
    inner.insert(place, (Factor("c", shares[0].channels, len(shares)),))
    return placed(call, joined, tuple(inner))


def _pair(call: Call, node: Any, other_node: Any, kind: str) -> Op | None:
    """Product or sum of two values, of which one may have one pixel."""
    if not call.is_value(node) or not call.is_value(other_node):
        return None
    (one, axes), (other, other_axes) = _value(call, node), _value(call, other_node)
    sizes, other_sizes = (
        [tuple(size_of(tuple(f for f in axis if f.dim == dim)) for dim in "nc") for axis in each]
        for each in (axes, other_axes)
    )
    if sizes != other_sizes or (
        not one.pooled and not other.pooled and _pixels(axes) != _pixels(other_axes)
    ):
        call.refuse("puts maps of different shapes together", "give both as many branches")
    one, axes = _ordered(call, one, axes)
    other, other_axes = _ordered(call, other, other_axes)
    if one.pooled:
        axes = other_axes
    pixels = other.pixels if one.pooled else one.pixels
    if kind == "add" and one.pooled == other.pooled:
        made = call.step("add", (one, other), pixels=pixels)
    else:
        function = "multiply" if kind == "mul" else "add"
        made = call.step("binary", (one, other), pixels=pixels, function=function)
    return placed(call, made, axes)


def _pixels(axes: Axes) -> list[tuple[Factor, ...]]:
    return [tuple(f for f in axis if f.dim in "hw") for axis in axes]
