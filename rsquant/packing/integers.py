"""An integer network to steps: what it rounds to bytes and levels is what the file has.

Its layers (`nn.integer.layers`) are steps already, but for what is cheaper together:

    conv or map  sum  map to levels      each but the first may be missing

A result that only a sum reads becomes the sum's step, if the other value is there by then; levels
of a result are written with it, and the bytes only where something else reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from rsquant.errors import PackError
from rsquant.nn.integer.byte_scale import Bytes, ByteScale
from rsquant.nn.integer.endings import IntegerEnding, IntegerHead, IntegerLinear
from rsquant.nn.integer.layers import (
    IntegerAverage,
    IntegerConv,
    IntegerImageConv,
    IntegerMap,
    IntegerSum,
    WindowAverage,
)
from rsquant.packed.format import Tensors
from rsquant.packed.ops.avgpool import AvgPoolSpec
from rsquant.packed.ops.avgpool2d import AvgPool2dSpec
from rsquant.packed.ops.base import OpSpec
from rsquant.packed.ops.byte_average import ByteOutput
from rsquant.packed.ops.conv import ConvSpec
from rsquant.packed.ops.epilogue import EpilogueSpec
from rsquant.packed.ops.integer_epilogue import AnyEpilogueSpec, IntegerEpilogueSpec
from rsquant.packed.ops.linear import LinearSpec
from rsquant.packed.ops.map import MapSpec
from rsquant.packed.ops.maxpool import MaxPoolSpec
from rsquant.packed.ops.resize import ResizeSpec
from rsquant.packed.ops.window import pair
from rsquant.packed.plan import IMAGE_CHANNELS
from rsquant.packing.activations import quantizer_spec
from rsquant.packing.integer_ops import gives_levels
from rsquant.packing.lower import Lowered
from rsquant.packing.ops import Op
from rsquant.packing.weights import conv_tensors, geometry
from rsquant.quantizers import ActivationQuantizer


def lower_integers(ops: Sequence[Op]) -> Lowered:
    """Steps of the operations of an integer network.

    Raises:
        PackError: a convolution that is not a plain one, or levels that no file holds.
    """
    return _Lowering(ops).result()


class _Lowering:
    """Walks the operations in order; a value's number is given when its step is made."""

    def __init__(self, ops: Sequence[Op]) -> None:
        self.ops = ops
        self.place = {op: i for i, op in enumerate(ops)}
        self.lowered = Lowered()
        self.values: dict[Op, int] = {}
        self.taken: set[Op] = set()
        self._count = 1
        self._scales: dict[ByteScale, str] = {}
        self._quantizers: dict[nn.Module, int] = {}

    def result(self) -> Lowered:
        for op in self.ops:
            if op.kind == "image":
                self.values[op] = 0
            elif op not in self.taken:
                self.lowered.steps.append(self._step(op))
        return self.lowered

    def _step(self, op: Op) -> OpSpec:
        layer = op.module
        if isinstance(layer, (IntegerImageConv, IntegerConv)):
            return self._conv(op, layer, self._epilogue(op, layer))
        if isinstance(layer, IntegerHead):
            return self._conv(op, layer, EpilogueSpec(keep=self._write(op)))
        if isinstance(layer, IntegerMap):
            return MapSpec(op.name, self.values[op.inputs[0]], self._epilogue(op, layer))
        if isinstance(layer, IntegerSum):
            return self._sum(op, layer)
        if isinstance(layer, IntegerAverage):
            return self._average(op, layer)
        if isinstance(layer, IntegerLinear):
            self.lowered.layers[op.name] = layer
            features = layer.layer.in_features, layer.layer.out_features
            return LinearSpec(op.name, self.values[op.inputs[0]], self._write(op), *features)
        if op.kind == ResizeSpec.OP:
            source, *like = (self.values[read] for read in op.inputs)
            size_of = like[0] if like else None
            return ResizeSpec(op.name, source, self._write(op), like=size_of, **op.fields)
        if op.kind == MaxPoolSpec.OP:
            source = self.values[op.inputs[0]]
            return MaxPoolSpec(self.lowered.unused(op.name), source, self._pooled(op), **op.fields)
        raise PackError(f"{op.name}: is a {op.kind}, which packed integer networks do not have")

    def _conv(
        self,
        op: Op,
        layer: IntegerImageConv | IntegerConv | IntegerHead,
        epilogue: AnyEpilogueSpec,
    ) -> ConvSpec:
        image = isinstance(layer, IntegerImageConv)
        shape = geometry(op.name, layer.layer, image, op.zeros)
        if image:
            shape = replace(shape, in_channels=IMAGE_CHANNELS)
        self.lowered.layers[op.name] = layer
        return ConvSpec(
            op.name,
            self.values[op.inputs[0]],
            shape.in_channels,
            shape.out_channels,
            shape.kernel,
            shape.stride,
            shape.padding,
            shape.dilation,
            shape.groups,
            epilogue,
        )

    def _epilogue(
        self, op: Op, layer: IntegerImageConv | IntegerConv | IntegerMap
    ) -> IntegerEpilogueSpec:
        """What ends a layer, and what becomes part of it."""
        spec = IntegerEpilogueSpec(relu=layer.relu, clip=layer.clip)
        if layer.norm is not None:
            name = f"{op.name}.norm"
            self.lowered.layers[name] = layer.norm
            spec = replace(spec, norm=name, eps=layer.norm.eps)
        out = layer.out
        if isinstance(out, ActivationQuantizer):
            return replace(spec, codes=self._write(op), quantizer=self._quantizer(op, out))
        spec = replace(spec, scale=self._scale(op, out), zero=out.zero)
        addition = op.only_user
        if addition is not None and self._is_last_of(addition, op):
            self.taken.add(addition)
            other = next(source for source in addition.inputs if source is not op)
            total = _sum_of(addition)
            spec = replace(spec, add=self.values[other], branch_zero=out.zero, zero=total.zero)
            # A ReLU of the branch is in its zero point, and the sum's own in that of the sum.
            spec = replace(spec, relu=total.low == 0, clip=total.clip)
            op = addition
        return self._read_by(op, spec)

    def _sum(self, op: Op, layer: IntegerSum) -> MapSpec:
        """A sum of which no value is made on the spot."""
        one, other = op.inputs
        spec = IntegerEpilogueSpec(
            add=self.values[other],
            branch_zero=_bytes_of(one).zero,
            relu=layer.out.low == 0,
            clip=layer.out.clip,
            scale=self._scale(op, layer.out),
            zero=layer.out.zero,
        )
        return MapSpec(op.name, self.values[one], self._read_by(op, spec))

    def _read_by(self, op: Op, spec: IntegerEpilogueSpec) -> IntegerEpilogueSpec:
        """The values of a result in bytes: levels, of one map, and bytes for all others."""
        maps = (user for user in op.users if gives_levels(user))
        chain = next(maps, None)
        if chain is None or op.users != [chain]:
            spec = replace(spec, keep=self._write(op))
        if chain is None:
            return spec
        self.taken.add(chain)
        layer = chain.module
        assert isinstance(layer, IntegerMap) and isinstance(layer.out, ActivationQuantizer)
        if layer.norm is not None:
            name = f"{chain.name}.norm"
            self.lowered.layers[name] = layer.norm
            spec = replace(spec, codes_norm=name, codes_eps=layer.norm.eps)
        return replace(
            spec,
            codes=self._write(chain),
            codes_relu=layer.relu,
            codes_clip=layer.clip,
            quantizer=self._quantizer(chain, layer.out),
        )

    def _is_last_of(self, addition: Op, op: Op) -> bool:
        """Whether a sum reads a result, and the other value was made before."""
        if addition.kind != "add" or addition.inputs[0] is addition.inputs[1]:
            return False
        if _bytes_of(op).clip is not None:  # beyond what its zero point says
            return False
        return all(self.place[source] <= self.place[op] for source in addition.inputs)

    def _average(self, op: Op, layer: IntegerAverage) -> AvgPoolSpec | AvgPool2dSpec:
        source = self.values[op.inputs[0]]
        output = ByteOutput(self._scale(op, layer.out), layer.out.zero)
        pool = layer.pool
        if not isinstance(pool, WindowAverage):
            return AvgPoolSpec(op.name, source, self._write(op), None, 0.0, False, None, output)
        return AvgPool2dSpec(
            op.name,
            source,
            self._write(op),
            pair(pool.kernel_size),
            pair(pool.stride),
            pair(pool.padding),
            bool(pool.ceil_mode),
            bool(pool.count_include_pad),
            pool.divisor_override,
            output,
        )

    def _scale(self, op: Op, out: Bytes) -> str:
        """The name of a scale, that of the first value that has it."""
        name = self._scales.setdefault(out.scale, f"{op.name}.bytes")
        self.lowered.layers[name] = out.scale
        return name

    def _quantizer(self, op: Op, quantizer: ActivationQuantizer) -> int:
        if quantizer not in self._quantizers:
            self._quantizers[quantizer] = len(self.lowered.quantizers)
            self.lowered.quantizers.append(quantizer_spec(op.name, quantizer))
        self.lowered.codes.setdefault(op.name, []).append(self.values[op])
        return self._quantizers[quantizer]

    def _pooled(self, op: Op) -> int:
        """The value of a max-pooling; that of the quantizer which stood behind it."""
        written = self._write(op)
        if op.moved is not None:
            del self.lowered.values[op.name]
            before = self.lowered.values[op.moved.name]
            self.lowered.values[op.moved.name] = written
            made = self.lowered.codes[op.moved.name]
            made[made.index(before)] = written
        return written

    def _write(self, op: Op) -> int:
        self.values[op] = self.lowered.values[op.name] = self._count
        self._count += 1
        return self.values[op]


def _sum_of(op: Op) -> Bytes:
    assert isinstance(op.module, IntegerSum)
    return op.module.out


def _bytes_of(op: Op) -> Bytes:
    """What a value is rounded to; a pooling of maxima and a resized map keep that."""
    while op.kind in (MaxPoolSpec.OP, ResizeSpec.OP):
        op = op.inputs[0]
    out = getattr(op.module, "out", None)
    assert isinstance(out, Bytes)
    return out


def integer_tensors(name: str, layer: nn.Module) -> Tensors:
    """The tensors of a layer of an integer network, or a scale of bytes."""
    if isinstance(layer, ByteScale):
        return {name: layer.step.detach().float().numpy()}
    if isinstance(layer, IntegerConv):
        return conv_tensors(name, layer.layer, halved=False)
    assert isinstance(layer, (IntegerImageConv, IntegerEnding))
    *_, integers, scale = layer.byte_weights()
    weight = integers.detach().numpy().astype(np.int8)
    if weight.ndim == 4:
        weight = np.ascontiguousarray(weight.transpose(0, 2, 3, 1))
    bias = layer.layer.bias
    zeros = np.zeros(len(weight), np.float32)
    return {
        f"{name}.weight": weight,
        f"{name}.scale": scale.detach().float().numpy(),
        f"{name}.bias": zeros if bias is None else bias.detach().float().numpy(),
    }
