"""torch.fx of networks with rsquant's layers."""

from __future__ import annotations

import operator
import sys
import traceback
from pathlib import Path
from typing import Any

from torch import fx, nn

from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.padded import PaddedConv2d
from rsquant.nn.quantized import QuantLinear
from rsquant.quantizers import ActivationQuantizer

_LEAVES = (PaddedConv2d, QuantLinear, SwitchableBatchNorm2d, ActivationQuantizer)
_NOT_THE_NETWORK = {"torch", "rsquant", *sys.stdlib_module_names}
_INSTALLED = {"site-packages", "dist-packages"}


def argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    """A call's argument, by position or name."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def why_untraced(error: Exception) -> str:
    """What stopped torch.fx, and the line of the network's program at which it did."""
    reason = str(error).split("\n")[0]
    places = [
        (str(frame.f_globals.get("__name__", "")).partition(".")[0], frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    theirs = [place for place in places if place[0] not in _NOT_THE_NETWORK]
    # What the network calls in other installed packages is no part of it.
    own = [
        (Path(file), line)
        for package, file, line in theirs
        if package == theirs[0][0] or _INSTALLED.isdisjoint(Path(file).parts)
    ]
    if not own or not own[-1][0].is_file():  # a forward of no file
        return reason
    return f"{reason}, in line {own[-1][1]} of {own[-1][0].name}"


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
