"""What gives the logits of an integer network: bytes by weights of 8 bits, |w| <= 64."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rsquant.nn.active import ActiveSetting
from rsquant.nn.integer.exact import (
    Value,
    byte_weights,
    codes_at,
    large_sums,
    linear_sums,
    step_of,
    worth,
)
from rsquant.nn.integer.layers import IntegerModule
from rsquant.packed.integers import multiplier_and_bias
from rsquant.quantizers.rounding import straight_through


class IntegerEnding(IntegerModule):
    """Common to both.

    Attributes:
        layer: the layer, whose weights are float32 in training.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, active: ActiveSetting, source: Value) -> None:
        super().__init__(active, source)
        self.layer = layer

    def byte_weights(self) -> tuple[Tensor, Tensor]:
        """Weights as integers, in their shape, float32, and what 1 is worth, (classes,)."""
        return byte_weights(self.layer.weight.float())

    def rounded_weight(self) -> Tensor:
        """What training computes with."""
        integers, scale = self.byte_weights()
        real = integers * scale.view(-1, *[1] * (integers.dim() - 1))
        return straight_through(self.layer.weight, real)


class IntegerLinear(IntegerEnding):
    """The classifier: logits = a float32(n + B)."""

    layer: nn.Linear

    def trained(self, x: Tensor) -> Tensor:
        weight = self.rounded_weight()
        return functional.linear(x.to(weight.dtype), weight, self.layer.bias)

    def exact(self, x: Tensor) -> Tensor:
        rows = self.active.rows
        integers, scale = self.byte_weights()
        step = step_of(self.source, rows)
        n = linear_sums(codes_at(x, step), integers)
        slope, shift = worth(scale, step, self.layer.bias, None, rows)
        a, bias = multiplier_and_bias(slope, shift)
        total = n + torch.from_numpy(bias).to(n.device)
        logits = total.float() * torch.from_numpy(a).to(n.device)
        return logits.to(self.layer.weight.dtype)


class IntegerHead(IntegerEnding):
    """The convolution that gives a map of logits: a float32(n) + b, two roundings."""

    layer: nn.Conv2d

    def trained(self, x: Tensor) -> Tensor:
        weight = self.rounded_weight()
        return self.layer._conv_forward(x.to(weight.dtype), weight, self.layer.bias)

    def exact(self, x: Tensor) -> Tensor:
        rows = self.active.rows
        integers, scale = self.byte_weights()
        step = step_of(self.source, rows)
        n = large_sums(self.layer, codes_at(x, step), integers).float()
        a, b = (
            torch.from_numpy(v.astype(np.float32)).to(n.device).view(-1, 1, 1)
            for v in worth(scale, step, self.layer.bias, None, rows)
        )
        return (n.mul_(a) + b).to(self.layer.weight.dtype)


def integer_heads(body: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """By name, the layers that give the logits of an integer network."""
    return {
        f"{name}.layer": module.layer
        for name, module in body.named_modules()
        if isinstance(module, IntegerEnding)
    }
