"""Uniform quantizers: equal steps over the range of the values, with no learned part.

Weights: per output channel, s ((L - 1) / 2) = max |w|, levels s (l - (L - 1) / 2), l = 0 .. L - 1:
symmetric, without a zero. Activations: s (L - 1) is a percentile of the values, averaged over
batches; levels s l, or s (l - L / 2) where the input is signed.

Gradient: straight through within the range of the levels, 0 beyond it (weights: identity).
"""

from __future__ import annotations

import torch
from torch import Tensor

from rsquant.quantizers import codes
from rsquant.quantizers.base import ActivationQuantizer, IntegerForm, WeightQuantizer
from rsquant.quantizers.calls import basis_of, check_forward, recomputing
from rsquant.quantizers.over_processes import spread
from rsquant.quantizers.rounding import RoundActivations, round_weights

MOMENTUM = 0.9
# Of the sizes of activations: the rest is clipped. With 2 bits the whole range would leave one
# level to most values.
PERCENTILE = 0.99
_SAMPLE = 2**16


class UniformWeightQuantizer(WeightQuantizer):
    """Weights at equal steps, from min to max of each output channel.

    Args:
        out_channels: O.
        bits, grid: see Quantizer; the levels are odd integers up to L - 1 times half a step.
    """

    step: Tensor

    def __init__(self, out_channels: int, bits: int, grid: int | None = None) -> None:
        super().__init__(bits, grid)
        self.register_buffer("step", torch.ones(out_channels))

    @torch.no_grad()
    def start_from(self, weight: Tensor) -> None:
        # A dead channel still needs distinct levels.
        largest = weight.flatten(1).float().abs().amax(1).clamp_min(1e-6)
        self.step.copy_(2 * largest / (2**self.bits - 1))

    def levels(self) -> Tensor:
        return _odd(self.bits, self.step) * (0.5 * self.step).unsqueeze(-1)

    def on_grid(self) -> IntegerForm:
        shape = (*self.step.shape, 1)
        basis = (2 * 2 ** torch.arange(self.bits)).expand(*shape[:-1], -1)
        offset = torch.full(self.step.shape, 1 - 2**self.bits)
        patterns = torch.arange(2**self.bits).expand(*shape[:-1], -1)
        return IntegerForm(basis, offset, 0.5 * self.step.detach(), patterns)

    def forward(self, weight: Tensor) -> Tensor:
        if self.training and not recomputing():
            check_forward(type(self).__name__)
            self.start_from(weight)
        step = basis_of(self, self.step)
        level = _odd(self.bits, step) * (0.5 * step).unsqueeze(-1)
        rounded = round_weights(weight.float(), level, codes.thresholds(level))[0]
        return rounded.to(weight.dtype)


class UniformActivationQuantizer(ActivationQuantizer):
    """Activations at equal steps, up to a percentile of what was seen."""

    step: Tensor

    def __init__(self, bits: int, signed: bool = False, grid: int | None = None) -> None:
        super().__init__(bits, signed and bits > 1, grid)
        self.register_buffer("step", torch.full((), 2.0 / (2**bits - 1)))

    def fit(self, values: Tensor) -> None:
        self.step.copy_(self._fitted(values))

    def levels(self) -> Tensor:
        return self._levels(self.step.detach())

    def on_grid(self) -> IntegerForm:
        basis, patterns = codes.twos_complement(self.bits, self.signed)
        return IntegerForm(basis, torch.zeros((), dtype=torch.int64), self.step.detach(), patterns)

    def forward(self, x: Tensor) -> Tensor:
        moves = self.training and self.updating and not self.still.value and not recomputing()
        if moves:
            check_forward(type(self).__name__)
            with torch.no_grad():
                fitted = self._fitted(x.detach().float())
                self.step.mul_(MOMENTUM).add_(fitted, alpha=1 - MOMENTUM)
        level = self._levels(basis_of(self, self.step))
        return RoundActivations.apply(x.float(), level, self.signed)[0].to(x.dtype)

    def _levels(self, step: Tensor) -> Tensor:
        return codes.numbers(self.bits, self.signed).to(step) * step

    def _fitted(self, values: Tensor) -> Tensor:
        """The step whose top level is the percentile; the stored one where there are no values."""
        sizes = spread(values.flatten().abs(), _SAMPLE)
        top = 2 ** (self.bits - 1) - 0.5 if self.signed else 2**self.bits - 1
        found = torch.quantile(sizes, PERCENTILE) / top
        return torch.where(torch.isfinite(found) & (found > 0), found, self.step)


def _odd(bits: int, like: Tensor) -> Tensor:
    """-(L - 1), .., -1, 1, .., L - 1."""
    return (2 * torch.arange(2**bits, device=like.device) - (2**bits - 1)).float()
