"""What a network computes, as operations that have an integer form, in the order they run.

torch.fx records the network, with what it computes in place followed, so that an operation's inputs
are the values it really reads. What has no integer form is refused by name.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import fx, nn
from torch.nn import functional
from torchvision.ops import StochasticDepth

from rsquant.errors import ModelError
from rsquant.nn.integer.layers import GlobalAverage, WindowAverage
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.padded import PaddedConv2d
from rsquant.nn.quantized import QuantConv2d, QuantLinear
from rsquant.nn.readers import Read
from rsquant.nn.tracer import Tracer, argument, why_untraced
from rsquant.packed.ops.resize import MODES
from rsquant.quantizers import ActivationQuantizer

_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_RELUS = (torch.relu, torch.relu_, functional.relu, functional.relu6, "relu", "relu_")
_MAXIMA = (functional.max_pool2d, torch.max_pool2d)
_MEANS = (torch.mean, "mean")
# Values stay what they are, in evaluation.
_SAME_MODULES = (nn.Dropout, nn.Dropout2d, StochasticDepth, nn.Flatten, nn.MaxPool2d)
_SAME = (torch.flatten, torch.squeeze, "flatten", "view", "reshape", "squeeze")
_CONTIGUOUS = "contiguous"
# Of torch.nn.functional.interpolate, beside the size, and where they stand.
_RESIZING = {"scale_factor": 2, "mode": 3, "align_corners": 4, "recompute_scale_factor": 5}
_SIZES = ("size", "dim", getattr, operator.getitem)


@dataclass(eq=False)
class Op(Read):
    """An operation of the network.

    Attributes:
        kind: image, conv, head (a convolution that gives the logits), linear, norm, relu,
            quantize, add, average, resize, same (the values it reads as they are: poolings of
            maxima, dropout, flattening), or size (no values).
        name: for messages, and where the layer made of it is.
        inputs, users: what it reads, and what reads it, twice where it is read twice.
        reads: by node, what the arguments of `node` are; sizes too.
        module: layer, norm, quantizer, or the pooling of a function.
        clip: of a ReLU6.
        fields: of a resize: what `IntegerResize` takes. size: of one, as the call has it.
    """

    kind: str
    name: str
    node: fx.Node
    inputs: tuple[Op, ...] = ()
    module: Any = None
    clip: float | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    size: Any = None
    users: list[Op] = field(default_factory=list)
    reads: dict[fx.Node, Op] = field(default_factory=dict)


@dataclass
class _Cell:
    """A tensor in memory: an in-place operation changes what everybody sees."""

    op: Op


class _Tracer(Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # Its function would keep the mode of the moment.
        ours = isinstance(m, StochasticDepth)
        return ours or super().is_leaf_module(m, module_qualified_name)


def read(body: nn.Module) -> list[Op]:
    """The operations a network needs for its result; the last one gives it.

    Raises:
        ModelError: torch.fx cannot trace it, it does something else in training than in
            evaluation, or something that has no integer form.
    """
    graph = _traced(body, training=False)
    other = _traced(body, training=True)
    for one, two in zip(graph.nodes, other.nodes, strict=False):
        if _call(one) != _call(two):
            _refuse(one, "does something else in training than in evaluation")
    if len(graph.nodes) != len(other.nodes):
        raise ModelError(f"{_who(body)}: does something else in training than in evaluation")
    return _Reader(body).read(graph)


def _traced(body: nn.Module, training: bool) -> fx.Graph:
    try:
        with _mode(body, training):
            return _Tracer().trace(body)
    except Exception as error:  # whatever a user's forward does when it meets a proxy
        why = why_untraced(error)
        raise ModelError(
            f"{_who(body)}: torch.fx cannot trace it ({why}), which an integer network needs; "
            "make its forward free of decisions that depend on the input, or leave out `integer`"
        ) from error


@contextmanager
def _mode(body: nn.Module, training: bool) -> Iterator[None]:
    modes = [(module, module.training) for module in body.modules()]
    try:
        body.train(training)
        yield
    finally:
        for module, was in modes:
            module.training = was


def _call(node: fx.Node) -> tuple[str, str, str, str]:
    return node.op, str(node.target), str(node.args), str(node.kwargs)


def _who(body: nn.Module) -> str:
    return f"integer: {type(body).__name__}"


def _refuse(node: fx.Node, why: str) -> NoReturn:
    name = str(node.target) if node.op == "call_module" else node.name
    where = owner_of(node)
    place = f", in {where}" if where and node.op != "call_module" else ""
    raise ModelError(f"integer: {name} {why}{place}; replace it, or leave out `integer`")


def owner_of(node: fx.Node) -> str:
    """Name of the module whose forward an operation is in."""
    stack = [name for name, _ in node.meta.get("nn_module_stack", {}).values()]
    if node.op == "call_module":
        return str(node.target).rpartition(".")[0]
    return str(stack[-1]) if stack else ""


class _Reader:
    """Turns each node into an operation, or refuses it."""

    def __init__(self, body: nn.Module) -> None:
        self.body = body
        self.cells: dict[fx.Node, _Cell] = {}
        self.sizes: dict[fx.Node, Op] = {}
        self.ops: list[Op] = []
        self.calls: set[nn.Module] = set()

    def read(self, graph: fx.Graph) -> list[Op]:
        result = None
        for node in graph.nodes:
            if node.op == "output":
                source = node.args[0]
                if not isinstance(source, fx.Node) or source not in self.cells:
                    _refuse(node, "is not one tensor")
                result = self.cells[source].op
            else:
                self.node(node)
        assert result is not None
        needed: set[Op] = set()
        pending = [result]
        while pending:
            op = pending.pop()
            if op not in needed:
                needed.add(op)
                pending += [*op.inputs, *op.reads.values()]
        ops = [op for op in self.ops if op in needed]
        for op in ops:
            for source_op in op.inputs:
                source_op.users.append(op)
        if result.kind == "conv":
            result.kind = "head"
        elif result.kind != "linear":
            last = result
            while last.kind in ("same", "average", "relu", "resize"):
                last = last.inputs[0]
            behind = "" if last is result else f", behind {last.name}"
            raise ModelError(
                f"{_who(self.body)}: ends in {result.name}{behind}, and must end in a Linear layer "
                "behind the average, or in the convolution that gives a map, which the task "
                "enlarges by itself; leave out what comes behind it, or `integer`"
            )
        return ops

    def node(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self.ops:
                _refuse(node, "is a second input")
            self.set(node, Op("image", "image", node))
        elif node.op == "call_module":
            self.module(node, self.body.get_submodule(str(node.target)))
        elif node.op in ("call_function", "call_method"):
            self.call(node)
        else:
            _refuse(node, "is a parameter that the network computes with by itself")

    def module(self, node: fx.Node, module: nn.Module) -> None:
        name = str(node.target)
        if isinstance(module, (nn.Conv2d, nn.Linear, SwitchableBatchNorm2d, ActivationQuantizer)):
            if module in self.calls:
                _refuse(node, "runs more than once, with other values each time")
            self.calls.add(module)
        if type(module) in (nn.Conv2d, PaddedConv2d, QuantConv2d):
            if module.padding_mode != "zeros":
                _refuse(node, f"pads by '{module.padding_mode}', which has no integer form")
            quantizer = getattr(module, "input_quantizer", None)
            read = self.inputs(node)
            if quantizer is not None:
                quantize = Op("quantize", f"{name}_input", node, read, quantizer)
                self.ops.append(quantize)
                read = (quantize,)
            self.set(node, Op("conv", name, node, read, module))
        elif type(module) is nn.Linear:
            self.set(node, Op("linear", name, node, self.inputs(node), module))
        elif type(module) is SwitchableBatchNorm2d:
            self.set(node, Op("norm", name, node, self.inputs(node), module))
        elif isinstance(module, ActivationQuantizer):
            self.set(node, Op("quantize", name, node, self.inputs(node), module))
        elif type(module) is nn.ReLU:
            self.set(node, Op("relu", name, node, self.inputs(node)), module.inplace)
        elif isinstance(module, nn.Hardtanh) and module.min_val == 0:  # ReLU6 is one
            clip = float(module.max_val)
            self.set(node, Op("relu", name, node, self.inputs(node), clip=clip), module.inplace)
        elif type(module) is nn.AvgPool2d:
            self.window_average(node, name, module)
        elif type(module) is nn.AdaptiveAvgPool2d:
            self.adaptive_average(node, name, module.output_size)
        elif type(module) is nn.Identity:
            self.cells[node] = self.cell(node, 0)
        elif isinstance(module, _SAME_MODULES):
            in_place = bool(getattr(module, "inplace", False))
            self.same(node, name, in_place)
        elif isinstance(module, nn.Upsample):
            self.resize(node, name, module.size, {n: getattr(module, n) for n in _RESIZING})
        elif isinstance(module, QuantLinear):
            _refuse(node, "is a low-bit Linear layer; only the last has an integer form")
        else:
            _refuse(node, f"is a {type(module).__name__}, which has no integer form")

    def call(self, node: fx.Node) -> None:
        target: Any = node.target
        if target in _SIZES and self.is_of_sizes(node):
            self.size(node)
        elif not any(source in self.cells for source in node.all_input_nodes):
            self.size(node)  # computed from sizes
        elif target in _RELUS:
            in_place = target in (torch.relu_, "relu_") or argument(node, 1, "inplace", False)
            clip = 6.0 if target is functional.relu6 else None
            self.set(node, Op("relu", node.name, node, self.inputs(node), clip=clip), in_place)
        elif target in _ADDITIONS:
            self.addition(node, target in (operator.iadd, "add_"))
        elif target is functional.avg_pool2d:
            names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
            given = {n: argument(node, i + 1, n, None) for i, n in enumerate(names)}
            given["divisor_override"] = argument(node, 6, "divisor_override", None)
            if any(isinstance(value, fx.Node) for value in given.values()):
                _refuse(node, "averages windows of a computed size, which have no integer form")
            module = nn.AvgPool2d(**{n: v for n, v in given.items() if v is not None})
            self.window_average(node, node.name, module)
        elif target is functional.adaptive_avg_pool2d:
            self.adaptive_average(node, node.name, argument(node, 1, "output_size", None))
        elif target in _MEANS:
            self.mean(node)
        elif target is functional.interpolate:
            if argument(node, 6, "antialias", False):
                _refuse(node, "resizes with antialias, which has no integer form")
            given = {n: argument(node, at, n, None) for n, at in _RESIZING.items()}
            self.resize(node, node.name, argument(node, 1, "size", None), given)
        elif target == _CONTIGUOUS:
            self.cells[node] = self.cell(node, 0)
        elif target in _MAXIMA:
            self.max_pool(node)
        elif target in _SAME:
            self.same(node, node.name)
        else:
            name = getattr(target, "__name__", str(target))
            known = node.name.rstrip("_0123456789") == name.rstrip("_")
            what = "has" if known else f"is {name}, which has"
            _refuse(node, f"{what} no integer form")

    def is_of_sizes(self, node: fx.Node) -> bool:
        """Whether a call gives a size, and not values."""
        if node.target is operator.getitem:
            return node.args[0] not in self.cells
        return node.target is not getattr or node.args[1] in ("shape", "device", "dtype", "ndim")

    def size(self, node: fx.Node) -> None:
        """What has no values: a size, or what is computed of some."""
        self.sizes[node] = Op("size", node.name, node, reads=self.reads(node))
        self.ops.append(self.sizes[node])

    def same(self, node: fx.Node, name: str, in_place: bool = False) -> None:
        op = Op("same", name, node, self.inputs(node), reads=self.reads(node))
        self.set(node, op, in_place)

    def reads(self, node: fx.Node) -> dict[fx.Node, Op]:
        found = {}
        for source in node.all_input_nodes:
            op = self.cells[source].op if source in self.cells else self.sizes.get(source)
            if op is None:
                _refuse(node, "reads something that is no value of the network")
            found[source] = op
        return found

    def addition(self, node: fx.Node, in_place: bool) -> None:
        sources = [argument(node, 0, "input", None), argument(node, 1, "other", None)]
        alike = all(isinstance(s, fx.Node) and s in self.cells for s in sources)
        if not alike or argument(node, 2, "alpha", 1) != 1:
            _refuse(node, "adds something else than two values of the network")
        pair = tuple(self.cells[s].op for s in sources if isinstance(s, fx.Node))
        self.set(node, Op("add", node.name, node, pair), in_place)

    def max_pool(self, node: fx.Node) -> None:
        """A module, as the network may have had: export knows no function."""
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        given = {n: argument(node, i + 1, n, None) for i, n in enumerate(names)}
        if any(isinstance(value, fx.Node) for value in given.values()):
            _refuse(node, "pools windows of a computed size, which have no integer form")
        module = nn.MaxPool2d(**{n: v for n, v in given.items() if v is not None})
        self.set(node, Op("same", node.name, node, self.inputs(node), module))

    def window_average(self, node: fx.Node, name: str, pool: nn.AvgPool2d) -> None:
        padded = any(pool.padding if isinstance(pool.padding, tuple) else (pool.padding,))
        if pool.ceil_mode or (padded and not pool.count_include_pad and not pool.divisor_override):
            _refuse(node, "averages windows of different numbers of pixels")
        module = WindowAverage(
            pool.kernel_size, pool.stride, pool.padding, divisor_override=pool.divisor_override
        )
        self.set(node, Op("average", name, node, self.inputs(node), module))

    def adaptive_average(self, node: fx.Node, name: str, size: Any) -> None:
        if size not in (1, (1, 1), [1, 1]):
            _refuse(node, f"averages to {size} pixels; only to one has an integer form")
        self.set(node, Op("average", name, node, self.inputs(node), GlobalAverage(keep=True)))

    def mean(self, node: fx.Node) -> None:
        dims = argument(node, 1, "dim", None)
        if not isinstance(dims, (list, tuple)) or sorted(d % 4 for d in dims) != [2, 3]:
            _refuse(node, "is a mean over something else than height and width")
        keep = bool(argument(node, 2, "keepdim", False))
        self.set(node, Op("average", node.name, node, self.inputs(node), GlobalAverage(keep)))

    def resize(self, node: fx.Node, name: str, size: Any, given: dict[str, Any]) -> None:
        """A map of `size`, or enlarged by what is `given`, by the names in `_RESIZING`."""
        mode, factor = given["mode"] or "nearest", given["scale_factor"]
        if mode not in MODES:
            _refuse(
                node, f"resizes in mode '{mode}'; one of {', '.join(MODES)} has an integer form"
            )
        factors = factor if isinstance(factor, (list, tuple)) else [factor]
        if size is None and not all(isinstance(f, (int, float)) and f > 0 for f in factors):
            _refuse(node, "resizes by a computed factor, which has no integer form")
        op = Op("resize", name, node, self.inputs(node), reads=self.reads(node), size=size)
        op.fields = {**given, "mode": mode}
        self.set(node, op)

    def cell(self, node: fx.Node, position: int) -> _Cell:
        source = argument(node, position, "input", None)
        if not isinstance(source, fx.Node) or source not in self.cells:
            _refuse(node, "reads something that is no value of the network")
        return self.cells[source]

    def inputs(self, node: fx.Node) -> tuple[Op]:
        return (self.cell(node, 0).op,)

    def set(self, node: fx.Node, op: Op, in_place: bool = False) -> None:
        """Note a result; in place also under every other name of its input."""
        self.ops.append(op)
        if in_place:
            self.cells[node] = self.cell(node, 0)
            self.cells[node].op = op
        else:
            self.cells[node] = _Cell(op)
