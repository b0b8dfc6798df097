"""Bytes of the values between the layers of a torch network, workspaces of libraries left out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

# Nodes that stand for the images, and for weights a graph holds itself.
_GIVEN = ("placeholder", "get_attr")


class _Live(fx.Interpreter):
    """Runs a graph node by node and notes the most bytes that values took at one time."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.most = 0

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        # What a node reads is still there; what nothing reads any more is not.
        values = [v for node, v in {**self.env, n: result}.items() if node.op not in _GIVEN]
        # In-place operations and views share their storage.
        storages = [v.untyped_storage() for v in values if isinstance(v, Tensor)]
        self.most = max(self.most, sum({s.data_ptr(): s.nbytes() for s in storages}.values()))
        return result


@torch.inference_mode()
def value_bytes(module: fx.GraphModule, images: Tensor) -> int:
    """Most bytes of values alive at one time, the images and the weights not counted.

    Args:
        module: a traced network whose layers keep no values of their own.
    """
    live = _Live(module)
    live.run(images)
    return live.most
