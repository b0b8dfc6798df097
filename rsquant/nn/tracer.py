"""torch.fx of networks with rsquant's layers."""

from __future__ import annotations

import operator
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.padded import PaddedConv2d
from rsquant.nn.quantized import QuantLinear
from rsquant.quantizers import ActivationQuantizer

_LEAVES = (PaddedConv2d, QuantLinear, SwitchableBatchNorm2d, ActivationQuantizer)


def argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    """A call's argument, by position or name."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def why_untraced(error: Exception) -> str:
    """What stopped torch.fx, and the line of the network's program at which it did."""
    reason = str(error).split("\n")[0]
    ours = (Path(torch.__file__).parent, Path(__file__).parents[1])
    theirs = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(Path(frame.filename).is_relative_to(folder) for folder in ours)
    ]
    if not theirs or not Path(theirs[-1].filename).is_file():  # a forward of no file
        return reason
    return f"{reason}, in line {theirs[-1].lineno} of {Path(theirs[-1].filename).name}"


class Proxy(fx.Proxy):
    """Computes `x += y` in place, as a tensor does; torch.fx makes another value of it."""

    def __iadd__(self, other: Any) -> Any:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: Any) -> Any:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: Any) -> Any:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._in_place(operator.itruediv, other)

    def _in_place(self, function: Any, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})


class Tracer(fx.Tracer):
    """Stops at the layers that are computed as a whole."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _LEAVES) or super().is_leaf_module(m, module_qualified_name)
