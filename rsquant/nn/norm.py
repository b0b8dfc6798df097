"""BatchNorm with one private set of parameters and statistics per resolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsquant.errors import ModelError
from rsquant.nn.resolution import ActiveResolution


class SwitchableBatchNorm2d(nn.Module):
    """y = gamma_s (x - mean_s) / sqrt(var_s + eps) + beta_s, s the active resolution.

    Every table is (S, C), rows in the order of `active.resolutions` (largest first), so that a
    size between two trained ones is a blend of two rows (evaluation only).

    Args:
        num_features: C.
        active: shared by all layers of one network.
    Raises:
        ModelError: forward in training at a size that is not trained.
    Source: RS-Nets (arXiv 2007.09558), equation 3.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, num_features: int, active: ActiveResolution, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.active = active
        self.eps = eps
        self.momentum = momentum
        shape = (len(active.resolutions), num_features)
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))

    @classmethod
    def from_float(cls, norm: nn.BatchNorm2d, active: ActiveResolution) -> SwitchableBatchNorm2d:
        """One copy of an ordinary BatchNorm's parameters and statistics per resolution."""
        momentum = 0.1 if norm.momentum is None else norm.momentum
        new = cls(norm.num_features, active, norm.eps, momentum)
        with torch.no_grad():
            for name in ("weight", "bias", "running_mean", "running_var"):
                source = getattr(norm, name)
                if source is not None:
                    getattr(new, name).copy_(source.expand_as(getattr(new, name)))
        return new if norm.running_mean is None else new.to(norm.running_mean.device)

    @torch.no_grad()
    def keep_first_row(self) -> None:
        """Drop all rows but the first, in place."""
        for name in ("weight", "bias", "running_mean", "running_var"):
            table = getattr(self, name)
            row = table[:1].clone()
            learns = isinstance(table, nn.Parameter)
            setattr(self, name, nn.Parameter(row, table.requires_grad) if learns else row)

    def at_rows(self, rows: tuple[int, int, float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """gamma, beta, mean and variance, (C,) each, of one row or a blend of two."""
        upper, lower, weight = rows
        tables = (self.weight, self.bias, self.running_mean, self.running_var)
        gamma, beta, mean, var = (
            t[upper] if weight == 0 else torch.lerp(t[upper], t[lower], weight) for t in tables
        )
        return gamma, beta, mean, var

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W) float32; in training, also move the active row's statistics."""
        if self.training and self.active.rows[2] != 0:
            raise ModelError(
                "SwitchableBatchNorm2d: only trained resolutions can be used in training, "
                f"got {self.active.pinned}, trained are {self.active.resolutions}"
            )
        gamma, beta, mean, var = self.at_rows(self.active.rows)
        return functional.batch_norm(
            x, mean, var, gamma, beta, self.training, self.momentum, self.eps
        )

    def extra_repr(self) -> str:
        return f"{self.num_features}, resolutions={self.active.resolutions}"
