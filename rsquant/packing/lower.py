"""Operations to steps: what follows a convolution becomes its epilogue.

A step takes as much of the chain behind it as an epilogue holds, in this order:

    norm  add  relu | the value others read in float32 | norm  relu  quantize

each part may be missing, and each operation but the last must have one reader. What does not fit
becomes a map step of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from rsquant.errors import PackError
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.quantized import QuantConv2d, QuantLinear
from rsquant.packed.check import IMAGE_CHANNELS
from rsquant.packed.plan import (
    AvgPoolSpec,
    ConvSpec,
    EpilogueSpec,
    LinearSpec,
    MapSpec,
    MaxPoolSpec,
    QuantizerSpec,
    StepSpec,
)
from rsquant.packing.activations import quantizer_spec
from rsquant.packing.ops import Op
from rsquant.packing.weights import geometry, with_zeros
from rsquant.padding import Padding, all_sides, plainest
from rsquant.quantizers import ActivationQuantizer


@dataclass
class Lowered:
    """What a network's operations became.

    Attributes:
        layers: by the name its tensors carry in the file: convolutions, classifier and norms.
        codes: by name of the quantizer, the values that hold what it gives, one for each time it
            runs (behind the max-pooling, where it was moved in front of one).
    """

    steps: list[StepSpec] = field(default_factory=list)
    quantizers: list[QuantizerSpec] = field(default_factory=list)
    layers: dict[str, nn.Module] = field(default_factory=dict)
    codes: dict[str, list[int]] = field(default_factory=dict)


def lower(ops: Sequence[Op]) -> Lowered:
    """Steps of a traced network.

    Raises:
        PackError: a convolution that has no low-bit weights, or that is not a plain one.
    """
    return _Lowering(ops).result()


class _Lowering:
    """Walks the operations in order; a value's number is given when its step is made."""

    def __init__(self, ops: Sequence[Op]) -> None:
        self.ops = ops
        self.lowered = Lowered()
        self.floats: dict[Op, int] = {}
        self.codes: dict[Op, int] = {}
        # Operations that are part of a step already.
        self.taken: set[Op] = set()
        self.indices: dict[nn.Module, int] = {}
        self.values = 1
        self.names: set[str] = set()

    def result(self) -> Lowered:
        for op in self.ops:
            if op in self.taken or op.kind == "image":
                continue
            if op.kind == "conv":
                self.conv(op)
            elif op.kind == "maxpool":
                self.max_pool(op)
            elif op.kind == "avgpool":
                self.average(op)
            elif op.kind == "linear":
                self.linear(op)
            elif not _ends_in_average(op):  # else the average takes it
                self.map(op)
        return self.lowered

    def conv(self, op: Op) -> None:
        source = op.inputs[0]
        layer = op.module
        assert layer is not None
        shape = geometry(op.name, layer, source.kind == "image", op.zeros)
        value = 0
        if source.kind == "image":
            shape = replace(shape, in_channels=IMAGE_CHANNELS)
        elif not isinstance(layer, (QuantConv2d, QuantLinear)) or layer.weight_quantizer is None:
            raise PackError(
                f"{op.name}: has float32 weights in the middle of the network; leave only the "
                "first and the last layer out of the conversion"
            )
        elif source in self.codes:
            value = self.codes[source]
        else:
            value = self.float_of(source, op.name)
        name = self.name(op.name)
        self.lowered.layers[name] = layer
        epilogue = self.epilogue(op, _only_user(op))
        step = ConvSpec(
            name,
            value,
            shape.in_channels,
            shape.out_channels,
            shape.kernel,
            shape.stride,
            shape.padding,
            shape.dilation,
            shape.groups,
            epilogue,
        )
        self.lowered.steps.append(step)

    def map(self, op: Op) -> None:
        """A step for what no epilogue took, and all that fits behind it."""
        source = op.inputs[0]
        if source in self.codes:
            value = self.codes[source]
        else:
            value = self.float_of(source, op.name)
        # The epilogue may have to make a float of its own first.
        epilogue = self.epilogue(source, op)
        self.lowered.steps.append(MapSpec(self.name(op.name), value, epilogue))

    def epilogue(self, result: Op, following: Op | None) -> EpilogueSpec:
        """Take the chain behind a result, starting with `following`.

        Args:
            result: what the machine has: the convolution, or the input of a map.
        """
        spec = EpilogueSpec()
        if following is not None and following.kind == "norm":
            name, eps = self.norm(following)
            spec = replace(spec, norm=name, eps=eps)
            result, following = self.take(following)
        if following is not None and following.kind == "add":
            # Of x + x one is the result itself.
            first, second = following.inputs
            other = second if first is result else first
            if other in self.floats or other in self.codes:
                spec = replace(spec, add=self.float_of(other, following.name))
                result, following = self.take(following)
        if following is not None and following.kind == "relu":
            spec = replace(spec, relu=True, clip=following.clip)
            result, following = self.take(following)
        chains = (_quantized_chain(user) for user in result.users if user not in self.taken)
        chain: tuple[Op, ...] = next((found for found in chains if found), ())
        readers = [user for user in result.users if user not in chain]
        if readers and result not in self.floats:
            self.floats[result] = self.number()
            spec = replace(spec, keep=self.floats[result])
        for op in chain:
            self.taken.add(op)
            if op.kind == "norm":
                name, eps = self.norm(op)
                spec = replace(spec, codes_norm=name, codes_eps=eps)
            elif op.kind == "relu":
                spec = replace(spec, codes_relu=True, codes_clip=op.clip)
            else:
                self.codes[op] = self.number()
                self.lowered.codes.setdefault(op.name, []).append(self.codes[op])
                spec = replace(spec, codes=self.codes[op], quantizer=self.quantizer(op))
        return spec

    def max_pool(self, op: Op) -> None:
        source = op.inputs[0]
        assert op.window is not None
        kernel, stride, padding = op.window
        if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
            raise PackError(f"{op.name}: pads more than half its kernel; use a smaller padding")
        pads: Padding
        if isinstance(op.zeros, str):
            pads = plainest(op.zeros, kernel, stride)
        else:
            pads = with_zeros(padding, op.zeros)
        if isinstance(pads, tuple) and any(
            p >= k for p, k in zip(all_sides(pads), (*kernel, *kernel), strict=True)
        ):
            raise PackError(f"{op.name}: padding {pads} is as large as its kernel; use less")
        if source in self.codes:
            value = self.codes[source]
            self.codes[op] = output = self.number()
            if op.moved is not None:
                made = self.lowered.codes[op.moved.name]
                made[made.index(value)] = output
        else:
            value = self.float_of(source, op.name)
            self.floats[op] = output = self.number()
        name = self.name(op.name)
        self.lowered.steps.append(MaxPoolSpec(name, value, output, kernel, stride, pads))

    def average(self, op: Op) -> None:
        chain = _chain_before(op, self.taken)
        source = chain[0].inputs[0] if chain else op.inputs[0]
        name, eps, relu, clip = None, 0.0, False, None
        for part in chain:
            self.taken.add(part)
            if part.kind == "norm":
                name, eps = self.norm(part)
            else:
                relu, clip = True, part.clip
        value = self.float_of(source, op.name)
        self.floats[op] = self.number()
        self.lowered.steps.append(
            AvgPoolSpec(self.name(op.name), value, self.floats[op], name, eps, relu, clip)
        )

    def linear(self, op: Op) -> None:
        layer = op.module
        assert isinstance(layer, nn.Linear)
        value = self.float_of(op.inputs[0], op.name)
        name = self.name(op.name)
        self.lowered.layers[name] = layer
        self.lowered.steps.append(
            LinearSpec(name, value, self.number(), layer.in_features, layer.out_features)
        )

    def float_of(self, op: Op, reader: str) -> int:
        """A float value of a result; codes are made one by a step of their own."""
        if op not in self.floats:
            if op not in self.codes:
                raise PackError(
                    f"{reader}: reads the image; only a convolution can, so let one come first"
                )
            value = self.codes[op]
            self.floats[op] = self.number()
            epilogue = EpilogueSpec(keep=self.floats[op])
            self.lowered.steps.append(MapSpec(self.name(f"{op.name}.float"), value, epilogue))
        return self.floats[op]

    def take(self, op: Op) -> tuple[Op, Op | None]:
        self.taken.add(op)
        return op, _only_user(op)

    def name(self, wanted: str) -> str:
        """A step's name; a layer that runs again gets a number, and its tensors a second time."""
        name, count = wanted, 1
        while name in self.names:
            count += 1
            name = f"{wanted}@{count}"
        self.names.add(name)
        return name

    def number(self) -> int:
        self.values += 1
        return self.values - 1

    def norm(self, op: Op) -> tuple[str, float]:
        layer = op.module
        assert isinstance(layer, SwitchableBatchNorm2d)
        name = f"{op.name}.norm"
        self.lowered.layers[name] = layer
        return name, layer.eps

    def quantizer(self, op: Op) -> int:
        layer = op.module
        assert isinstance(layer, ActivationQuantizer)
        if layer not in self.indices:
            self.indices[layer] = len(self.lowered.quantizers)
            self.lowered.quantizers.append(quantizer_spec(op.name, layer))
        return self.indices[layer]


def _only_user(op: Op) -> Op | None:
    return op.users[0] if len(op.users) == 1 else None


def _quantized_chain(op: Op) -> tuple[Op, ...]:
    """norm, relu, quantize, of which the first two may be missing; empty if it is not that."""
    chain = []
    following: Op | None = op
    for kind in ("norm", "relu", "quantize"):
        if following is not None and following.kind == kind:
            chain.append(following)
            following = _only_user(following)
    return tuple(chain) if chain and chain[-1].kind == "quantize" else ()


def _ends_in_average(op: Op) -> bool:
    """Whether norm and relu lead to an average and nowhere else."""
    following: Op | None = op
    for kind in ("norm", "relu"):
        if following is not None and following.kind == kind:
            following = _only_user(following)
    return following is not None and following.kind == "avgpool"


def _chain_before(average: Op, taken: set[Op]) -> list[Op]:
    """norm and relu before an average that are no part of another step, in their order."""
    chain: list[Op] = []
    before = average.inputs[0]
    for kind in ("relu", "norm"):
        if before.kind == kind and before not in taken:
            chain.insert(0, before)
            before = before.inputs[0]
    return chain
