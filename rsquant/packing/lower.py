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
from rsquant.packed.ops.base import OpSpec
from rsquant.packed.ops.conv import ConvSpec
from rsquant.packed.ops.epilogue import EpilogueSpec
from rsquant.packed.ops.map import MapSpec
from rsquant.packed.ops.registry import operations
from rsquant.packed.plan import IMAGE_CHANNELS, QuantizerSpec
from rsquant.packing.activations import quantizer_spec
from rsquant.packing.affine import Affine
from rsquant.packing.heads import float_heads
from rsquant.packing.obstacle import float_weights
from rsquant.packing.ops import Op
from rsquant.packing.weights import geometry, is_float
from rsquant.quantizers import ActivationQuantizer


@dataclass
class Lowered:
    """What a network's operations became.

    Attributes:
        layers: by the name its tensors carry in the file: convolutions, classifier and norms.
        codes: by name of the quantizer, the values that hold what it gives, one for each time it
            runs (behind the max-pooling, where it was moved in front of one).
        values: of an integer network, by name of a layer, the value that holds what it gives,
            where the file has it.
    """

    steps: list[OpSpec] = field(default_factory=list)
    quantizers: list[QuantizerSpec] = field(default_factory=list)
    layers: dict[str, nn.Module] = field(default_factory=dict)
    codes: dict[str, list[int]] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    def unused(self, wanted: str) -> str:
        """A step's name; a layer that runs again gets a number, and its tensors a second time."""
        name, count = wanted, 1
        while name in self._names:
            count += 1
            name = f"{wanted}@{count}"
        self._names.add(name)
        return name


def lower(ops: Sequence[Op]) -> Lowered:
    """Steps of a traced network.

    Raises:
        PackError: a convolution that has no low-bit weights, or that is not a plain one.
    """
    return Lowering(ops).result()


class Lowering:
    """Walks the operations in order; a value's number is given when its step is made.

    Attributes:
        heads: the convolutions that may have float weights.
        lowered: what was made so far.
        floats, codes: numbers of the values that an operation's result has.
        taken: operations that are part of a step already.
    """

    def __init__(self, ops: Sequence[Op]) -> None:
        self.ops = ops
        self.heads = set[Op]() if ops[-1].kind == "linear" else float_heads(ops)
        self.lowered = Lowered()
        self.floats: dict[Op, int] = {}
        self.codes: dict[Op, int] = {}
        self.taken: set[Op] = set()
        self._indices: dict[nn.Module, int] = {}
        self._values = 1

    def result(self) -> Lowered:
        for op in self.ops:
            if op in self.taken or op.kind == "image":
                continue
            if op.kind == "conv":
                self._conv(op)
            elif op.kind in operations():
                self.lowered.steps.append(operations()[op.kind].lower(op, self))
            elif not _ends_in_average(op):  # else the average takes it
                self._map(op)
        return self.lowered

    def _conv(self, op: Op) -> None:
        source = op.inputs[0]
        layer = op.module
        assert layer is not None
        shape = geometry(op.name, layer, source.kind == "image", op.zeros)
        value = 0
        if source.kind == "image":
            shape = replace(shape, in_channels=IMAGE_CHANNELS)
        elif is_float(layer) and op not in self.heads:
            raise PackError(float_weights(op.name))
        else:
            value = self.stored(source, op.name)
        name = self.layer(op)
        epilogue = self.epilogue(op, op.only_user)
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

    def _map(self, op: Op) -> None:
        """A step for what no epilogue took, and all that fits behind it."""
        source = op.inputs[0]
        value = self.stored(source, op.name)
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
        if chain:  # its codes say how large it is
            readers = [user for user in readers if not _reads_size(user, result)]
        if (readers or result is self.ops[-1]) and result not in self.floats:
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

    def layer(self, op: Op) -> str:
        """The name of a step that has the tensors of a layer."""
        assert op.module is not None
        name = self.name(op.name)
        self.lowered.layers[name] = op.module
        return name

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

    def stored(self, op: Op, reader: str) -> int:
        """The codes of a result where there are some, else its float value."""
        return self.codes[op] if op in self.codes else self.float_of(op, reader)

    def any_value(self, op: Op, reader: str) -> int:
        """A value that has a result's height and width."""
        return 0 if op.kind == "image" else self.stored(op, reader)

    def write_float(self, op: Op) -> int:
        """The number of an operation's own float value."""
        self.floats[op] = self.number()
        return self.floats[op]

    def write_codes(self, op: Op) -> int:
        """The number of an operation's own codes."""
        self.codes[op] = self.number()
        return self.codes[op]

    def take(self, op: Op) -> tuple[Op, Op | None]:
        self.taken.add(op)
        return op, op.only_user

    def name(self, wanted: str) -> str:
        """A step's name; see `Lowered.unused`."""
        return self.lowered.unused(wanted)

    def number(self) -> int:
        self._values += 1
        return self._values - 1

    def norm(self, op: Op) -> tuple[str, float]:
        layer = op.module
        assert isinstance(layer, (SwitchableBatchNorm2d, Affine))
        name = wanted = f"{op.name}.norm"
        count = 1
        while self.lowered.layers.setdefault(name, layer) is not layer:
            count += 1
            name = f"{wanted}@{count}"
        return name, layer.eps

    def quantizer(self, op: Op) -> int:
        layer = op.module
        assert isinstance(layer, ActivationQuantizer)
        if layer not in self._indices:
            self._indices[layer] = len(self.lowered.quantizers)
            self.lowered.quantizers.append(quantizer_spec(op.name, layer))
        return self._indices[layer]


def _quantized_chain(op: Op) -> tuple[Op, ...]:
    """norm, relu, quantize, of which the first two may be missing; empty if it is not that."""
    chain = []
    following: Op | None = op
    for kind in ("norm", "relu", "quantize"):
        if following is not None and following.kind == kind:
            chain.append(following)
            following = following.only_user
    return tuple(chain) if chain and chain[-1].kind == "quantize" else ()


def _reads_size(op: Op, source: Op) -> bool:
    """Whether an operation needs only height and width of a result."""
    return op.kind in operations() and operations()[op.kind].reads_size(op, source)


def _ends_in_average(op: Op) -> bool:
    """Whether norm and relu lead to an average and nowhere else."""
    following: Op | None = op
    for kind in ("norm", "relu"):
        if following is not None and following.kind == kind:
            following = following.only_user
    return following is not None and following.kind == "avgpool"
