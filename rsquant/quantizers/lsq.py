"""LSQ: uniform levels whose step is learned by gradient descent.

    y = s clip(round(x / s), -Qn, Qp)       Qn, Qp: 2**(K-1), 2**(K-1) - 1; 0, 2**K - 1 unsigned

Gradient of s, scaled by 1 / sqrt(n Qp): round(x / s) - x / s within the range, -Qn or Qp beyond it.
Gradient of x: 1 within the range, 0 beyond it. n is the number of weights of the layer, or of
values of one image. s starts at 2 mean |x| / sqrt(Qp).

Source: Esser et al. (arXiv 1902.08153), sections 2 and 2.1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from rsquant.errors import ConfigError
from rsquant.quantizers import codes
from rsquant.quantizers.base import ActivationQuantizer, IntegerForm, WeightQuantizer
from rsquant.quantizers.rounding import round_to_levels

# A step that descent takes to 0 or beyond leaves no levels.
_LEAST = 1e-8


class _Round(torch.autograd.Function):
    """Values to the nearest level, and both gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step: Tensor, lowest: int, highest: int, scale: float
    ) -> Tensor:
        ctx.save_for_backward(x, step)
        ctx.range, ctx.scale = (lowest, highest), scale
        numbers = torch.arange(lowest, highest + 1, device=x.device)
        rounded: Tensor = round_to_levels(x, numbers.float() * step)[0]
        return rounded

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x, step = ctx.saved_tensors
        lowest, highest = ctx.range
        number = x / step
        inside = (number > lowest) & (number < highest)
        # Halfway goes down, as where values are rounded.
        rounded = torch.ceil(number - 0.5) - number
        slope = torch.where(inside, rounded, number.clamp(lowest, highest))
        moved = (grad * slope).sum() * ctx.scale
        return grad * inside, moved.reshape(step.shape), None, None, None


def _number_range(bits: int, signed: bool) -> tuple[int, int]:
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def _first_step(x: Tensor, highest: int) -> Tensor:
    return (2 * x.detach().float().abs().mean() / math.sqrt(highest)).clamp_min(1e-6)


def _positive(step: Tensor) -> Tensor:
    return step.abs().clamp_min(_LEAST)


class LSQWeightQuantizer(WeightQuantizer):
    """Weights at multiples of one learned step per layer.

    Args:
        out_channels: O.
        bits: 2 to 4: with one bit, LSQ's levels are -s and 0.
        grid: see Quantizer; the levels are integers without one too.
    """

    def __init__(self, out_channels: int, bits: int, grid: int | None = None) -> None:
        super().__init__(bits, grid)
        if bits == 1:
            raise ConfigError("lsq: weights need 2 to 4 bits (1 bit leaves -s and 0); use lq for 1")
        self.out_channels = out_channels
        self.step = nn.Parameter(torch.ones(()))

    @torch.no_grad()
    def start_from(self, weight: Tensor) -> None:
        self.step.copy_(_first_step(weight, _number_range(self.bits, True)[1]))

    def levels(self) -> Tensor:
        numbers = codes.numbers(self.bits, True).to(self.step)
        return (numbers * _positive(self.step.detach())).expand(self.out_channels, -1)

    def on_grid(self) -> IntegerForm:
        basis, patterns = codes.twos_complement(self.bits, True)
        rows = self.out_channels
        return IntegerForm(
            basis.expand(rows, -1),
            torch.zeros(rows, dtype=torch.int64),
            _positive(self.step.detach()).expand(rows),
            patterns.expand(rows, -1),
        )

    def forward(self, weight: Tensor) -> Tensor:
        lowest, highest = _number_range(self.bits, True)
        scale = 1 / math.sqrt(weight.numel() * highest)
        rounded: Tensor = _Round.apply(weight.float(), _positive(self.step), lowest, highest, scale)
        return rounded.to(weight.dtype)


class LSQActivationQuantizer(ActivationQuantizer):
    """Activations at multiples of one learned step."""

    def __init__(self, bits: int, signed: bool = False, grid: int | None = None) -> None:
        super().__init__(bits, signed and bits > 1, grid)
        self.step = nn.Parameter(torch.full((), 2.0 / (2**bits - 1)))

    def fit(self, values: Tensor) -> None:
        self.step.copy_(_first_step(values, _number_range(self.bits, self.signed)[1]))

    def levels(self) -> Tensor:
        numbers = codes.numbers(self.bits, self.signed).to(self.step)
        return numbers * _positive(self.step.detach())

    def on_grid(self) -> IntegerForm:
        basis, patterns = codes.twos_complement(self.bits, self.signed)
        zero = torch.zeros((), dtype=torch.int64)
        return IntegerForm(basis, zero, _positive(self.step.detach()), patterns)

    def forward(self, x: Tensor) -> Tensor:
        lowest, highest = _number_range(self.bits, self.signed)
        step = _positive(self.step)
        if not self.updating or self.still.value:
            step = step.detach()
        scale = 1 / math.sqrt(max(1, x[0].numel()) * highest)
        rounded: Tensor = _Round.apply(x.float(), step, lowest, highest, scale)
        return rounded.to(x.dtype)
