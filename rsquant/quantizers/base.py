"""What every quantizer is to the rest of rsquant: layers, checkpoints, packing, exports.

A quantizer maps floats to L levels, at most 2**K. A weight quantizer has L levels for each output
channel, an activation quantizer L for its layer. Nothing outside `rsquant.quantizers` knows more of
one than stands here; `registry` gives them names.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rsquant.errors import ConfigError
from rsquant.quantizers import codes
from rsquant.quantizers.calls import PerCall


@dataclass(frozen=True)
class IntegerForm:
    """Levels that are integers times a scale.

    level = scale (offset + sum_k basis_k b_k), b in {0, 1}

    Packed networks take weights of up to 127 in size without their scale, of any b, and activations
    that span 127.

    Attributes:
        basis: (..., K) int64.
        offset: (...) int64.
        scale: (...) float32, not negative.
        patterns: (..., L) int64: the digits b of each level, lowest level first; bit k is b_k.
    """

    basis: Tensor
    offset: Tensor
    scale: Tensor
    patterns: Tensor

    def integers(self) -> Tensor:
        """(..., L) int64, the levels without their scale, in the order of `patterns`."""
        digits = (self.patterns.unsqueeze(-1) >> torch.arange(self.basis.shape[-1])) & 1
        return self.offset.unsqueeze(-1) + (digits * self.basis.unsqueeze(-2)).sum(-1)


class Float32State(nn.Module):
    """A module whose own tensors stay float32, whatever its network is cast to."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Float32State:
        # All casts and moves of a module end here: half(), to(dtype), to(device). Levels move by
        # small steps, which 16 bits lose.
        before = {**self._buffers, **self._parameters}
        data = {name: old.data for name, old in before.items() if old is not None}
        super()._apply(fn, recurse)
        for name, old in data.items():
            new = getattr(self, name)
            if new.dtype != torch.float32 and old.is_floating_point():
                new.data = old.to(new.device, torch.float32)
        return self


def quantizers_of(module: nn.Module) -> list[Quantizer]:
    """All quantizers of a network, without those inside of others."""
    found = {name: m for name, m in module.named_modules() if isinstance(m, Quantizer)}
    return [m for name, m in found.items() if name.rpartition(".")[0] not in found or not name]


class Quantizer(Float32State):
    """Common to both kinds.

    Args:
        bits: K, 1 to 4.
        grid: the largest integer level (of activations: span of the levels) on a grid of small
            integers, 1 to 127, on which packed networks compute; None is no grid.

    Attributes:
        kind: the name it was made by, see `registry`; "" for one that was made without.
    """

    kind = ""

    def __init__(self, bits: int, grid: int | None = None) -> None:
        super().__init__()
        who = type(self).__name__
        if not (isinstance(bits, int) and 1 <= bits <= 4):
            raise ConfigError(f"{who}: bits must be 1, 2, 3 or 4 (32 is float32), got {bits}")
        if grid is not None and not (isinstance(grid, int) and 1 <= grid <= 127):
            raise ConfigError(f"{who}: grid must be 1 to 127, or None for no grid, got {grid}")
        self.bits = bits
        self.grid = grid

    @abstractmethod
    def levels(self) -> Tensor:
        """(..., L) float32, ascending: on the grid, if there is one."""

    def thresholds(self) -> Tensor:
        """(..., L - 1) float32: a value takes the level whose number of thresholds it exceeds."""
        return codes.thresholds(self.levels())

    def on_grid(self) -> IntegerForm:
        """The levels of a quantizer that has a grid, as integers.

        Raises:
            NotImplementedError: this kind of quantizer has no integer form.
        """
        raise NotImplementedError

    def has_integer_form(self) -> bool:
        """Whether there is an `on_grid`: without one a network cannot be packed."""
        return type(self).on_grid is not Quantizer.on_grid

    def has_own_thresholds(self) -> bool:
        """Whether thresholds are anything but the middles between levels."""
        return type(self).thresholds is not Quantizer.thresholds

    def settings(self) -> dict[str, Any]:
        """What it computes and its tensors do not say, as JSON has it."""
        # Checkpoints of before there were others do not say.
        kind = None if self.kind == "lq" else self.kind
        return {"quantizer": kind, "bits": self.bits, "grid": self.grid}

    def extra_repr(self) -> str:
        return f"bits={self.bits}, grid={self.grid}"


class WeightQuantizer(Quantizer):
    """Quantizes (O, ...) weights, each output channel to its own levels.

    Attributes:
        weight_norm: how it normalises weights before it quantizes them, see `weight_norm`.
    """

    weight_norm = "none"

    @abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """Weights (O, ...) at their levels, of the same dtype; in training, may move the levels."""

    @abstractmethod
    def start_from(self, weight: Tensor) -> None:
        """Levels that suit these weights, (O, ...)."""

    def fit(self, weight: Tensor) -> None:
        """Levels for weights that were trained, (O, ...): their best fit, where one is known."""
        self.start_from(weight)

    def codes(self, weight: Tensor) -> Tensor:
        """Which level each weight takes, lowest 0: (O, ...) int64."""
        return codes.assign(weight.flatten(1).float(), self.thresholds()).view(weight.shape)

    def settings(self) -> dict[str, Any]:
        # As of before there were any.
        return {**super().settings(), "weight_norm": None}


class InputQuantizer(nn.Module):
    """What quantizes the input of layers: a quantizer, or several that take turns."""

    @property
    @abstractmethod
    def in_force(self) -> ActivationQuantizer:
        """The quantizer that runs now."""


class ActivationQuantizer(Quantizer, InputQuantizer):
    """Quantizes a tensor of any shape to the levels of its layer.

    Args:
        signed: the input has negative values (a linear bottleneck).

    Attributes:
        updating: whether training moves the levels.
        still: whether they are kept still in one call, as for every resolution but the largest
            with basis_updates="largest".
    """

    def __init__(self, bits: int, signed: bool = False, grid: int | None = None) -> None:
        super().__init__(bits, grid)
        self.signed = signed
        self.updating = True
        self.still = PerCall(False)

    @property
    def in_force(self) -> ActivationQuantizer:
        return self

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """`x` at its levels, of the same dtype; in training, may move the levels."""

    def takes_relu(self, x: Tensor) -> bool:
        """Whether `forward(x, rectified=True)` exists here: of a ReLU and itself, written over x.

        It must give the values, gradients and levels that the two modules give.
        """
        return False

    @torch.no_grad()
    def start_from(self, x: Tensor) -> tuple[float, float]:
        """Levels that suit these values, any shape; all zero, or not finite, they change nothing.

        Returns:
            The squared error over the squared values, before and after; 0, 0 if nothing changed.
        """
        values = x.detach().float()
        power = values.double().square().sum()
        if not torch.isfinite(power) or power == 0:
            return 0.0, 0.0
        before = self._error(values)
        self.fit(values)
        return float(before / power), float(self._error(values) / power)

    @abstractmethod
    def fit(self, values: Tensor) -> None:
        """Levels that suit these float32 values, which are finite and not all zero."""

    def _error(self, values: Tensor) -> Tensor:
        """Sum of squared differences from the levels that values take, float64."""
        values = values.flatten()
        taken = torch.bucketize(values, self.thresholds(), out_int32=True)
        return (values - self.levels()[taken]).double().square().sum()

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "signed": self.signed}
