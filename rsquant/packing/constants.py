"""Nodes of a traced network whose value does not depend on the image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from rsquant.packing.call import changes_in_place
from rsquant.packing.shapes import called


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
        if changes_in_place(called(node)):
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
