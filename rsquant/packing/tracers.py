"""A torch.fx tracer for one size of the images.

A forward that computes from sizes in Python, with `math.ceil` or an `if`, cannot be traced for any
size. Traced for one, its sizes are plain numbers, and what they lead to is seen in the graph.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from rsquant.nn.flow import tensors
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.tracer import Proxy
from rsquant.nn.tracer import Tracer as Tracer
from rsquant.packing.ops import Pair
from rsquant.quantizers import ActivationQuantizer

# Where a node has the value that it gave, without its numbers (on the meta device).
_VALUE = "value"
# Images that a network is traced with.
BATCH = 2


class SizedTracer(Tracer):
    """Traces a network for images of one size.

    Args:
        sides: height and width of the images in pixels.
    """

    def __init__(self, sides: Pair) -> None:
        super().__init__()
        self.sides = sides

    @torch.no_grad()
    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        return super().trace(root, concrete_args)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _SizedProxy(node, self)

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **named: Any
    ) -> Any:
        value = self._value(kind, target, _values(args), _values(kwargs))
        if kind.startswith("call_") and not list(tensors(value)):
            return value  # a size, or what was computed from one
        proxy = super().create_proxy(kind, target, args, kwargs, *more, **named)
        proxy.node.meta[_VALUE] = value
        return proxy

    def _value(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        return value_of(self.root, self.sides, kind, target, args, kwargs)


class _SizedProxy(Proxy):
    """Its sizes are numbers."""

    def __getattr__(self, name: str) -> Any:
        value = self.node.meta.get(_VALUE)
        if name in ("shape", "ndim") and isinstance(value, Tensor):
            return getattr(value, name)
        return super().__getattr__(name)

    def __iter__(self) -> Iterator[fx.Proxy]:
        value = self.node.meta.get(_VALUE)
        if isinstance(value, (list, tuple)):
            return iter([operator.getitem(self, index) for index in range(len(value))])
        return super().__iter__()

    def __len__(self) -> int:
        value = self.node.meta.get(_VALUE)
        return len(value) if isinstance(value, (list, tuple, Tensor)) else super().__len__()


def value_of(root: nn.Module, sides: Pair, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
    """What a node of a graph gives for images of one size, tensors without their numbers.

    Args:
        kind, target: of the node.
        args, kwargs: of the node, with the values of those it reads.
    """
    if kind == "placeholder":
        return torch.empty(BATCH, 3, *sides, device="meta")
    if kind == "get_attr":
        owner, _, name = target.rpartition(".")
        module = root.get_submodule(owner)
        return _values({**vars(module), **module._buffers, **module._parameters}[name])
    if kind == "call_function":
        return target(*args, **kwargs)
    if kind == "call_method":
        return getattr(args[0], target)(*args[1:], **kwargs)
    if kind == "call_module":
        return _result(root.get_submodule(target), *args, **kwargs)
    return None


def sides_of(node: fx.Node) -> Pair | None:
    """Height and width of the map that a node of a SizedTracer gives; None if it is no map."""
    value = node.meta.get(_VALUE)
    if not isinstance(value, Tensor) or value.dim() != 4:
        return None
    return int(value.shape[2]), int(value.shape[3])


def is_for_one_size(node: fx.Node) -> bool:
    """Whether a node is of a SizedTracer."""
    return _VALUE in node.meta


def _values(arguments: Any) -> Any:
    """Arguments with the values of proxies and without the numbers of tensors."""

    def value(argument: Any) -> Any:
        if isinstance(argument, fx.Proxy):
            return argument.node.meta.get(_VALUE)
        return argument.to("meta") if isinstance(argument, Tensor) else argument

    return fx.node.map_aggregate(arguments, value)


def _result(module: nn.Module, x: Tensor, *more: Any, **named: Any) -> Any:
    """What a layer gives, without its numbers.

    While torch.fx traces, calling a module and reading a parameter of one go into the graph.
    """
    if isinstance(module, nn.Conv2d):
        weight = module._parameters["weight"]
        assert weight is not None
        return module._conv_forward(x, weight.to("meta"), None)
    if isinstance(module, nn.Linear):
        return x.new_empty(*x.shape[:-1], module.out_features)
    if isinstance(module, (SwitchableBatchNorm2d, ActivationQuantizer, nn.PReLU)):
        return torch.empty_like(x)
    return module.forward(x, *more, **named)
