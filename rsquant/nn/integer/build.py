"""A switchable network to an integer network, whose layers are those of `layers`.

What follows a layer up to the next rounding becomes part of it:

    conv   norm  relu  quantize         each but the first may be missing, and all but the last
    sum    relu                         must have one reader
    map    norm  relu  quantize

Where the chain ends without a quantizer its result is bytes. Poolings of maxima and resized maps
are bytes of the scale that they read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from rsquant.errors import ConfigError, ModelError
from rsquant.nn.active import ActiveSetting
from rsquant.nn.hooks import check_hooks_only_look
from rsquant.nn.integer.byte_scale import Bytes, ByteScale
from rsquant.nn.integer.endings import IntegerHead, IntegerLinear
from rsquant.nn.integer.exact import Value
from rsquant.nn.integer.graph import Op, owner_of, read
from rsquant.nn.integer.layers import (
    IntegerAverage,
    IntegerConv,
    IntegerImageConv,
    IntegerMap,
    IntegerSum,
)
from rsquant.nn.integer.resize import IntegerResize
from rsquant.nn.precision import FLOAT
from rsquant.nn.quantized import QuantConv2d
from rsquant.nn.switchable import ModelSpec, SwitchableNetwork
from rsquant.packed.integers import SUM_LIMIT, WEIGHT_LIMIT
from rsquant.packed.plan import IMAGE_CHANNELS
from rsquant.quantizers import ActivationQuantizer
from rsquant.quantizers.base import Quantizer

GRID = "coarse"
_ORDER = ("norm", "relu", "quantize")


def integer_spec(spec: ModelSpec) -> ModelSpec:
    """The spec with the grid that integer networks are on.

    Raises:
        ConfigError: another grid, or bits of 32.
    """
    if spec.grid not in ("none", GRID):
        raise ConfigError(
            f"integer: computes on the coarse grid, got grid '{spec.grid}'; leave out `grid`"
        )
    if FLOAT in (spec.wbits, spec.abits):
        raise ConfigError(
            f"integer: needs weights and activations of 1 to 4 bits, got {spec.bits_text}; leave "
            "out `integer`"
        )
    return replace(spec, grid=GRID)


def make_integer(network: SwitchableNetwork) -> None:
    """Turn a converted network, on the coarse grid, into an integer network, in place.

    Raises:
        ModelError: something in it has no integer form; the network must not be used then.
    """
    check_hooks_only_look(network, "an integer network")
    body = network.body
    ops = read(body)
    _check(ops)
    modes = [(module, module.training) for module in body.modules()]
    new = _Builder(body, ops, network.active).result()
    new.train(body.training)
    for module, training in modes:
        module.training = training
    network.body = new
    network.spec = replace(network.spec, integer=True)


def _check(ops: list[Op]) -> None:
    """Raise ModelError for layers and quantizers that have no integer form."""
    for op in ops:
        module = op.module
        if op.kind == "conv" and op.inputs[0].kind != "image":
            _check_conv(op)
        elif op.kind == "conv" and getattr(module, "weight_quantizer", None) is not None:
            raise ModelError(
                f"integer: {op.name} reads the image and has low-bit weights, where an integer "
                "network has 8 bits; leave its bits out of `layer_bits`, or leave out `integer`"
            )
        elif op.kind == "head":
            _check_head(op)
        if op.kind == "linear" and op.users:
            raise ModelError(
                f"integer: {op.name} is a Linear layer before the last, which has no integer form; "
                "replace it, or leave out `integer`"
            )
        parts = [module] if isinstance(module, Quantizer) else []
        parts += [q for q in (getattr(module, "weight_quantizer", None),) if q is not None]
        for quantizer in parts:
            learned = quantizer.has_own_thresholds()
            if not quantizer.has_integer_form() or learned or quantizer.grid is None:
                kind = quantizer.kind or type(quantizer).__name__
                raise ModelError(
                    f"integer: {op.name} has the quantizer '{kind}', which has no integer form; "
                    "choose another, or leave out `integer`"
                )


def _check_conv(op: Op) -> None:
    layer, source = op.module, op.inputs[0]
    while source.kind == "same":
        source = source.inputs[0]
    weights = getattr(layer, "weight_quantizer", None)
    if weights is None:
        raise ModelError(
            f"integer: {op.name} has float32 weights and does not read the image itself; give it "
            "1 to 4 bits, or leave out `integer`"
        )
    largest = source.module.grid if source.kind == "quantize" else 255
    _check_sums(op.name, layer, weights.grid or 127, largest or 127)


def _check_head(op: Op) -> None:
    if getattr(op.module, "weight_quantizer", None) is not None:
        raise ModelError(
            f"integer: {op.name} gives the logits and has low-bit weights, where an integer "
            "network has 8 bits; leave its bits out of `layer_bits`, or leave out `integer`"
        )
    products = op.module.weight[0].numel()
    if products * WEIGHT_LIMIT * 255 > 2**31 - 1:
        raise ModelError(
            f"integer: {op.name} sums {products:,} products, more than 32 bits hold; split it in "
            "groups, or leave out `integer`"
        )
    if (op.module.in_channels, op.module.groups) == (IMAGE_CHANNELS, 1):
        raise ModelError(
            f"integer: {op.name} reads {IMAGE_CHANNELS} channels, which kernels would take for the "
            "image's; use another number, or leave out `integer`"
        )


def _check_sums(name: str, layer: nn.Conv2d, weight: int, value: int) -> None:
    """Raise ModelError where sums may be larger than what float32 holds exactly."""
    products = layer.weight[0].numel()
    if products * weight * value > SUM_LIMIT:
        raise ModelError(
            f"integer: {name} sums {products:,} products of up to {weight} x {value}, more than "
            "float32 adds exactly (2^24); split it in groups, or leave out `integer`"
        )


@dataclass(eq=False)
class _Step:
    """A layer to be made: the operation it starts with, and those that become part of it."""

    head: Op
    tail: Op
    norm: nn.Module | None = None
    relu: bool = False
    clip: float | None = None
    quantizer: ActivationQuantizer | None = None


class _Builder:
    """Makes the layers of a network's operations, and the graph that calls them."""

    def __init__(self, body: nn.Module, ops: list[Op], active: ActiveSetting) -> None:
        self.body, self.ops, self.active = body, ops, active
        self.root, self.graph = nn.Module(), fx.Graph()
        # By operation whose result is a value: the layer that makes it.
        self.steps: dict[Op, _Step] = {}
        self.taken: set[Op] = set()
        self.nodes: dict[Op, fx.Node] = {}
        self.kinds: dict[Op, Value] = {}
        self.scales: dict[Op, ByteScale] = {}
        self._parents: dict[Op, Op] = {}

    def result(self) -> fx.GraphModule:
        for op in self.ops:
            if op not in self.taken and op.kind in ("conv", "add", "average", *_ORDER):
                step = self._step(op)
                self.steps[step.tail] = step
        for op in self.ops:
            if op.kind == "add":
                for source in op.inputs:
                    self._join(op, source)
        heads = {step.head: step for step in self.steps.values()}
        for op in self.ops:
            if op in heads:
                self._layer(heads[op])
            elif op not in self.taken:
                self._other(op)
        self.graph.output(self.nodes[self.ops[-1]])
        return fx.GraphModule(self.root, self.graph, class_name=type(self.body).__name__)

    def _step(self, head: Op) -> _Step:
        """A layer, and what follows it."""
        step = _Step(head, head)
        if head.kind in _ORDER:
            wanted: tuple[str, ...] = _ORDER[_ORDER.index(head.kind) :]
            following: Op | None = head
        else:
            wanted = {"add": ("relu",), "average": ()}.get(head.kind, _ORDER)
            following = head.only_user
        for kind in wanted:
            if following is None or following.kind != kind:
                continue
            if kind == "norm":
                step.norm = following.module
            elif kind == "relu":
                step.relu, step.clip = True, following.clip
            else:
                step.quantizer = following.module
            self.taken.add(following)
            step.tail, following = following, following.only_user
        return step

    def _producer(self, op: Op) -> Op:
        """The operation whose layer made the values of a result; a resized map keeps its scale."""
        while op.kind in ("same", "resize"):
            op = op.inputs[0]
        return op

    def _join(self, add: Op, source: Op) -> None:
        """Let a sum and what is added share a scale."""
        made = self._producer(source)
        tail = next(step.tail for step in self.steps.values() if step.head is add)
        if made in self.steps and self.steps[made].quantizer is None:
            self._parents[self._root(tail)] = self._root(made)

    def _root(self, op: Op) -> Op:
        while op in self._parents and self._parents[op] is not op:
            op = self._parents[op]
        return op

    def _scale(self, tail: Op) -> ByteScale:
        root = self._root(tail)
        if root not in self.scales:
            self.scales[root] = ByteScale(self.active)
        return self.scales[root]

    def _layer(self, step: _Step) -> None:
        """Make a layer and call it."""
        head, tail = step.head, step.tail
        if head.kind == "add":  # before the sum's own, whose scale they share
            inputs = [self._bytes(head, position, tail) for position in range(2)]
        else:
            inputs = [self.nodes[source] for source in head.inputs]
        out: Value
        if step.quantizer is not None:
            out = step.quantizer
        else:
            unsigned = step.relu or (head.kind == "average" and _is_unsigned(self._value(head)))
            out = Bytes(self._scale(tail), unsigned, step.clip)
        more: dict[str, Any] = {"norm": step.norm, "relu": step.relu, "clip": step.clip, "out": out}
        name = head.name
        layer: nn.Module
        if head.kind == "conv":
            if head.inputs[0].kind == "image":
                _check_sums(name, head.module, WEIGHT_LIMIT, 255)
                layer = IntegerImageConv(head.module, self.active, **more)
            else:
                assert isinstance(head.module, QuantConv2d)
                head.module.input_quantizer = None
                source = self._value(head)
                layer = IntegerConv(head.module, self.active, source, **more)
        elif head.kind == "add":
            assert isinstance(out, Bytes)
            layer = IntegerSum(out)
            name = self._unused(f"{owner_of(head.node)}.sum")
        elif head.kind == "average":
            assert isinstance(out, Bytes)
            layer = IntegerAverage(head.module, self.active, self._value(head), out)
            if head.node.op != "call_module":
                name = self._unused(f"{owner_of(head.node)}.average")
        else:
            layer = IntegerMap(self.active, self._value(head), **more)
            if head.node.op != "call_module":
                name = self._unused(f"{owner_of(head.node)}.map")
        self.nodes[tail] = self._call(name, layer, inputs)
        self.kinds[tail] = out
        # Sizes of what is inside of the layer.
        op = head
        while op is not tail:
            self.nodes[op] = self.nodes[tail]
            op = op.users[0]

    def _value(self, reader: Op, position: int = 0) -> Value:
        """What the values are that an operation reads.

        Raises:
            ModelError: they are the image's.
        """
        made = self._producer(reader.inputs[position])
        if made not in self.kinds:
            raise ModelError(
                f"integer: {reader.name} reads the image, which only a convolution with float32 "
                "weights can; let one come first, or leave out `integer`"
            )
        return self.kinds[made]

    def _bytes(self, add: Op, position: int, tail: Op) -> fx.Node:
        """A value that is added, as bytes of the sum's scale."""
        value, source = self._value(add, position), add.inputs[position]
        if isinstance(value, Bytes):
            return self.nodes[source]
        out = Bytes(self._scale(tail), _is_unsigned(value))
        layer = IntegerMap(self.active, value, None, False, None, out)
        return self._call(self._unused(f"{source.name}_bytes"), layer, [self.nodes[source]])

    def _other(self, op: Op) -> None:
        """What is no layer between two roundings, and what gives the logits."""
        if op.kind == "image":
            self.nodes[op] = self.graph.node_copy(op.node)
        elif op.kind in ("linear", "head"):
            kind = IntegerLinear if op.kind == "linear" else IntegerHead
            layer = kind(op.module, self.active, self._value(op))
            self.nodes[op] = self._call(op.name, layer, [self.nodes[op.inputs[0]]])
        elif op.kind == "resize":
            self._resize(op)
        elif op.module is not None:
            name = self._unused(f"{owner_of(op.node)}.pool")
            self.nodes[op] = self._call(name, op.module, [self.nodes[op.inputs[0]]])
        else:
            if op.node.op == "call_module":
                self._place(str(op.node.target), self.body.get_submodule(str(op.node.target)))
            self.nodes[op] = self.graph.node_copy(op.node, lambda node: self.nodes[op.reads[node]])

    def _resize(self, op: Op) -> None:
        value = self._value(op)
        if not isinstance(value, Bytes):
            raise ModelError(
                f"integer: {op.name} resizes what a quantizer gives, and levels have none between "
                "them; resize before the quantizer, or leave out `integer`"
            )
        layer = IntegerResize(self.active, value, **op.fields)
        name = op.name
        if op.node.op != "call_module":
            name = self._unused(f"{owner_of(op.node)}.resize")
        inputs: list[Any] = [self.nodes[op.inputs[0]]]
        if op.size is not None:
            inputs.append(fx.node.map_arg(op.size, lambda node: self.nodes[op.reads[node]]))
        self.nodes[op] = self._call(name, layer, inputs)

    def _call(self, name: str, layer: nn.Module, inputs: list[Any]) -> fx.Node:
        if name in dict(self.root.named_modules()):
            # A pooling or Upsample that is called twice: each call reads values of its own.
            name = self._unused(name)
        self._place(name, layer)
        return self.graph.call_module(name, tuple(inputs))

    def _place(self, name: str, layer: nn.Module) -> None:
        parent = self.root
        *above, last = name.split(".")
        for part in above:
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = getattr(parent, part)
        parent.add_module(last, layer)

    def _unused(self, name: str) -> str:
        """A name that no module has."""
        name = name.lstrip(".")
        names = {n for n, _ in (*self.body.named_modules(), *self.root.named_modules())}
        found, count = name, 1
        while found in names:
            count += 1
            found = f"{name}{count}"
        return found


def _is_unsigned(value: Value) -> bool:
    return value.low == 0 if isinstance(value, Bytes) else not value.signed
