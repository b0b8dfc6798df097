"""Sizes in a traced network: which value and dimension a number of its forward is."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from rsquant.packing.ops import Op


@dataclass(frozen=True)
class Dim:
    """`factor` times a dimension of a value: 0 (images), 1 (channels), 2 (height) or 3 (width)."""

    op: Op
    axis: int
    factor: int = 1

    def __repr__(self) -> str:
        return f"{self.factor} * {self.op.name}.shape[{self.axis}]"


def shape(argument: Any, cells: Mapping[fx.Node, Any]) -> Any:
    """An argument of a call with a `Dim` for each node that is a size of a value.

    x.shape, x.size(), items and slices of them, and whole multiples. Other nodes stay.

    Args:
        cells: of the values of the network, by node.
    """
    if isinstance(argument, (list, tuple)):
        return tuple(shape(item, cells) for item in argument)
    if not isinstance(argument, fx.Node):
        return argument
    args: Any = argument.args
    target = argument.target
    if argument.op == "call_method" and target == "size" and args[0] in cells:
        dims = _dims(cells[args[0]].op)
        which = args[1] if len(args) > 1 else argument.kwargs.get("dim")
        return dims if which is None else _item(dims, which, argument)
    if argument.op != "call_function":
        return argument
    if target is getattr and args[0] in cells and args[1] == "shape":
        return _dims(cells[args[0]].op)
    if target is operator.getitem:
        return _item(shape(args[0], cells), args[1], argument)
    if target is operator.mul:
        one, two = (shape(term, cells) for term in args)
        if isinstance(two, Dim):
            one, two = two, one
        if isinstance(one, Dim) and type(two) is int:
            return replace(one, factor=one.factor * two)
    return argument


def _dims(op: Op) -> tuple[Dim, ...]:
    return tuple(Dim(op, axis) for axis in range(4))


def _item(dims: Any, which: Any, otherwise: fx.Node) -> Any:
    if isinstance(dims, tuple) and type(which) is int and -len(dims) <= which < len(dims):
        return dims[which]
    if isinstance(dims, tuple) and isinstance(which, slice):
        return dims[which]
    return otherwise
