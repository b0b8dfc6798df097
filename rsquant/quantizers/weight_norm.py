"""Weight normalisation before the quantizer: each output channel at one mean size.

    std:       (w - mean(w)) / std(w)
    mean-abs:  w / mean(|w|)

over the n weights of an output channel, the deviation with 1 / n.

The quantizer then reads weights whose size does not change while they train, so its levels need not
follow them. Before a BatchNorm the size of a channel is free; elsewhere it is part of what the
network computes, in training and evaluation alike. Gradients go through both statistics.

Source: std is weight standardization (arXiv 1903.10520, equation 9) as APoT (arXiv 1909.13144,
section 2.3) has it before its quantizer, there per layer; mean-abs is the scale of N2UQ (arXiv
2111.14826, section 3.3).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rsquant.choices import WEIGHT_NORMS, listed
from rsquant.errors import ConfigError
from rsquant.quantizers.base import IntegerForm, WeightQuantizer

# A channel of smaller weights is dead, and is not divided.
_LEAST = 1e-8


def check_norm(name: str) -> None:
    """Raise ConfigError for an unknown weight normalisation."""
    if name not in WEIGHT_NORMS:
        raise ConfigError(f"weight_norm: must be {listed(WEIGHT_NORMS)}, got '{name}'")


def normalised(weight: Tensor, norm: str) -> Tensor:
    """Weights with each output channel normalised; float32.

    Statistics are summed in float64, so that they do not depend on the order of the sum: that of a
    checkpoint on another device, or in another memory format, gives the same codes.

    Gradient: the true one. A channel whose weights are all the same (std) or 0 (mean-abs) is
    centred but not divided.

    Args:
        weight: (O, ...).
        norm: std or mean-abs.
    """
    rows = weight.flatten(1).float()
    if norm == "std":
        rows = rows - rows.mean(1, dtype=torch.float64, keepdim=True).float()
        power = rows.square().mean(1, dtype=torch.float64, keepdim=True)
        # Inside of the root, whose gradient at 0 is infinite.
        size = torch.where(power > _LEAST**2, power, 1.0).sqrt()
    else:
        size = rows.abs().mean(1, dtype=torch.float64, keepdim=True)
        size = torch.where(size > _LEAST, size, 1.0)
    return (rows / size.float()).view(weight.shape)


class NormalisedWeights(WeightQuantizer):
    """A weight quantizer that reads normalised weights.

    Its levels and thresholds are those of the normalised weights. All that it is given are the
    weights themselves.

    Args:
        inner: what quantizes the normalised weights.
        norm: std or mean-abs.
    """

    def __init__(self, inner: WeightQuantizer, norm: str) -> None:
        nn.Module.__init__(self)
        check_norm(norm)
        self.inner, self.weight_norm = inner, norm
        self.bits = inner.bits
        self.kind = inner.kind

    @property
    def grid(self) -> int | None:
        """That of the quantizer inside."""
        return self.inner.grid

    @grid.setter
    def grid(self, grid: int | None) -> None:
        self.inner.grid = grid

    def forward(self, weight: Tensor) -> Tensor:
        levels: Tensor = self.inner(normalised(weight, self.weight_norm))
        return levels.to(weight.dtype)

    @torch.no_grad()
    def start_from(self, weight: Tensor) -> None:
        if self.weight_norm == "std" and weight[0].numel() < 2:
            raise ConfigError(
                "weight_norm: 'std' needs 2 or more weights in an output channel, got weights of "
                f"shape {tuple(weight.shape)}, which would all be 0; use mean-abs"
            )
        self.inner.start_from(normalised(weight, self.weight_norm))

    @torch.no_grad()
    def fit(self, weight: Tensor) -> None:
        self.start_from(weight)
        self.inner.fit(normalised(weight, self.weight_norm))

    @torch.no_grad()
    def codes(self, weight: Tensor) -> Tensor:
        return self.inner.codes(normalised(weight, self.weight_norm))

    def levels(self) -> Tensor:
        return self.inner.levels()

    def thresholds(self) -> Tensor:
        return self.inner.thresholds()

    def on_grid(self) -> IntegerForm:
        return self.inner.on_grid()

    def has_integer_form(self) -> bool:
        return self.inner.has_integer_form()

    def has_own_thresholds(self) -> bool:
        return self.inner.has_own_thresholds()

    def settings(self) -> dict[str, Any]:
        return {**self.inner.settings(), "weight_norm": self.weight_norm}

    def extra_repr(self) -> str:
        return f"weight_norm={self.weight_norm}"
