"""Multiplications and additions of constants, as norms: an epilogue folds them like a BatchNorm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.packing.ops import Op, set_users

# Of a norm that only scales and shifts: the deviation it takes its input to have. The runtime
# expects what a norm gives within some deviations, which must limit nothing here.
_DEVIATION = 2.0**40


class Affine(nn.Module):
    """y = scale x + shift per channel, behind a BatchNorm where there is one.

    Args:
        scale, shift: (C,) float64.
        norm: that of x, or None.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, scale: Tensor, shift: Tensor, norm: SwitchableBatchNorm2d | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.norm: SwitchableBatchNorm2d | None
        self.norm = norm

    @property
    def eps(self) -> float:
        """Added to the variance of its table."""
        return 2.0**-20 if self.norm is None else self.norm.eps

    def table(self, rows: int) -> Tensor:
        """(4, rows, C) float64: weight, bias, mean and variance of the BatchNorm that it is."""
        if self.norm is not None:
            weight, bias, mean, var = norm_rows(self.norm)
            return torch.stack([weight * self.scale, bias * self.scale + self.shift, mean, var])
        one = torch.ones_like(self.scale)
        # sqrt(2**80 + 2**-20) is 2**40 in float64.
        table = torch.stack([self.scale * _DEVIATION, self.shift, 0 * one, one * _DEVIATION**2])
        return table[:, None].expand(-1, rows, -1)

    def after(self, first: nn.Module) -> Affine:
        """Of what another norm or affine gives."""
        if isinstance(first, Affine):
            scale, shift = self.scale * first.scale, self.scale * first.shift + self.shift
            return Affine(scale, shift, first.norm)
        assert isinstance(first, SwitchableBatchNorm2d)
        return Affine(self.scale, self.shift, first)


def norm_rows(norm: SwitchableBatchNorm2d) -> Tensor:
    """(4, S, C) float64: weight, bias, mean and variance."""
    parts = [norm.weight, norm.bias, norm.running_mean, norm.running_var]
    return torch.stack([part.detach().double() for part in parts])


def norm_table(norm: SwitchableBatchNorm2d | Affine, rows: int) -> NDArray[np.float32]:
    """(4, S, C) float32, as a file has it.

    Args:
        norm: a SwitchableBatchNorm2d, or an Affine.
        rows: S.
    """
    table = norm.table(rows) if isinstance(norm, Affine) else norm_rows(norm)
    return np.ascontiguousarray(table.float().numpy())


def fold_affine(ops: list[Op]) -> None:
    """Let an affine take in the norm or affine that it alone reads, in place."""
    for op in list(ops):
        first = op.inputs[0] if op.inputs else None
        if not isinstance(op.module, Affine) or first is None or first.kind != "norm":
            continue
        if first.only_user is op:
            assert first.module is not None
            op.module = op.module.after(first.module)
            op.inputs = first.inputs
            ops.remove(first)
            set_users(ops)


def per_channel(numbers: Sequence[float] | Tensor, channels: int) -> Tensor:
    """(C,) float64 of one number or C."""
    given = torch.as_tensor(numbers, dtype=torch.float64).reshape(-1)
    return given.expand(channels).contiguous()
