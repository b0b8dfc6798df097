"""The float network that an integer network's layers are made of: its peer in benchmarks."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from rsquant.nn.integer.endings import IntegerEnding
from rsquant.nn.integer.layers import (
    GlobalAverage,
    IntegerAverage,
    IntegerConv,
    IntegerImageConv,
    IntegerMap,
    IntegerSum,
)
from rsquant.nn.integer.resize import IntegerResize


class Sum(nn.Module):
    """x + y, and the ReLU behind it, if any."""

    def __init__(self, relu: bool, clip: float | None) -> None:
        super().__init__()
        self.relu = nn.Sequential(*_relu(relu, clip))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        result: Tensor = self.relu(x + y)
        return result


class Resize(nn.Module):
    """`torch.nn.functional.interpolate` as an integer network had it."""

    def __init__(self, of: IntegerResize) -> None:
        super().__init__()
        self.mode, self.align_corners = of.mode, of.align_corners
        self.scale_factor = of.scale_factor
        self.recompute_scale_factor = of.recompute_scale_factor

    def forward(self, x: Tensor, size: Any = None) -> Tensor:
        return functional.interpolate(
            x,
            size,
            self.scale_factor,
            self.mode,
            self.align_corners if self.mode == "bilinear" else None,
            self.recompute_scale_factor,
        )


def without_rounding(body: nn.Module) -> None:
    """Replace the layers of an integer network by those they are made of, in place."""
    for name, module in list(body.named_modules()):
        plain = _parts(module)
        if plain is not None:
            body.set_submodule(name, plain)


def _parts(module: nn.Module) -> nn.Module | None:
    if isinstance(module, (IntegerConv, IntegerImageConv)):
        return _finished(module, module.layer)
    if isinstance(module, IntegerMap):
        return _finished(module)
    if isinstance(module, IntegerSum):
        return Sum(module.out.low == 0, module.out.clip)
    if isinstance(module, IntegerAverage):
        pool = module.pool
        if not isinstance(pool, GlobalAverage):
            return pool
        mean = nn.AdaptiveAvgPool2d(1)
        return mean if pool.keep else nn.Sequential(mean, nn.Flatten())
    if isinstance(module, IntegerEnding):
        return module.layer
    if isinstance(module, IntegerResize):
        return Resize(module)
    return None


def _finished(module: Any, *layers: nn.Module) -> nn.Module:
    norm = () if module.norm is None else (module.norm,)
    return nn.Sequential(*layers, *norm, *_relu(module.relu, module.clip))


def _relu(relu: bool, clip: float | None) -> tuple[nn.Module, ...]:
    if not relu:
        return ()
    return (nn.ReLU() if clip is None else nn.Hardtanh(0.0, clip),)
