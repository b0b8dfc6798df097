"""A network on Brevitas's own layers, as its users write them: the peer of a training step."""

from __future__ import annotations

import copy
from typing import Any

import brevitas.nn as qnn
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerTensorFloat,
    Uint8ActPerTensorFloat,
)
from torch import nn

from rsquant.errors import ConfigError
from rsquant.models.preact_resnet import Activation
from rsquant.nn.padded import pads_of
from rsquant.nn.quantized import QuantConv2d, QuantLinear
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.quantizers import ActivationQuantizer


class _Weights(Int8WeightPerTensorFloat):
    scaling_per_output_channel = True


# Brevitas looks at percentiles for 300 steps first; what is timed is the time after that.
class _Unsigned(Uint8ActPerTensorFloat):
    collect_stats_steps = 1


class _Signed(Int8ActPerTensorFloat):
    collect_stats_steps = 1


def on_brevitas(network: SwitchableNetwork) -> SwitchableNetwork:
    """A copy of a low-bit network with Brevitas's layers and quantizers, of the same weights.

    Weights get `Int8WeightPerTensorFloat` per channel, activations `Uint8ActPerTensorFloat` (behind
    a ReLU as QuantReLU), at the bits of each layer.

    Raises:
        ConfigError: a convolution pads in a way that Brevitas's do not.
    """
    twin = copy.deepcopy(network)
    for module in list(twin.modules()):
        if isinstance(module, Activation) and isinstance(module[2], ActivationQuantizer):
            module[1], module[2] = qnn.QuantReLU(_Unsigned, bit_width=module[2].bits), nn.Identity()
    for module in list(twin.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, (QuantConv2d, QuantLinear)):
                setattr(module, name, _layer(child))
            elif isinstance(child, ActivationQuantizer) and not isinstance(
                module, (QuantConv2d, QuantLinear)
            ):
                kind = _Signed if child.signed else _Unsigned
                setattr(module, name, qnn.QuantIdentity(kind, bit_width=child.bits))
    return twin


def _layer(layer: QuantConv2d | QuantLinear) -> nn.Module:
    given: dict[str, Any] = {}
    if layer.weight_quantizer is None:
        given["weight_quant"] = None
    else:
        given |= {"weight_quant": _Weights, "weight_bit_width": layer.weight_quantizer.bits}
    if layer.input_quantizer is not None:
        given["input_quant"] = _Signed if layer.input_quantizer.signed else _Unsigned
        given["input_bit_width"] = layer.input_quantizer.bits
    bias = layer.bias is not None
    if isinstance(layer, QuantLinear):
        new = qnn.QuantLinear(layer.in_features, layer.out_features, bias, **given)
    else:
        if pads_of(layer) or layer.padding_mode != "zeros":
            raise ConfigError("brevitas: its convolutions pad with zeros, both sides alike")
        new = qnn.QuantConv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            bias=bias,
            **given,
        )
    new.weight, new.bias = layer.weight, layer.bias
    return new
