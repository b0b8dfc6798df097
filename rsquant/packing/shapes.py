"""Shapes of a traced network's values at one size, and the nodes that are constants.

What torch calls a view (reshape, unsqueeze, x[:, :, None, None]) is nothing to values of one pixel,
as long as batch and channels stay the first two dimensions: shapes say that of every spelling.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from rsquant.packing.ops import Op, Pair
from rsquant.packing.tracers import BATCH, value_of

_SHAPE = "shape"
_VIEWS = (
    *("view", "view_as", "reshape", "reshape_as", "flatten", "unflatten"),
    *("unsqueeze", "squeeze", "getitem", "contiguous"),
)
_EXPANSIONS = ("expand", "expand_as", "broadcast_to")
_VIEW_MODULES = (nn.Flatten, nn.Unflatten)


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


def is_view(node: fx.Node, module: nn.Module | None, source: Op) -> bool:
    """Whether a node gives a value of one pixel its own numbers, channels still second.

    Args:
        module: that it calls, or None.
        source: what it reads.
    """
    shape = shape_of(node)
    if not source.pooled or shape is None:
        return False
    if not isinstance(module, _VIEW_MODULES) and _called(node) not in _VIEWS:
        return False
    if node.target is operator.getitem and not _whole(node.args[1]):
        return False
    return shape[:2] == (BATCH, source.channels) and set(shape[2:]) <= {1}


def is_expansion(node: fx.Node) -> bool:
    """Whether a node repeats its input along sides of 1, as products and sums do by themselves.

    Its shape is then that of its input.
    """
    if _called(node) not in _EXPANSIONS:
        return False
    source, shape = shape_of(node.args[0]), shape_of(node)
    if source is None or shape is None or len(source) != len(shape):
        return False
    if any(_called(user) not in _SPREADING for user in node.users):
        return False
    node.meta[_SHAPE] = source
    return True


# Products and sums, which spread sides of 1 themselves.
_SPREADING = ("mul", "imul", "mul_", "multiply", "add", "iadd", "add_", "sub", "isub", "sub_")


_IN_PLACE = ("iadd", "isub", "imul", "itruediv", "ipow")


def _called(node: fx.Node) -> str:
    """Name of the function or method that a node calls."""
    return "" if node.op == "call_module" else str(getattr(node.target, "__name__", node.target))


def _whole(index: Any) -> bool:
    """Whether an index takes all there is, and adds or drops sides of 1."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(
        part is None or part is Ellipsis or part == slice(None) or part in (0, -1) for part in parts
    )


class Constants:
    """Nodes whose value does not depend on the image: parameters, and what is computed of them."""

    def __init__(self, body: nn.Module) -> None:
        self.body = body
        self._values: dict[fx.Node, Any] = {}

    @torch.no_grad()
    def note(self, node: fx.Node) -> bool:
        """Whether a node is one; then it is known from now on."""
        if node.op == "get_attr":
            value: Any = self.body
            for name in str(node.target).split("."):
                value = getattr(value, name)
            self._values[node] = value
            return True
        read = node.all_input_nodes
        if node.op not in ("call_function", "call_method") or not read:
            return False
        if _called(node).endswith("_") or _called(node) in _IN_PLACE:
            return False  # the network keeps its parameters
        if any(source not in self._values for source in read):
            return False
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._values.__getitem__)
        try:
            if node.op == "call_function":
                assert callable(node.target)
                self._values[node] = node.target(*args, **kwargs)
            else:
                self._values[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        except Exception:  # of tensors without numbers, say: what uses it is refused by name
            return False
        return True

    def of(self, argument: Any) -> Any:
        """The value of an argument that is a constant, numbers as they are; None of any other."""
        if isinstance(argument, fx.Node):
            return self._values.get(argument)
        return argument if isinstance(argument, (int, float, Tensor)) else None
