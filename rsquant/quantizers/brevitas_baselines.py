"""Brevitas's own quantizers as rsquant's, to compare with: `brevitas-default`, `-learned`, `-mse`.

    y = s clip(round(x / s), lowest, highest)        s = threshold / Q

| name     | levels of weights    | threshold of a channel                      | Q        |
|----------|----------------------|---------------------------------------------|----------|
| default  | -(H), .., H          | max |w|, of every step                       | H        |
| learned  | -(H + 1), .., H      | learned, starts at max |w|                   | H + 1    |
| mse      | -(H), .., H          | learned, starts where the squared error of w | H        |
|          |                      | is least                                     |          |

H = 2**(K-1) - 1, so that `default` and `mse` are ternary at 2 bits. Activations are those of
`Uint8ActPerTensorFloat`: 0 to 2**K - 1 times a learned step, which Brevitas starts from the
99.999th percentile of 300 steps, and rsquant from that of the images it calibrates with. Rounding,
clipping and gradients are Brevitas's: half goes to even.

Between steps the threshold of `default` is that of the last step, as a checkpoint holds it;
Brevitas takes that of the weights after the step.
"""

from __future__ import annotations

import torch
from brevitas.core.function_wrapper import Identity, RoundSte, TensorClamp, TensorClampSte
from brevitas.core.quant import IntQuant
from brevitas.core.stats import AbsMax, AbsPercentile
from brevitas.core.stats.stats_op import mse_grid_search
from torch import Tensor, nn

from rsquant.errors import ConfigError
from rsquant.quantizers.base import ActivationQuantizer, IntegerForm, WeightQuantizer
from rsquant.quantizers.calls import check_forward, recomputing
from rsquant.quantizers.rounding import round_to_levels

# Brevitas's scaling_min_val.
_LEAST = 1e-10
_PERCENTILE = 99.999
# Thresholds that the least error is looked for among.
_CANDIDATES = 20
# Of a channel without weights, whose levels must differ.
_DEAD = 1e-6
_SAMPLE = 2**18


def _int_quant(narrow: bool, signed: bool, straight: bool) -> IntQuant:
    """Brevitas's rounding. `straight`: the gradient passes where values are clipped too."""
    clamp = TensorClampSte() if straight else TensorClamp()
    return IntQuant(narrow, signed, Identity(), RoundSte(), clamp)


def _rounded(quant: IntQuant, scale: Tensor, bits: int, x: Tensor) -> Tensor:
    zero = torch.zeros((), device=x.device)
    y: Tensor = quant(scale, zero, torch.tensor(float(bits), device=x.device), x)
    return y


class BrevitasWeightQuantizer(WeightQuantizer):
    """Weights (O, ...) at integers times a scale per output channel.

    Args:
        out_channels: O.
        bits: 2 to 4.
        grid: see Quantizer; the levels are integers without one too.
    """

    narrow = True
    threshold: Tensor

    def __init__(self, out_channels: int, bits: int, grid: int | None = None) -> None:
        super().__init__(bits, grid)
        if bits == 1:
            raise ConfigError(
                "brevitas: weights need 2 to 4 bits (1 bit leaves one or two levels, none of them "
                "positive); use lq for 1"
            )
        self._add_threshold(torch.ones(out_channels))

    def _add_threshold(self, start: Tensor) -> None:
        self.threshold = nn.Parameter(start)

    def _quant(self) -> IntQuant:
        return _int_quant(self.narrow, signed=True, straight=False)

    @property
    def _highest(self) -> int:
        return 2 ** (self.bits - 1) - 1

    def _scale(self, threshold: Tensor) -> Tensor:
        """(O, 1), from (O,)."""
        steps = self._highest if self.narrow else self._highest + 1
        return threshold.abs().clamp_min(_LEAST).unsqueeze(-1) / steps

    @property
    def _lowest(self) -> int:
        return -self._highest if self.narrow else -self._highest - 1

    def _numbers(self) -> Tensor:
        """The integers, ascending: 2**K of them, or one less in a narrow range."""
        return torch.arange(self._lowest, self._highest + 1)

    @torch.no_grad()
    def start_from(self, weight: Tensor) -> None:
        largest = weight.flatten(1).float().abs().amax(1)
        self.threshold.copy_(largest.clamp_min(_DEAD))

    def levels(self) -> Tensor:
        scale = self._scale(self.threshold.detach())
        return self._numbers().to(scale.device).float() * scale

    def codes(self, weight: Tensor) -> Tensor:
        rows = weight.detach().flatten(1).float()
        scale, zero = self._scale(self.threshold.detach()), torch.zeros((), device=rows.device)
        bits = torch.tensor(float(self.bits), device=rows.device)
        number = self._quant().to_int(scale, zero, bits, rows).long()
        return (number - self._lowest).view(weight.shape)

    def on_grid(self) -> IntegerForm:
        """Lowest + sum_k basis_k b_k: 2**k; in a narrow range 1, 2, .., 2**(K-2), H.

        In a narrow range that is symmetric, and gives zero twice; the first is taken.
        """
        rows = len(self.threshold)
        basis, patterns = 2 ** torch.arange(self.bits), torch.arange(2**self.bits)
        if self.narrow:
            basis[-1] -= 1
            patterns = torch.cat([patterns[: self._highest + 1], patterns[self._highest + 2 :]])
        offset = torch.full((rows,), self._lowest)
        scale = self._scale(self.threshold.detach()).squeeze(-1)
        patterns = patterns.expand(rows, -1)
        return IntegerForm(basis.expand(rows, -1), offset, scale, patterns)

    def forward(self, weight: Tensor) -> Tensor:
        rows = weight.flatten(1).float()
        rounded = _rounded(self._quant(), self._scale(self._moved(rows)), self.bits, rows)
        return rounded.view_as(weight).to(weight.dtype)

    def _moved(self, rows: Tensor) -> Tensor:
        """(O,) the threshold to quantize these weights with."""
        return self.threshold


class DefaultWeights(BrevitasWeightQuantizer):
    """`Int8WeightPerChannelFloat`, Brevitas's default per channel: the scale is a statistic."""

    def _add_threshold(self, start: Tensor) -> None:
        self.register_buffer("threshold", start)

    def _quant(self) -> IntQuant:
        return _int_quant(self.narrow, signed=True, straight=True)

    def _moved(self, rows: Tensor) -> Tensor:
        if not self.training:
            return self.threshold
        largest: Tensor = AbsMax(stats_reduce_dim=1)(rows)
        if not recomputing():
            check_forward(type(self).__name__)
            with torch.no_grad():
                self.threshold.copy_(largest)
        return largest


class LearnedWeights(BrevitasWeightQuantizer):
    """All 2**K levels, and a scale that is learned from max |w| on."""

    narrow = False


class MSEWeights(BrevitasWeightQuantizer):
    """`Int8WeightPerChannelFloatMSE`: the scale is learned from the best one on."""

    @torch.no_grad()
    def start_from(self, weight: Tensor) -> None:
        rows = weight.detach().flatten(1).float()
        largest: Tensor = AbsMax(stats_reduce_dim=1)(rows)

        def error(threshold: Tensor) -> Tensor:
            rounded = _rounded(self._quant(), self._scale(threshold), self.bits, rows)
            return (rows - rounded).square().sum(1)

        best, _ = mse_grid_search(largest / _CANDIDATES, largest, error, _CANDIDATES)
        self.threshold.copy_(best.clamp_min(_DEAD))


class BrevitasActivations(ActivationQuantizer):
    """`Uint8ActPerTensorFloat`, `Int8ActPerTensorFloat` where values are signed; scale learned."""

    def __init__(self, bits: int, signed: bool = False, grid: int | None = None) -> None:
        super().__init__(bits, signed and bits > 1, grid)
        self.threshold = nn.Parameter(torch.tensor(2.0))

    def _scale(self) -> Tensor:
        steps = 2 ** (self.bits - 1) if self.signed else 2**self.bits - 1
        return self.threshold.abs().clamp_min(_LEAST) / steps

    @torch.no_grad()
    def start_from(self, x: Tensor) -> tuple[float, float]:
        values = x.detach().float().flatten()
        values = values[:: max(1, -(-values.numel() // _SAMPLE))]
        power = values.double().square().sum()
        if not torch.isfinite(power) or power == 0:
            return 0.0, 0.0
        before = self._error(values)
        found: Tensor = AbsPercentile(_PERCENTILE, None)(values)
        self.threshold.copy_(found.clamp_min(_DEAD))
        return float(before / power), float(self._error(values) / power)

    def _error(self, values: Tensor) -> Tensor:
        """Sum of squared differences from the nearest levels, float64."""
        return (values - round_to_levels(values, self.levels())[0]).double().square().sum()

    def levels(self) -> Tensor:
        scale = self._scale().detach()
        numbers = torch.arange(2**self.bits, device=scale.device)
        return (numbers - 2 ** (self.bits - 1) if self.signed else numbers).float() * scale

    def on_grid(self) -> IntegerForm:
        """Two's complement where it is signed."""
        basis, patterns = 2 ** torch.arange(self.bits), torch.arange(2**self.bits)
        if self.signed:
            basis[-1] *= -1
            patterns = (patterns + 2 ** (self.bits - 1)) % 2**self.bits
        zero = torch.zeros((), dtype=torch.int64)
        return IntegerForm(basis, zero, self._scale().detach(), patterns)

    def forward(self, x: Tensor) -> Tensor:
        quant = _int_quant(narrow=False, signed=self.signed, straight=False)
        return _rounded(quant, self._scale(), self.bits, x.float()).to(x.dtype)


WEIGHTS = {
    "brevitas-default": DefaultWeights,
    "brevitas-learned": LearnedWeights,
    "brevitas-mse": MSEWeights,
}
