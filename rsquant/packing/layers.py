"""Layers of a traced network, and what of it becomes part of an epilogue: norm, ReLU, quantizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from rsquant.nn.norm import SwitchableBatchNorm1d, SwitchableBatchNorm2d
from rsquant.nn.padded import PaddedConv2d
from rsquant.nn.quantized import QuantConv2d, QuantLinear
from rsquant.packed.ops.extend import ExtendSpec
from rsquant.packing.call import Call
from rsquant.packing.ops import Op, Pair
from rsquant.packing.weights import geometry
from rsquant.padding import extent_of, output_side, pads_at
from rsquant.quantizers import ActivationQuantizer

_RELUS = (nn.ReLU, torch.relu, torch.relu_, functional.relu, "relu", "relu_")


def layer_of(call: Call) -> Op | None:
    """The operation that a call of a layer or of a ReLU is; None of any other call."""
    module = call.module
    target: Any = call.node.target if module is None else type(module)
    if target in _RELUS:
        return _like(call, "relu")
    if target is functional.relu6:
        return _relu(call, 6.0)
    if isinstance(module, (QuantConv2d, QuantLinear)):
        x = _extended(call, module)
        if module.input_quantizer is not None:
            quantizer = Op("quantize", f"{call.name}.input_quantizer", (x,), module.input_quantizer)
            quantizer.pixels, quantizer.channels = x.pixels, x.channels
            call.note(quantizer)
            quantizer.sides = x.sides
            x = quantizer
        return _layer(call, x, module)
    if module is not None and type(module) in (nn.Conv2d, PaddedConv2d, nn.Linear):
        return _layer(call, _extended(call, module), module)
    if type(module) is SwitchableBatchNorm1d and not call.input().pooled:
        call.refuse("is a BatchNorm1d of several pixels", "average the whole map first")
    if isinstance(module, (SwitchableBatchNorm2d, ActivationQuantizer)):
        return _like(call, "quantize" if isinstance(module, ActivationQuantizer) else "norm")
    if isinstance(module, nn.Hardtanh) and module.min_val == 0:  # ReLU6 is one
        return _relu(call, module.max_val)
    return None


def _extended(call: Call, module: nn.Module) -> Op:
    """What a layer reads, with the pixels around it of a convolution that pads otherwise than with
    zeros."""
    x = call.input()
    if not isinstance(module, nn.Conv2d) or module.padding_mode == "zeros":
        return x
    left, right, top, bottom = module._reversed_padding_repeated_twice
    if not any((left, right, top, bottom)):
        return x
    made: Op = ExtendSpec.around(call.step, x, (top, left, bottom, right), module.padding_mode)
    return made


def _layer(call: Call, x: Op, module: nn.Module) -> Op:
    """A convolution or linear layer."""
    if isinstance(module, nn.Linear):
        if not x.pooled:
            call.refuse("reads a map of several pixels", "average the whole map first")
        op = call.op("linear", (x,), channels=module.out_features, pixels=(1, 1))
    else:
        assert isinstance(module, nn.Conv2d)
        pixels = _pixels_of(call.name, module, x)
        op = call.op("conv", (x,), channels=module.out_channels, pixels=pixels)
    op.module = module
    return op


def _relu(call: Call, clip: float) -> Op:
    op = _like(call, "relu")
    op.clip = clip
    return op


def _like(call: Call, kind: str) -> Op:
    """An operation on each value of the input."""
    x = call.input()
    op = call.op(kind, (x,), pixels=x.pixels)
    op.module = None if kind == "relu" else call.module
    return op


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
