"""The layers of an integer network as operations."""

from __future__ import annotations

from torch import nn

from rsquant.nn.integer.layers import (
    IntegerAverage,
    IntegerConv,
    IntegerImageConv,
    IntegerLinear,
    IntegerMap,
    IntegerSum,
    WindowAverage,
)
from rsquant.packing.ops import Op

_LAYERS = {
    IntegerImageConv: "conv",
    IntegerConv: "conv",
    IntegerMap: "map",
    IntegerSum: "add",
    IntegerAverage: "average",
    IntegerLinear: "linear",
}
INTEGER_LAYERS = tuple(_LAYERS)


def integer_op(name: str, module: nn.Module, inputs: tuple[Op, ...]) -> Op:
    """The operation of a layer of an integer network."""
    kind, source = _LAYERS[type(module)], inputs[0]
    op = Op(kind, name, inputs, module, pixels=source.pixels, channels=source.channels)
    if isinstance(module, (IntegerImageConv, IntegerConv)):
        op.channels, op.pixels = module.layer.out_channels, None
    elif isinstance(module, IntegerLinear):
        op.channels = module.layer.out_features
    elif isinstance(module, IntegerAverage):
        op.pixels = None if isinstance(module.pool, WindowAverage) else (1, 1)
    return op
