"""A switchable network to the operations it runs, in order, each a kind the runtime knows.

torch.fx records the body; what computes nothing (Dropout, Identity, flatten of one pixel) is gone,
and in-place operations are followed, so that an operation's inputs are the values it really reads.
Here are the layers, and what becomes part of another operation; all others say themselves what of
torch they are made of (`OpSpec.TORCH`).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import fx, nn
from torch.nn import functional

from rsquant.errors import PackError
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.padded import PaddedConv2d
from rsquant.nn.quantized import QuantConv2d, QuantLinear
from rsquant.packed.ops.base import OpSpec
from rsquant.packing.affine import fold_affine
from rsquant.packing.arithmetic import Arithmetic, arithmetic_of
from rsquant.packing.call import Call, argument, operation_of, refusal
from rsquant.packing.dims import Dim, shape
from rsquant.packing.nothing import is_nothing
from rsquant.packing.ops import Op, Pair, quantize_before_pooling, set_users
from rsquant.packing.pads import absorb_pads
from rsquant.packing.shapes import Constants, is_expansion, is_view, note_shapes
from rsquant.packing.shuffle import shuffle_step
from rsquant.packing.sizes import merged, sizes_to_see
from rsquant.packing.tracers import SizedTracer, Tracer, sides_of
from rsquant.packing.weights import geometry
from rsquant.padding import extent_of, output_side, pads_at
from rsquant.quantizers import ActivationQuantizer


@dataclass
class _Cell:
    """A tensor in memory: an in-place operation changes what everybody sees."""

    op: Op


def trace(body: nn.Module, resolutions: Sequence[int]) -> list[Op]:
    """The operations a network needs for its result, in the order it runs them.

    The first is the image, the last the classifier; a quantizer that alone reads a max-pooling
    stands before it (both are monotone, so they commute, and pooling codes is cheaper).

    Args:
        body: of a SwitchableNetwork, in evaluation mode.
        resolutions: trained sizes in pixels.
    Raises:
        PackError: naming what cannot be packed, why, and what to do.
    """
    try:
        ops = _read(body, Tracer(), (resolutions[0], resolutions[0]))
    except PackError as error:
        # It may compute its paddings from the size of the images.
        ops = _traced_at_sizes(body, resolutions, error)
    ops = absorb_pads(ops)
    fold_affine(ops)
    quantize_before_pooling(ops)
    return ops


def _read(body: nn.Module, tracer: Tracer, sides: Pair) -> list[Op]:
    try:
        graph = tracer.trace(body)
    except Exception as error:  # whatever a user's forward does when it meets a proxy
        reason = str(error).split("\n")[0]
        raise _Untraceable(
            f"{type(body).__name__}: torch.fx cannot trace it ({reason}); make its forward free of "
            "decisions that depend on the input"
        ) from error
    note_shapes(graph, body, sides)
    return _Reader(body).read(graph)


class _Untraceable(PackError):
    """Nothing is known of the network's operations."""


def _traced_at_sizes(body: nn.Module, resolutions: Sequence[int], why: PackError) -> list[Op]:
    """Operations that are the same at every size, but for what they pad.

    Args:
        why: the error of tracing for any size, raised where tracing for one fails as well.
    """
    traces = []
    for sides, trained in sizes_to_see(resolutions):
        try:
            traces.append(_read(body, SizedTracer(sides), sides))
        except _Untraceable:
            if trained:
                raise why from None
    return merged(traces)


class _Reader:
    """Turns each fx node into operations, or refuses it."""

    def __init__(self, body: nn.Module) -> None:
        self.body = body
        self.cells: dict[fx.Node, _Cell] = {}
        self.constants = Constants(body)
        # Of what gives several tensors.
        self.parts: dict[fx.Node, tuple[Op, ...]] = {}
        self.ops: list[Op] = []
        self.result: Op | None = None
        self.sides: Pair | None = None

    def read(self, graph: fx.Graph) -> list[Op]:
        for node in graph.nodes:
            self.sides = sides_of(node)
            self.node(node)
        last = self.result
        if last is not None and last.kind == "conv" and last.pooled:
            _as_linear(last)
        if last is None or last.kind != "linear":
            got = "nothing" if last is None else f"{last.name} ({last.kind})"
            raise PackError(
                f"{type(self.body).__name__}: must end in a Linear layer to be packed, ends in "
                f"{got}; use a network with such a classifier"
            )
        needed: set[Op] = set()
        pending = [last]
        while pending:
            op = pending.pop()
            if op not in needed:
                needed.add(op)
                pending += op.inputs
        ops = [op for op in self.ops if op in needed]
        set_users(ops)
        for op in ops:
            if op.kind == "linear" and op is not last:
                op.kind = "conv"
        return ops

    def node(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self.ops:
                self.refuse(node, "is a second input", "use a network of one image")
            self.set(node, Op("image", "image", (), channels=3))
        elif node.op == "output":
            result = node.args[0]
            if not isinstance(result, fx.Node):
                self.refuse(node, "is not one tensor", "return the logits alone")
            self.result = self.cell(node, result).op
        elif self.constants.note(node):
            return  # what uses it decides
        else:
            module = None
            if node.op == "call_module":
                module = self.body.get_submodule(str(node.target))
            if module is None and self.of_sizes(node):
                return
            if node.target is operator.getitem and node.args[0] in self.parts:
                self.part(node)
                return
            call = Call(node, module, self.cells)
            operation = operation_of(node, module)
            if is_nothing(node, module) or self.names_again(node, module):
                self.alias(node)
            elif (shuffled := shuffle_step(call)) is not None:
                self.set(node, shuffled)
            elif operation is not None:
                self.operation(node, call, operation)
            elif (kind := arithmetic_of(call)) is not None:
                made = Arithmetic(call, self.constants, self.add).result(kind)
                if made is not None:  # else of sizes; what uses it decides
                    self.set(node, made, call.in_place)
            elif module is not None:
                self.module(node, module)
            elif node.op == "call_function":
                self.function(node)
            else:
                self.method(node)

    def operation(self, node: fx.Node, call: Call, operation: type[OpSpec]) -> None:
        made = operation.trace(call)
        if isinstance(made, tuple):
            self.parts[node] = tuple(self.add(op) for op in made)
        else:
            self.set(node, made, call.in_place)

    def names_again(self, node: fx.Node, module: nn.Module | None) -> bool:
        """Whether a node is its input in another shape."""
        first = node.args[0] if node.args else None
        source = self.cells.get(first) if isinstance(first, fx.Node) else None
        return source is not None and (is_view(node, module, source.op) or is_expansion(node))

    def module(self, node: fx.Node, module: nn.Module) -> None:
        name = str(node.target)
        if isinstance(module, (QuantConv2d, QuantLinear)):
            x = self.input(node)
            if module.input_quantizer is not None:
                quantizer = f"{name}.input_quantizer"
                x = self.add(_like(x, "quantize", quantizer, module.input_quantizer))
                x.sides = x.inputs[0].sides
            self.layer(node, name, x, module)
        elif type(module) in (nn.Conv2d, PaddedConv2d, nn.Linear):
            self.layer(node, name, self.input(node), module)
        elif type(module) is SwitchableBatchNorm2d:
            self.set(node, _like(self.input(node), "norm", name, module))
        elif isinstance(module, ActivationQuantizer):
            self.set(node, _like(self.input(node), "quantize", name, module))
        elif isinstance(module, nn.Hardtanh) and module.min_val == 0:  # ReLU6 is one
            self.relu(node, name, module.inplace, module.max_val)
        elif type(module) is nn.ReLU:
            self.relu(node, name, module.inplace)
        elif type(module) is nn.Flatten:
            self.flatten(node, module.start_dim)
        else:
            self.refuse(node, f"is a {type(module).__name__}, which the runtime does not have")

    def function(self, node: fx.Node) -> None:
        target: Any = node.target
        if target in (torch.relu, torch.relu_, functional.relu, functional.relu6):
            in_place = target is torch.relu_ or argument(node, 1, "inplace", False)
            self.relu(node, node.name, in_place, 6.0 if target is functional.relu6 else None)
        elif target is torch.flatten:
            self.flatten(node, argument(node, 1, "start_dim", 0))
        else:
            what = getattr(target, "__name__", str(target))
            self.refuse(node, f"is {what}, which the runtime does not have")

    def method(self, node: fx.Node) -> None:
        target = str(node.target)
        if target in ("relu", "relu_"):
            self.relu(node, node.name, target == "relu_")
        elif target == "flatten":
            self.flatten(node, argument(node, 1, "start_dim", 0))
        elif target in ("view", "reshape"):
            self.view(node)
        else:
            self.refuse(node, f"is .{target}(), which the runtime does not have")

    def layer(self, node: fx.Node, name: str, x: Op, module: nn.Module) -> None:
        """A convolution or linear layer."""
        if isinstance(module, nn.Linear):
            if not x.pooled:
                self.refuse(node, "reads a map of several pixels", "average the whole map first")
            op = Op("linear", name, (x,), module, pixels=(1, 1), channels=module.out_features)
        else:
            assert isinstance(module, nn.Conv2d)
            op = Op("conv", name, (x,), module, channels=module.out_channels)
            op.pixels = _pixels_of(name, module, x)
        self.set(node, op)

    def relu(self, node: fx.Node, name: str, in_place: bool, clip: float | None = None) -> None:
        op = _like(self.input(node), "relu", name)
        op.clip = clip
        self.set(node, op, in_place)

    def flatten(self, node: fx.Node, start: Any) -> None:
        """All but the first dimension as one; of a single pixel, its channels."""
        x = self.input(node)
        if start != 1 or x.pixels is None:
            self.refuse(
                node,
                "flattens a map of several pixels",
                "average the whole map first, or pool it to a fixed number of pixels",
            )
        if x.pooled:
            self.alias(node)
            return
        height, width = x.pixels
        op = Op("flatten", node.name, (x,), fields={"pixels": x.pixels}, pixels=(1, 1))
        op.channels = x.channels * height * width
        self.set(node, op)

    def view(self, node: fx.Node) -> None:
        """As `flatten`, where one dimension is left for all that a pixel or a map has."""
        given = node.args[1:] or (node.kwargs.get("shape", node.kwargs.get("size")),)
        sides = shape(given[0] if isinstance(given[0], (list, tuple)) else given, self.cells)
        if not isinstance(sides, tuple) or len(sides) != 2:
            self.refuse(node, f"is .{node.target}(), which the runtime does not have")
        first, second = sides
        x = self.input(node)
        every = None if x.pixels is None else x.channels * x.pixels[0] * x.pixels[1]
        images = type(first) is int or (isinstance(first, Dim) and first.axis == 0)
        if not (second == every or (second == -1 and first != -1)) or not images:
            self.refuse(node, f"is .{node.target}() to another shape than (images, -1)")
        self.flatten(node, 1)

    def part(self, node: fx.Node) -> None:
        """One, or some, of several tensors that a call gives."""
        source, index = node.args
        assert isinstance(source, fx.Node)
        parts = self.parts[source]
        if isinstance(index, slice):
            self.parts[node] = parts[index]
            return
        if type(index) is not int or not -len(parts) <= index < len(parts):
            self.refuse(node, f"takes part {index} of {len(parts)}")
        self.cells[node] = _Cell(parts[index])

    def of_sizes(self, node: fx.Node) -> bool:
        """Whether a call gives a size, or what is computed of sizes alone; what uses it decides."""
        if node.target is getattr:
            return node.args[1] in ("shape", "device", "dtype", "ndim")
        if node.target == "size":
            return True
        read = node.all_input_nodes
        return bool(read) and not any(
            source in self.cells or source in self.parts or source.op == "get_attr"
            for source in read
        )

    def input(self, node: fx.Node) -> Op:
        return self.cell(node, argument(node, 0, "input", None)).op

    def cell(self, node: fx.Node, source: Any) -> _Cell:
        found = self.cells.get(source) if isinstance(source, fx.Node) else None
        if found is None:
            self.refuse(node, "reads something that is not a value of the network")
        return found

    def add(self, op: Op) -> Op:
        op.sides = self.sides
        self.ops.append(op)
        return op

    def set(self, node: fx.Node, op: Op, in_place: bool = False) -> None:
        """Note a node's result; in place also under every other name of its input."""
        self.add(op)
        if in_place:
            self.alias(node)
            self.cells[node].op = op
        else:
            self.cells[node] = _Cell(op)

    def alias(self, node: fx.Node) -> None:
        """The node is another name of its input."""
        self.cells[node] = self.cell(node, argument(node, 0, "input", None))

    def refuse(
        self, node: fx.Node, why: str, do: str = "replace it, or use another network"
    ) -> NoReturn:
        raise PackError(refusal(node, why, do))


def _as_linear(op: Op) -> None:
    """Make a 1x1 convolution of one pixel that ends a network its linear layer, in place."""
    conv = op.module
    if type(conv) is nn.Conv2d and conv.kernel_size == (1, 1) and conv.groups == 1:
        linear = nn.Linear(conv.in_channels, conv.out_channels, conv.bias is not None)
        linear.weight = nn.Parameter(conv.weight.detach().flatten(1), requires_grad=False)
        if conv.bias is not None:
            linear.bias = nn.Parameter(conv.bias.detach(), requires_grad=False)
        op.kind, op.module = "linear", linear


def _pixels_of(name: str, layer: nn.Conv2d, x: Op) -> Pair | None:
    """Height and width of a convolution's result, where those of its input are known."""
    if x.pixels is None:
        return None
    shape = geometry(name, layer, image=False)
    extent = extent_of(shape.kernel, shape.dilation)
    pads = pads_at(shape.padding, x.pixels, extent, shape.stride)
    height, width = (
        output_side(x.pixels[i], pads[i], pads[2 + i], extent[i], shape.stride[i]) for i in range(2)
    )
    return (height, width) if min(height, width) > 0 else None


def _like(x: Op, kind: str, name: str, module: nn.Module | None = None) -> Op:
    """An operation on each value of x."""
    return Op(kind, name, (x,), module, pixels=x.pixels, channels=x.channels)
