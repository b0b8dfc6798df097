"""A switchable network to the operations it runs, in order, each a kind the runtime knows.

torch.fx records the body; what computes nothing (Dropout, Identity, views of one pixel) is gone,
and in-place operations are followed, so that an operation's inputs are the values it really reads.
What of torch an operation of `packed.ops` is made of, it says itself (`OpSpec.TORCH`).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from torch import fx, nn

from rsquant.errors import PackError
from rsquant.nn.tracer import argument, why_untraced
from rsquant.packing.affine import fold_affine
from rsquant.packing.arithmetic import Arithmetic, arithmetic_of
from rsquant.packing.blocks import absorb_blocks
from rsquant.packing.blur import blur_of
from rsquant.packing.branches import branches_of
from rsquant.packing.call import Call, operation_of, refusal
from rsquant.packing.constants import Constants
from rsquant.packing.heads import end_in_logits
from rsquant.packing.integer_ops import ascends, integer_op
from rsquant.packing.layers import layer_of
from rsquant.packing.nothing import is_nothing
from rsquant.packing.ops import VIEW, Op, Pair, needed, quantize_before_pooling, sum_last
from rsquant.packing.pads import absorb_pads
from rsquant.packing.shapes import is_expansion, note_shapes
from rsquant.packing.sizes import merged, sizes_to_see
from rsquant.packing.tracers import SizedTracer, Tracer, sides_of
from rsquant.packing.views import shown, view_of


@dataclass
class _Cell:
    """A tensor in memory: an in-place operation changes what everybody sees."""

    op: Op


def trace_integers(body: fx.GraphModule) -> list[Op]:
    """The operations of an integer network, whose body is a graph of them already."""
    ops = _Reader(body).read(body.graph)
    quantize_before_pooling(ops, ascends)
    sum_last(ops)
    return ops


def trace(body: nn.Module, resolutions: Sequence[int]) -> list[Op]:
    """The operations a network needs for its result, in the order it runs them.

    The first is the image, the last gives the logits; a quantizer that alone reads a max-pooling
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
    ops = absorb_pads(absorb_blocks(end_in_logits(body, ops)))
    fold_affine(ops)
    quantize_before_pooling(ops)
    sum_last(ops)
    return ops


def _read(body: nn.Module, tracer: Tracer, sides: Pair) -> list[Op]:
    try:
        graph = tracer.trace(body)
    except Exception as error:  # whatever a user's forward does when it meets a proxy
        raise _Untraceable(
            f"{type(body).__name__}: torch.fx cannot trace it ({why_untraced(error)}); make its "
            "forward free of decisions that depend on the input"
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
        except PackError:
            if isinstance(why, _Untraceable):
                raise
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
        self.known: set[Op] = set()
        self.result: Op | None = None
        self.sides: Pair | None = None

    def read(self, graph: fx.Graph) -> list[Op]:
        for node in graph.nodes:
            self.sides = sides_of(node)
            self.node(node)
        return needed(self.ops, self.result)

    def node(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self.ops:
                self.refuse(node, "is a second input", "use a network of one image")
            self.set(node, Op("image", "image", (), channels=3))
        elif node.op == "output":
            result = node.args[0]
            if not isinstance(result, fx.Node):
                self.refuse(node, "is not one tensor", "return the logits alone")
            self.check_plain(node)
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
            elif is_nothing(node, module) or self.is_expansion(node):
                self.alias(node)
            else:
                self.call(node, Call(node, module, self.cells, self.add))

    def call(self, node: fx.Node, call: Call) -> None:
        """A call that gives something else than it is given."""
        made: Op | tuple[Op, ...] | None = integer_op(call, self.first(node))
        if made is None:
            made = branches_of(call)
        if made is None:
            made = view_of(call)
        if made is None:
            self.check_plain(node)
            made = layer_of(call)
        if made is None and (operation := operation_of(node, call.module)) is not None:
            made = operation.trace(call)
        if made is None:
            made = blur_of(call, self.constants)
        if made is None and (kind := arithmetic_of(call)) is not None:
            made = Arithmetic(call, self.constants).result(kind)
            if made is None:
                return  # of sizes; what uses it decides
        if made is None:
            what = {"call_module": "a {}", "call_method": ".{}()"}.get(node.op, "{}")
            self.refuse(node, f"is {what.format(call.what)}, which the runtime does not have")
        if isinstance(made, tuple):
            self.parts[node] = tuple(self.add(op) for op in made)
        elif made is self.first(node):
            self.alias(node)
        else:
            self.set(node, made, call.in_place)

    def check_plain(self, node: fx.Node) -> None:
        """Refuse views, where what reads them knows none."""
        for source in node.all_input_nodes:
            if source in self.cells and (op := self.cells[source].op).kind == VIEW:
                self.refuse(
                    node,
                    f"reads a map as {shown(op)}, which {op.name} makes of it",
                    "let it read (N, C, H, W)",
                )

    def is_expansion(self, node: fx.Node) -> bool:
        return self.first(node) is not None and is_expansion(node)

    def first(self, node: fx.Node) -> Op | None:
        """The value that a node reads first, if it is one."""
        source = argument(node, 0, "input", None)
        cell = self.cells.get(source) if isinstance(source, fx.Node) else None
        return None if cell is None else cell.op

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

    def cell(self, node: fx.Node, source: Any) -> _Cell:
        found = self.cells.get(source) if isinstance(source, fx.Node) else None
        if found is None:
            self.refuse(node, "reads something that is not a value of the network")
        return found

    def add(self, op: Op) -> Op:
        """Note an operation, once."""
        if op not in self.known:
            op.sides = self.sides
            self.ops.append(op)
            self.known.add(op)
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
