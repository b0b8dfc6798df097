"""What a device computes, in torch: integers in float32, then one float32 sequence.

See `packed.integers`, whose `a` and `B` these functions use, and docs/integer.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rsquant.nn.integer.byte_scale import Bytes
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.quantized import QuantConv2d
from rsquant.packed.fold import blended
from rsquant.packed.integers import WEIGHT_LIMIT, into_bytes, into_levels, slope_and_shift
from rsquant.quantizers import ActivationQuantizer
from rsquant.quantizers.rounding import round_to_levels
from rsquant.settings import Blend

# A step or scale that is divided by.
_LEAST = 1e-30
# What a value between layers is: bytes, or the levels of a quantizer.
Value = Bytes | ActivationQuantizer
Float64Array = NDArray[np.float64]


def step_of(value: Value, rows: Blend) -> float:
    """What a code of 1 is worth."""
    if isinstance(value, Bytes):
        return value.scale.at(rows)
    return float(value.on_grid().scale)


def codes_of(x: Tensor, value: Value, rows: Blend) -> Tensor:
    """The codes of values that a layer gave, see `codes_at`."""
    return codes_at(x, step_of(value, rows))


def codes_at(x: Tensor, step: float | Tensor) -> Tensor:
    """The codes of values that are step * code: integers in float32."""
    if isinstance(step, Tensor):
        return torch.round(x.float() / step.clamp_min(_LEAST))
    return torch.round(x.float() / max(step, _LEAST))


@torch.no_grad()
def byte_weights(real: Tensor) -> tuple[Tensor, Tensor]:
    """Weights rounded to integers of at most 64 per output channel, and what 1 is worth."""
    rows = real.detach().flatten(1)
    # A channel of zeros still needs a scale.
    scale = (rows.abs().amax(1) / WEIGHT_LIMIT).clamp_min(_LEAST)
    return torch.round(rows / scale.unsqueeze(1)).view_as(real), scale


def level_weights(layer: QuantConv2d) -> tuple[Tensor, Tensor]:
    """Integer weights of a low-bit layer, in its shape, float32; and their scale, (O,) float32."""
    quantizer = layer.weight_quantizer
    assert quantizer is not None
    form = quantizer.on_grid()
    scale, held = form.scale, layer.held_weight()
    dead = scale == 0
    if held is not None and not dead.any():
        # Quantized already, by the same levels.
        return torch.round(held.float() / _per_channel(scale, held)), scale
    codes = quantizer.codes(layer.weight).flatten(1)
    integers = form.integers().to(codes.device).gather(1, codes)
    return integers.float().view_as(layer.weight), scale


def sums(layer: nn.Conv2d, codes: Tensor, weights: Tensor) -> Tensor:
    """A convolution of integers, exactly; float32.

    On a CPU float32 sums are exact up to 2^24 in any order. A GPU may choose an algorithm that
    computes with fractions, or rounds to fewer bits, so there the sums are of float64.
    """
    with torch.autocast(codes.device.type, enabled=False):
        if codes.device.type == "cpu":
            return layer._conv_forward(codes, weights, None)
        return large_sums(layer, codes, weights).float()


def large_sums(layer: nn.Conv2d, codes: Tensor, weights: Tensor) -> Tensor:
    """The same of sums that may exceed 2^24, float64."""
    with torch.autocast(codes.device.type, enabled=False):
        return layer._conv_forward(codes.double(), weights.double(), None).round()


def norm_at(norm: SwitchableBatchNorm2d | None, rows: Blend) -> Float64Array | None:
    """(4, C): gamma, beta, mean and variance at a size."""
    if norm is None:
        return None
    tables = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    return blended(torch.stack([t.detach().float() for t in tables]).cpu().numpy(), rows)


def worth(
    weight_scale: Tensor,
    step: float,
    bias: Tensor | None,
    norm: SwitchableBatchNorm2d | None,
    rows: Blend,
) -> tuple[Float64Array, Float64Array]:
    """slope and shift of a layer's integers, see `packed.integers.slope_and_shift`."""
    shift = 0.0 if bias is None else bias.detach().float().cpu().numpy()
    eps = 0.0 if norm is None else norm.eps
    scale = weight_scale.detach().cpu().numpy()
    return slope_and_shift(scale, step, shift, norm_at(norm, rows), eps)


def emit(
    n: Tensor,
    slope: Float64Array,
    shift: Float64Array,
    out: Value,
    relu: bool,
    clip: float | None,
    rows: Blend,
) -> Tensor:
    """Values, step * code, of integers.

    Args:
        n: (N, C, ...) float32, integers.
        slope, shift: (C,), what they are worth.
        out: what to round to.
        relu, clip: what comes before that.
    """
    if isinstance(out, Bytes):
        step = out.scale.at(rows)
        y = scaled(n, *into_bytes(slope, shift, step, out.low < 0))
        return y.clamp_(out.low, out.high(step)).round_().mul_(step)
    form = out.on_grid()
    step, levels = float(form.scale), form.integers()
    y = scaled(n, *into_levels(slope, shift, step)).round_()
    if relu:
        y.clamp_(min=0)
    bounds = (levels[:-1] + levels[1:]).tolist()
    # What is limited to the clip never exceeds these.
    beyond = [bound for bound in bounds if clip is not None and clip <= 0.5 * step * bound]
    if beyond:
        y.clamp_(max=beyond[0])
    # The bounds are halfway between twice the levels.
    return round_to_levels(y, 2.0 * levels.to(y))[0].mul_(0.5 * step)


def scaled(n: Tensor, a: NDArray[np.float32], bias: NDArray[np.int32]) -> Tensor:
    """a float32(n + B), a new tensor; `a` and `B` are per channel, the second dimension."""
    factor, term = (_per_channel(torch.from_numpy(v).to(n.device), n, 1) for v in (a, bias))
    return (n + term.float()).mul_(factor)


def linear_sums(codes: Tensor, weights: Tensor) -> Tensor:
    """Sums of products of integers, exactly, float64: those of a classifier may exceed 2^24."""
    with torch.autocast(codes.device.type, enabled=False):
        return functional.linear(codes.double(), weights.double()).round()


def _per_channel(values: Tensor, like: Tensor, dim: int = 0) -> Tensor:
    shape: list[Any] = [1] * like.dim()
    shape[dim] = -1
    return values.view(shape)
