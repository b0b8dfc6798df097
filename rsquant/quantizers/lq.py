"""LQ quantizers: modules that hold a learned basis and quantize with it.

In training every forward quantizes with the stored basis, fits the basis to the codes (QEM), then
moves the stored one: basis <- 0.9 basis + 0.1 fitted. No gradient reaches a basis.

On a CUDA GPU the same steps run in fused kernels (`fused`); what stands here specifies them.

With a grid the levels are those of the stored basis's nearest integer multiple (`grid.snap`); the
fit still moves the stored, real one.

Source: LQ-Nets (arXiv 1807.10029), sections 3.1 to 3.3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rsquant.quantizers import codes, fused, qem
from rsquant.quantizers.base import ActivationQuantizer, IntegerForm, WeightQuantizer
from rsquant.quantizers.calls import basis_of, check_forward, recomputing
from rsquant.quantizers.gathering import GATHERING, Gathering
from rsquant.quantizers.grid import snap, snapped
from rsquant.quantizers.over_processes import summed
from rsquant.quantizers.rounding import (
    RoundActivations,
    rectifies,
    round_to_levels,
    round_weights,
)

MOMENTUM = 0.9
# Mean of |x| below the median of a standard normal: the published start of a basis.
INITIAL_SPREAD = 0.6745
# Starting from data: how many values are enough, at which scales of the published start QEM
# begins (it finds the nearest optimum, which need not be the best), and its most rounds.
_SAMPLE = 2**18
_SCALES = (0.5, 0.75, 1.0, 1.5)
_ROUNDS = 50


def _integers(
    basis: Tensor, grid: int, pattern: Tensor, signed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The basis in integers, its scale, and the pattern of each level, lowest level first."""
    p, scale = snap(basis.detach(), grid, signed)
    # A product p'Mv may come out just below zero where signs are mixed.
    p, scale = torch.where((scale < 0).unsqueeze(-1), -p, p), scale.abs()
    _, order = codes.sorted_levels(p.float() * scale.unsqueeze(-1), pattern)
    return p, scale, order


class LQWeightQuantizer(WeightQuantizer):
    """Weights w = sum_k v_k b_k, b in {-1, +1}, one basis v of K values per output channel.

    Starts at v_k = 2**k * 0.6745 * sqrt(2 / fan_out) / 2**(K-1), which suits weights initialised
    with He's fan-out rule; call `start_from` for any others.

    Args:
        out_channels: O.
        bits: K, 1 to 4.
        fan_out: kernel_h * kernel_w * O.
        grid: largest integer level, so that |p_1| + ... + |p_K| <= grid; None is no grid.
    """

    kind = "lq"
    basis: Tensor
    pattern: Tensor

    def __init__(self, out_channels: int, bits: int, fan_out: int, grid: int | None = None) -> None:
        super().__init__(bits, grid)
        spread = torch.full((out_channels,), math.sqrt(2.0 / fan_out))
        self.register_buffer("basis", self._initial(spread).float())
        self.register_buffer("pattern", codes.patterns(bits, signed=True).float(), persistent=False)

    def _initial(self, spread: Tensor) -> Tensor:
        powers = 2.0 ** torch.arange(self.bits, device=spread.device)
        return spread.unsqueeze(1) * powers * INITIAL_SPREAD / 2 ** (self.bits - 1)

    @torch.no_grad()
    def start_from(self, weight: Tensor) -> None:
        """Start the basis from the weights' own spread, (O, ...) floats, per channel."""
        spread = weight.flatten(1).float().square().mean(1).sqrt()
        # A dead channel still needs distinct levels.
        self.basis.copy_(self._initial(spread.clamp_min(1e-6)))

    @torch.no_grad()
    def fit(self, weight: Tensor) -> None:
        """QEM on the weights until it stands still, from the best of some scales per channel."""
        self.start_from(weight)
        rows, start = weight.flatten(1).float(), self.basis.clone()
        least = self._errors(rows, start)
        for scale in _SCALES:
            basis = self._settle(rows, start * scale)
            errors = self._errors(rows, basis)
            better = errors < least
            self.basis.copy_(torch.where(better.unsqueeze(1), basis, self.basis))
            least = torch.where(better, errors, least)

    def _settle(self, rows: Tensor, basis: Tensor) -> Tensor:
        """QEM on fixed weights until the bases move by less than a thousandth."""
        for _ in range(_ROUNDS):
            level, order = codes.sorted_levels(basis, self.pattern)
            _, counts, sums = round_weights(rows, level, codes.thresholds(level))
            fitted = qem.fit_basis(counts, sums, self.pattern[order], basis, qem.WEIGHT_RIDGE)
            moved = (fitted - basis).norm() / fitted.norm().clamp_min(1e-30)
            basis = fitted.float()
            if moved < 1e-3:
                break
        return basis

    def _errors(self, rows: Tensor, basis: Tensor) -> Tensor:
        """Sum of squared differences of each channel from its nearest levels, float64."""
        level, _ = codes.sorted_levels(snapped(basis, self.grid, signed=True), self.pattern)
        rounded = round_weights(rows, level, codes.thresholds(level))[0]
        return (rows - rounded).double().square().sum(1)

    def levels(self) -> Tensor:
        """(O, L) float32, ascending."""
        return codes.sorted_levels(snapped(self.basis, self.grid, signed=True), self.pattern)[0]

    def on_grid(self) -> IntegerForm:
        assert self.grid is not None
        p, scale, order = _integers(self.basis, self.grid, self.pattern, signed=True)
        # sum_k p_k (2 b_k - 1)
        return IntegerForm(2 * p, -p.sum(-1), scale, order)

    def forward(self, weight: Tensor) -> Tensor:
        """Quantize (O, ...) floats to the levels of each channel; in training, move the basis.

        Levels are computed in float32; the result has the dtype of `weight`.

        Gradient: straight through (identity).
        """
        moves = self.training and not recomputing()
        if moves:
            check_forward("LQWeightQuantizer")
        stored = basis_of(self, self.basis).float()
        if fused.suits(weight, stored):
            momentum = MOMENTUM if moves else None
            rounded = fused.weights(weight, stored, self.grid, qem.WEIGHT_RIDGE, momentum)
            return rounded.to(weight.dtype)
        with torch.no_grad():
            basis = snapped(stored, self.grid, signed=True)
            level, order = codes.sorted_levels(basis, self.pattern)
            threshold = codes.thresholds(level)
        rounded, counts, sums = round_weights(weight.float(), level, threshold)
        if moves:
            with torch.no_grad():
                fitted = qem.fit_basis(
                    counts, sums, self.pattern[order], self.basis, qem.WEIGHT_RIDGE
                )
                self.basis.mul_(MOMENTUM).add_(fitted, alpha=1 - MOMENTUM)
        return rounded.to(weight.dtype)

    def extra_repr(self) -> str:
        return f"out_channels={self.basis.shape[0]}, bits={self.bits}, grid={self.grid}"


class LQActivationQuantizer(ActivationQuantizer):
    """Activations a = sum_k u_k c_k, c in {0, 1}, one basis u of K values per layer.

    Starts at u_k = 2**k * 2 * 0.6745 / (2**K - 1).

    Args:
        bits: K, 1 to 4.
        signed: the input has negative values (a linear bottleneck). All basis values but the
            highest then start negative, two's complement with the sign turned, so that levels lie
            on both sides of zero, and the gradient is clipped on both sides. One bit cannot do
            that and stays as it is.
        grid: largest span of the integer levels, so that |q_1| + ... + |q_K| <= grid; None is no
            grid.
    """

    kind = "lq"
    basis: Tensor
    pattern: Tensor

    def __init__(self, bits: int, signed: bool = False, grid: int | None = None) -> None:
        super().__init__(bits, signed and bits > 1, grid)
        self.register_buffer("basis", self._initial().float())
        self.register_buffer("pattern", codes.patterns(bits, signed=False), persistent=False)

    def _initial(self) -> Tensor:
        """The published start, for values of deviation 1 before their ReLU."""
        bits = self.bits
        basis = 2.0 ** torch.arange(bits) * 2 * INITIAL_SPREAD / (2**bits - 1)
        if self.signed:
            # The longer side lies above zero.
            basis[:-1] *= -1
        return basis

    @torch.no_grad()
    def start_from(self, x: Tensor) -> tuple[float, float]:
        """Start the basis from data: QEM until it stands still, from the best of some scales.

        Values that are all zero, or not finite, leave it as it is.

        Args:
            x: what it will quantize, any shape; 2**18 values of it are looked at, evenly spread.
        Returns:
            The squared error over the squared values, before and after.
        """
        values = x.detach().float().flatten()
        return super().start_from(values[:: max(1, -(-values.numel() // _SAMPLE))].contiguous())

    def fit(self, values: Tensor) -> None:
        # A half-normal value has a mean square of 1/2, of a deviation of 1.
        spread = values.double().square().mean().sqrt() * (1.0 if self.signed else math.sqrt(2.0))
        best, least = self.basis, self._error_of(values, self.basis)
        for scale in _SCALES:
            start = self._initial().to(values.device) * float(spread * scale)
            basis = self._settle(values, start)
            error = self._error_of(values, basis)
            if error < least:
                best, least = basis, error
        self.basis.copy_(best)

    def _settle(self, values: Tensor, basis: Tensor) -> Tensor:
        """QEM on fixed values until the basis moves by less than a thousandth."""
        for _ in range(_ROUNDS):
            level, order = codes.sorted_levels(basis, self.pattern)
            _, counts, sums = round_to_levels(values, level)
            fitted = qem.fit_basis(counts, sums, self.pattern[order], basis).float()
            moved = (fitted - basis).norm() / fitted.norm().clamp_min(1e-30)
            basis = fitted
            if moved < 1e-3:
                break
        return basis

    def _error_of(self, values: Tensor, basis: Tensor) -> Tensor:
        """Sum of squared differences from the nearest levels, float64."""
        level, _ = codes.sorted_levels(snapped(basis, self.grid, signed=False), self.pattern)
        return (values - round_to_levels(values, level)[0]).double().square().sum()

    def levels(self) -> Tensor:
        """(L,) float32, ascending."""
        return self._sorted_levels(self.basis)[0]

    def on_grid(self) -> IntegerForm:
        assert self.grid is not None
        p, scale, order = _integers(self.basis, self.grid, self.pattern, signed=False)
        return IntegerForm(p, torch.zeros_like(p[..., 0]), scale, order)

    def _sorted_levels(self, basis: Tensor) -> tuple[Tensor, Tensor]:
        return codes.sorted_levels(snapped(basis, self.grid, signed=False), self.pattern)

    def takes_relu(self, x: Tensor) -> bool:
        return not self.signed and rectifies(x)

    def forward(self, x: Tensor, rectified: bool = False) -> Tensor:
        """Quantize a tensor of any shape; in training, move the basis.

        Levels are computed in float32; the result has the dtype of `x`.

        Gradient: 1 where x <= top level, 0 above it; if signed, 0 below the lowest level too.

        Args:
            rectified: quantize max(x, 0), over `x`; only where `takes_relu`.
        """
        moves = self.training and self.updating and not self.still.value and not recomputing()
        if moves:
            check_forward("LQActivationQuantizer")
        basis = basis_of(self, self.basis)
        if fused.suits(x, basis):
            momentum = MOMENTUM if moves else None
            return fused.activations(x, basis, self.grid, momentum, self.signed).to(x.dtype)
        level, order = self._sorted_levels(basis)
        rounded, counts, sums = RoundActivations.apply(x.float(), level, self.signed, rectified)
        if moves:
            gathering: Gathering | None = GATHERING.value
            if gathering is None:
                self.move(counts, sums, self.pattern[order])
            else:
                gathering.add(self, counts, sums, self.pattern[order])
        return rounded.to(x.dtype)

    @torch.no_grad()
    def move(self, counts: Tensor, sums: Tensor, pattern: Tensor) -> None:
        """Move the basis towards the fit to (L,) counts and sums of levels with these patterns."""
        counts, sums = summed(counts, sums)
        fitted = qem.fit_basis(counts, sums, pattern, self.basis)
        self.basis.mul_(MOMENTUM).add_(fitted, alpha=1 - MOMENTUM)
