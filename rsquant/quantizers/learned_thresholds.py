"""Activations at uniform levels, with thresholds that are learned apart from them: N2UQ.

    y = s l,  l = how many thresholds x exceeds, counted from the lowest number
    t_i = (k_(i-1) + k_i) / 2       thresholds, i = 1 .. L - 1
    k_0 = start, k_i = k_(i-1) + a_i        knots; gaps a_i > 0

The gradient is that of the function whose rounding y is: through the knots, x = k_i at level i,
linear between them (it is the mean of y if a value between two knots took either level by chance,
the nearer one more often). With f(x) for the number it gives, in (k_(i-1), k_i):

    f = i - 1 + (x - k_(i-1)) / a_i        df/dx = 1 / a_i           df/dstart = -1 / a_i
    df/da_i = -(x - k_(i-1)) / a_i^2       df/da_j = -1 / a_i for j < i

and all of them 0 beyond the first and the last knot. The gradient of s is l, which is exact. All
but x's are scaled by 1 / sqrt(n (L - 1)), n values of an image, as LSQ does. Where all gaps are
s and start is 0, y and x's gradient are those of LSQ, and the gradients of s and the gaps add up to
that of LSQ's step.

Source: N2UQ (arXiv 2111.14826), section 3.2, generalized straight-through estimator. There a second
learned scale multiplies x, which the knots have here already.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from rsquant.quantizers import codes
from rsquant.quantizers.base import ActivationQuantizer, IntegerForm

# Gaps and steps that descent takes to 0 or beyond.
_LEAST = 1e-8
# Of starting from data: how many values are enough, from which steps, relative to the root mean
# square, and how often.
_SAMPLE = 2**18
_SCALES = (0.25, 0.5, 1.0)
_ROUNDS = 20


def knots_of(start: Tensor, gaps: Tensor) -> Tensor:
    """(L,) ascending: where the function that y rounds has the value of a level."""
    return torch.cat([start.reshape(1), start + gaps.cumsum(0)])


class _Round(torch.autograd.Function):
    """Values to levels by thresholds, and the gradients above."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step: Tensor, start: Tensor, gaps: Tensor, lowest: int, scale: float
    ) -> Tensor:
        number = _number(x, codes.thresholds(knots_of(start, gaps)), lowest)
        ctx.save_for_backward(x, step, start, gaps)
        ctx.lowest, ctx.scale = lowest, scale
        return number.mul_(step)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None, None]:
        x, step, start, gaps = ctx.saved_tensors
        knots = knots_of(start, gaps)
        number = _number(x, codes.thresholds(knots), ctx.lowest)
        of_step = number.mul_(grad).sum() * ctx.scale
        slope = torch.zeros_like(grad)
        sums, shares = [], []
        for low, high, gap in zip(knots[:-1].unbind(), knots[1:].unbind(), gaps, strict=True):
            # Behind the first knot and not behind the second; of a value there, and of x - k.
            inside = (x > low).logical_and_(x <= high)
            part = torch.where(inside, grad, 0.0).mul_(step / gap)
            slope += part
            sums.append(part.sum())
            shares.append(part.mul_(x - low).sum() / gap)
        total = torch.stack(sums)
        later = total.sum() - total.cumsum(0)
        of_gaps = -(torch.stack(shares) + later) * ctx.scale
        return slope, of_step, -total.sum() * ctx.scale, of_gaps, None, None


def _number(x: Tensor, bounds: Tensor, lowest: int) -> Tensor:
    """How many of the bounds each value exceeds, from `lowest` on; that is NaN's. Like `x`."""
    first, *others = bounds.unbind()
    # A sum of comparisons: an index into the levels takes ten times as long on a CPU.
    number = (x > first).to(x.dtype)
    for bound in others:
        number += x > bound
    return number.add_(lowest) if lowest else number


class LearnedThresholds(ActivationQuantizer):
    """Activations at multiples of a learned step, by learned thresholds.

    Args:
        bits: K, 1 to 4.
        signed: the input has negative values: numbers -L / 2 .. L / 2 - 1. One bit stays 0, s.
        grid: see Quantizer; the levels are integers without one too.
    """

    def __init__(self, bits: int, signed: bool = False, grid: int | None = None) -> None:
        super().__init__(bits, signed and bits > 1, grid)
        step = 2.0 / (2**bits - 1)
        self.step = nn.Parameter(torch.full((), step))
        self.start = nn.Parameter(torch.full((), self._lowest * step))
        self.gaps = nn.Parameter(torch.full((2**bits - 1,), step))

    @property
    def _lowest(self) -> int:
        return -(2 ** (self.bits - 1)) if self.signed else 0

    def _positive(self) -> tuple[Tensor, Tensor]:
        """The step and the gaps."""
        return self.step.abs().clamp_min(_LEAST), self.gaps.abs().clamp_min(_LEAST)

    def fit(self, values: Tensor) -> None:
        """Equidistant levels of the least squared error found, and thresholds between them."""
        values = values.flatten()
        values = values[:: max(1, -(-values.numel() // _SAMPLE))]
        spread = values.square().mean().sqrt()
        found = [self._settle(values, spread * scale) for scale in _SCALES]
        step = min(found, key=lambda one: float(self._difference(values, one).square().mean()))
        self.step.copy_(step)
        self.start.copy_(self._lowest * step)
        self.gaps.fill_(step)

    def _settle(self, values: Tensor, step: Tensor) -> Tensor:
        """Values to their numbers and the step by least squares, in turn, as QEM fits a basis."""
        for _ in range(_ROUNDS):
            numbers = self._numbers(values, step)
            step = (numbers * values).sum() / numbers.square().sum().clamp_min(1e-30)
            step = step.clamp_min(_LEAST)
        return step

    def _numbers(self, values: Tensor, step: Tensor) -> Tensor:
        return (values / step).round().clamp(self._lowest, self._lowest + len(self.gaps))

    def _difference(self, values: Tensor, step: Tensor) -> Tensor:
        return values - self._numbers(values, step) * step

    def levels(self) -> Tensor:
        step = self._positive()[0].detach()
        return codes.numbers(self.bits, self.signed).to(step) * step

    def thresholds(self) -> Tensor:
        gaps = self._positive()[1].detach()
        return codes.thresholds(knots_of(self.start.detach(), gaps))

    def on_grid(self) -> IntegerForm:
        """Two's complement where it is signed."""
        basis, patterns = codes.twos_complement(self.bits, self.signed)
        zero = torch.zeros((), dtype=torch.int64)
        return IntegerForm(basis, zero, self._positive()[0].detach(), patterns)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize a tensor of any shape; the result has the dtype of `x`.

        Gradient: see the module.
        """
        step, gaps = self._positive()
        start: Tensor = self.start
        if not self.updating or self.still.value:
            step, gaps, start = step.detach(), gaps.detach(), start.detach()
        scale = 1 / math.sqrt(max(1, x[0].numel()) * len(gaps))
        rounded: Tensor = _Round.apply(x.float(), step, start, gaps, self._lowest, scale)
        return rounded.to(x.dtype)
