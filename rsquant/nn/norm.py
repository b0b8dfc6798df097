"""BatchNorm with one private set of parameters and statistics per setting."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsquant.errors import ModelError
from rsquant.nn.active import ActiveSetting
from rsquant.nn.synced_norm import synced_batch_norm
from rsquant.quantizers.calls import check_forward, recomputing
from rsquant.quantizers.over_processes import shared
from rsquant.settings import Blend


class SwitchableBatchNorm2d(nn.Module):
    """y = gamma_s (x - mean_s) / sqrt(var_s + eps) + beta_s, s the active setting.

    Every table is (S, C), rows in the order of `active.settings` (costliest first), so that a
    size between two trained ones is a blend of two rows (evaluation only).

    gamma and beta are constants 1 and 0, no parameters and not in the state, where the layer has
    none (`affine=False`).

    Args:
        num_features: C.
        active: shared by all layers of one network.
        eps: added to the variance.
        momentum: weight of a new batch's statistics; None averages all batches of a size alike,
            whose number is then part of the state.
        scale, shift: whether gamma and beta are learned.

    Attributes:
        synced: where statistics are taken over processes (`quantizers.over_processes`), normalise
            in training by those of all of them.
        shared: every setting uses the first row, see `nn.shared_norm`.
        channels: of a network with several widths, how many of C each uses, the first ones.
    Raises:
        ModelError: forward in training at a size that is not trained.
    Source: RS-Nets (arXiv 2007.09558), equation 3.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        active: ActiveSetting,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        scale: bool = True,
        shift: bool = True,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.active = active
        self.eps = eps
        self.momentum = momentum
        self.synced = self.shared = False
        self.channels: dict[float, int] | None = None
        shape = (len(active.settings), num_features)
        for name, value, learned in (
            ("weight", torch.ones(shape), scale),
            ("bias", torch.zeros(shape), shift),
        ):
            if learned:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value, persistent=False)
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))
        if momentum is None:
            batches = torch.zeros(shape[0], dtype=torch.long)
            self.register_buffer("num_batches_tracked", batches)

    @classmethod
    def from_float(
        cls, norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm, active: ActiveSetting
    ) -> SwitchableBatchNorm2d:
        """One copy of an ordinary BatchNorm's parameters and statistics per setting.

        Parameters that are frozen (`requires_grad=False`) stay so. The BatchNorm must have running
        statistics.
        """
        learned = [norm._parameters.get(name) is not None for name in ("weight", "bias")]
        new = cls(norm.num_features, active, norm.eps, norm.momentum, *learned)
        with torch.no_grad():
            for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                source, target = getattr(norm, name), getattr(new, name, None)
                if source is None or target is None:
                    continue
                target.copy_(source.expand_as(target))
                if isinstance(target, nn.Parameter):
                    target.requires_grad_(source.requires_grad)
        if norm.running_mean is None:
            return new
        return new.to(norm.running_mean.device, norm.running_mean.dtype)

    @torch.no_grad()
    def keep_rows(self, rows: list[int]) -> None:
        """Drop all other rows, in place."""
        for name in ("weight", "bias", "running_mean", "running_var"):
            table = getattr(self, name)
            kept = table[rows]
            learns = isinstance(table, nn.Parameter)
            setattr(self, name, nn.Parameter(kept, table.requires_grad) if learns else kept)
        if self.momentum is None:
            self.num_batches_tracked = self.num_batches_tracked[rows]

    @torch.no_grad()
    def keep_channels(self, count: int) -> None:
        """Drop all but the first channels, in place."""
        for name in ("weight", "bias", "running_mean", "running_var"):
            table = getattr(self, name)
            kept = table[:, :count].clone()
            learns = isinstance(table, nn.Parameter)
            setattr(self, name, nn.Parameter(kept, table.requires_grad) if learns else kept)
        self.num_features, self.channels = count, None

    def at_rows(
        self, rows: Blend, channels: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """gamma, beta, mean and variance, (C,) each, of one row or a blend of two.

        Args:
            channels: the first so many; None: all.
        """
        upper, lower, weight = rows
        tables = (self.weight, self.bias, self.running_mean, self.running_var)
        if channels is not None:
            tables = tuple(table[:, :channels] for table in tables)  # type: ignore[assignment]
        gamma, beta, mean, var = (
            t[upper] if weight == 0 else torch.lerp(t[upper], t[lower], weight) for t in tables
        )
        return gamma, beta, mean, var

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, ...) float32; in training, also move the active row's statistics."""
        if self.training or self.active.pinned is None:
            check_forward(type(self).__name__)
        if self.training and self.active.rows.weight != 0:
            raise ModelError(
                f"{type(self).__name__}: only trained resolutions can be used in training, "
                f"got {self.active.pinned}, trained are {self.active.resolutions}"
            )
        gamma, beta, mean, var = self.at_rows(
            self._rows, None if self.channels is None else x.shape[1]
        )
        if recomputing():
            # The forward has moved them; the result in training does not depend on them.
            mean, var = mean.clone(), var.clone()
        if self.training and self.synced and shared():
            y, of_mean, of_var = synced_batch_norm(x, gamma, beta, self.eps)
            with torch.no_grad():
                share = self._share()
                mean.lerp_(of_mean.to(mean.dtype), share)
                var.lerp_(of_var.to(var.dtype), share)
            return y
        return functional.batch_norm(
            x, mean, var, gamma, beta, self.training, self._share(), self.eps
        )

    @property
    def _rows(self) -> Blend:
        return Blend.of_row(0) if self.shared else self.active.rows

    def _share(self) -> float:
        """Weight of this batch in the active row's statistics; counts it if all weigh alike."""
        if self.momentum is not None:
            return self.momentum
        if not self.training or recomputing():
            return 0.0
        row = self._rows.i
        self.num_batches_tracked[row] += 1
        return 1.0 / float(self.num_batches_tracked[row])

    def extra_repr(self) -> str:
        return f"{self.num_features}, resolutions={self.active.resolutions}"


class SwitchableBatchNorm1d(SwitchableBatchNorm2d):
    """The same for (N, C) and (N, C, L) values, in the place of a BatchNorm1d."""


def switchable_norms(network: nn.Module) -> list[SwitchableBatchNorm2d]:
    """All of a network, in its order."""
    return [m for m in network.modules() if isinstance(m, SwitchableBatchNorm2d)]
