"""The layers of an integer network as operations."""

from __future__ import annotations

from rsquant.nn.integer.endings import IntegerHead, IntegerLinear
from rsquant.nn.integer.layers import (
    IntegerAverage,
    IntegerConv,
    IntegerImageConv,
    IntegerMap,
    IntegerSum,
    WindowAverage,
)
from rsquant.nn.integer.resize import IntegerResize
from rsquant.packed.ops.resize import ResizeSpec
from rsquant.packing.call import Call
from rsquant.packing.ops import Op
from rsquant.quantizers import ActivationQuantizer

_LAYERS = {
    IntegerImageConv: "conv",
    IntegerConv: "conv",
    IntegerMap: "map",
    IntegerSum: "add",
    IntegerAverage: "average",
    IntegerResize: ResizeSpec.OP,
    IntegerLinear: "linear",
    IntegerHead: "conv",
}
INTEGER_LAYERS = tuple(_LAYERS)
_SHAPES = ("Flatten", "flatten", "squeeze", "view", "reshape")


def gives_levels(op: Op) -> bool:
    """Whether an operation makes levels of bytes."""
    return isinstance(op.module, IntegerMap) and isinstance(op.module.out, ActivationQuantizer)


def ascends(op: Op) -> bool:
    """Whether it makes levels that ascend with its input: a BatchNorm may turn the order."""
    return gives_levels(op) and getattr(op.module, "norm", None) is None


def integer_op(call: Call, first: Op | None) -> Op | None:
    """The operation of a layer of an integer network; None of any other call.

    Pooled values in another shape are what they were: shapes are not known here.

    Args:
        first: the value that the call reads first, if it is one.
    """
    module = call.module
    if call.what in _SHAPES and first is not None and isinstance(first.module, INTEGER_LAYERS):
        return first if first.pooled else None
    if not isinstance(module, INTEGER_LAYERS):
        return None
    if isinstance(module, IntegerResize):
        op: Op = ResizeSpec.trace(call)
        return op
    inputs = tuple(call.value(source) for source in call.node.args)
    source = inputs[0]
    op = Op(_LAYERS[type(module)], call.name, inputs, module, pixels=source.pixels)
    op.channels = source.channels
    if isinstance(module, (IntegerImageConv, IntegerConv, IntegerHead)):
        op.channels, op.pixels = module.layer.out_channels, None
    elif isinstance(module, IntegerLinear):
        op.channels = module.layer.out_features
    elif isinstance(module, IntegerAverage):
        op.pixels = None if isinstance(module.pool, WindowAverage) else (1, 1)
    return op
