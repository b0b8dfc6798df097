"""Shapes of a traced network's values at one size of the images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from rsquant.packing.ops import Pair
from rsquant.packing.tracers import value_of

_SHAPE = "shape"
_EXPANSIONS = ("expand", "expand_as", "broadcast_to")
# Products and sums, which spread sides of 1 themselves.
_SPREADING = ("mul", "imul", "mul_", "multiply", "add", "iadd", "add_", "sub", "isub", "sub_")


@torch.no_grad()
def note_shapes(graph: fx.Graph, body: nn.Module, sides: Pair) -> None:
    """Note at each node the shape of its tensor for images of one size."""
    values: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "output":
            continue
        try:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            value = values[node] = value_of(body, sides, node.op, node.target, args, kwargs)
        except Exception:  # not without numbers: what needs its shape is refused by name
            continue
        if isinstance(value, Tensor):
            node.meta[_SHAPE] = tuple(value.shape)


def shape_of(node: Any) -> tuple[int, ...] | None:
    """The shape of a node's tensor, of BATCH images; None if it is not known."""
    return node.meta.get(_SHAPE) if isinstance(node, fx.Node) else None


def is_expansion(node: fx.Node) -> bool:
    """Whether a node repeats its input along sides of 1, as products and sums do by themselves.

    Its shape is then that of its input.
    """
    if called(node) not in _EXPANSIONS:
        return False
    source, shape = shape_of(node.args[0]), shape_of(node)
    if source is None or shape is None or len(source) != len(shape):
        return False
    if any(called(user) not in _SPREADING for user in node.users):
        return False
    node.meta[_SHAPE] = source
    return True


def called(node: fx.Node) -> str:
    """Name of the function or method that a node calls."""
    return "" if node.op == "call_module" else str(getattr(node.target, "__name__", node.target))
