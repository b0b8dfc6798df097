"""The layers of an integer network: what is between two roundings, in one module.

Between them flow values, step * code in float32. In training a layer computes with them, as the
parts it is made of do, and rounds its result; in evaluation it computes the very integers of a
device (`exact`). Gradients are those of the training form in both.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.utils import _pair

from rsquant.errors import ModelError
from rsquant.nn.active import ActiveSetting
from rsquant.nn.integer.byte_scale import Bytes
from rsquant.nn.integer.exact import (
    Value,
    codes_at,
    emit,
    large_sums,
    level_weights,
    linear_sums,
    step_of,
    sums,
    worth,
)
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.quantized import QuantConv2d
from rsquant.packed.integers import (
    BYTE_WEIGHT,
    SUM_LIMIT,
    WEIGHT_LIMIT,
    average,
    multiplier_and_bias,
)
from rsquant.packed.resampling import Taps, in_parts, linear, nearest, scaled_side
from rsquant.quantizers.calls import basis_of
from rsquant.quantizers.rounding import straight_through


class IntegerModule(nn.Module):
    """Common to all.

    Args:
        active: which rows are in force.
        source: what the values it reads are; None for the image. It belongs to another module, and
            is no submodule of this one.
    """

    def __init__(self, active: ActiveSetting, source: Value | None) -> None:
        super().__init__()
        self.active = active
        self._source = (source,)

    @property
    def source(self) -> Value:
        source = self._source[0]
        assert source is not None
        return source

    def forward(self, x: Tensor) -> Tensor:
        return self.trained_or_exact(x)

    def trained_or_exact(self, x: Tensor, *more: Any) -> Tensor:
        """Of training or of a device, with gradients of training."""
        if self.training:
            return self.trained(x, *more)
        with torch.no_grad():
            exact = self.exact(x, *more)
        learns = x.requires_grad or any(p.requires_grad for p in self.parameters())
        if torch.is_grad_enabled() and learns:
            return straight_through(self.trained(x, *more), exact)
        return exact

    @abstractmethod
    def trained(self, x: Tensor, *more: Any) -> Tensor:
        """The result in training; what its quantizers and statistics do then depends on theirs."""

    @abstractmethod
    def exact(self, x: Tensor, *more: Any) -> Tensor:
        """The result of a device."""


class _Finished(IntegerModule):
    """What ends in BatchNorm, ReLU and rounding, each but the last may be missing.

    Attributes:
        norm, relu, clip: BatchNorm, whether a ReLU follows, and a ReLU6's 6.
        out: what the result is rounded to.
    """

    def __init__(
        self,
        active: ActiveSetting,
        source: Value | None,
        norm: SwitchableBatchNorm2d | None,
        relu: bool,
        clip: float | None,
        out: Value,
    ) -> None:
        super().__init__(active, source)
        self.norm, self.relu, self.clip, self.out = norm, relu, clip, out

    def finish(self, x: Tensor) -> Tensor:
        """BatchNorm, ReLU and rounding in training."""
        if self.norm is not None:
            x = self.norm(x.to(self.norm.weight.dtype))
        if self.relu:
            x = functional.relu(x) if self.clip is None else x.clamp(0.0, self.clip)
        result: Tensor = self.out(x)
        return result

    def finish_exactly(
        self, n: Tensor, weight_scale: Tensor, step: float, bias: Tensor | None = None
    ) -> Tensor:
        """The same of integers that are worth weight_scale * step each."""
        rows = self.active.rows
        slope, shift = worth(weight_scale, step, bias, self.norm, rows)
        return emit(n, slope, shift, self.out, self.relu, self.clip, rows)


class IntegerConv(_Finished):
    """A convolution of levels by low-bit weights; of bytes where a network quantizes no input.

    Attributes:
        layer: the convolution, whose input is rounded already.
    """

    def __init__(self, layer: QuantConv2d, active: ActiveSetting, source: Value, **more: object):
        super().__init__(active, source, **more)  # type: ignore[arg-type]
        self.layer = layer

    def trained(self, x: Tensor, *more: Any) -> Tensor:
        return self.finish(self.layer(x.to(self.layer.weight.dtype)))

    def exact(self, x: Tensor, *more: Any) -> Tensor:
        step = step_of(self.source, self.active.rows)
        weights, scale = level_weights(self.layer)
        n = sums(self.layer, codes_at(x, step), weights)
        return self.finish_exactly(n, scale, step, self.layer.bias)


class IntegerImageConv(_Finished):
    """A convolution of the image: pixels less one byte, weights of 8 bits, |w| <= 64.

    The deviations of the normalisation are folded into the weights before they are rounded. What
    its means differ from the one byte is a constant per channel, which a BatchNorm removes; without
    one it is in the bias, as the layer is trained so.

    Attributes:
        layer: the convolution.
        mean, std: what images are normalised by; must be what the network's ModelSpec says.
    """

    def __init__(self, layer: nn.Conv2d, active: ActiveSetting, **more: object) -> None:
        super().__init__(active, None, **more)  # type: ignore[arg-type]
        self.layer = layer
        self.normalised_by((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def normalised_by(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """What images are normalised by."""
        self.mean, self.std = tuple(mean), tuple(std)

    @property
    def zero(self) -> int:
        """The pixel that counts as 0: the mean one."""
        return round(255 * sum(self.mean) / len(self.mean))

    def pixels(self, x: Tensor) -> Tensor:
        """Normalised images to their pixels less `zero`: integers in float32."""
        mean, std = (torch.tensor(v, device=x.device).view(-1, 1, 1) for v in (self.mean, self.std))
        pixels = (x.detach().float() * std + mean).mul_(255.0).round_().clamp_(0, 255)
        return pixels.sub_(self.zero)

    def byte_weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights for pixels: real (O, 3, kh, kw), as integers, and what 1 is worth, (O,)."""
        std = torch.tensor(self.std, device=self.layer.weight.device)
        real = self.layer.weight.float() / (255.0 * std).view(-1, 1, 1)
        return (real, *_bytes_of(real))

    def trained(self, x: Tensor, *more: Any) -> Tensor:
        real, integers, scale = self.byte_weights()
        dtype = self.layer.weight.dtype
        weight = straight_through(real, integers * scale.view(-1, 1, 1, 1)).to(dtype)
        pixels = self.pixels(x).to(dtype)
        return self.finish(self.layer._conv_forward(pixels, weight, self.layer.bias))

    def exact(self, x: Tensor, *more: Any) -> Tensor:
        _, integers, scale = self.byte_weights()
        n = sums(self.layer, self.pixels(x), integers)
        return self.finish_exactly(n, scale, 1.0, self.layer.bias)


class IntegerMap(_Finished):
    """BatchNorm, ReLU and rounding of a map of codes: n = 64 code."""

    def trained(self, x: Tensor, *more: Any) -> Tensor:
        return self.finish(x)

    def exact(self, x: Tensor, *more: Any) -> Tensor:
        step = step_of(self.source, self.active.rows)
        n = codes_at(x, step).mul_(BYTE_WEIGHT)
        scale = torch.full((x.shape[1],), 1.0 / BYTE_WEIGHT)
        return self.finish_exactly(n, scale, step)


class IntegerSum(nn.Module):
    """The sum of two maps of bytes that share a step: of their codes, limited to a byte's range.

    Attributes:
        out: a ReLU behind the sum is in its range.
    """

    def __init__(self, out: Bytes) -> None:
        super().__init__()
        self.out = out

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        # Values are codes times the step, so rounding finds the sum of the codes: training and
        # evaluation compute the same.
        result: Tensor = self.out(x + y)
        return result


class GlobalAverage(nn.Module):
    """The mean over height and width.

    Args:
        keep: (N, C, 1, 1) instead of (N, C).
    """

    def __init__(self, keep: bool) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=self.keep)

    def sums(self, codes: Tensor) -> tuple[Tensor, int]:
        """Of each window, and how many pixels it has."""
        return codes.sum((2, 3), keepdim=self.keep), codes.shape[2] * codes.shape[3]


class WindowAverage(nn.AvgPool2d):
    """An AvgPool2d whose windows all count the same number of pixels."""

    def sums(self, codes: Tensor) -> tuple[Tensor, int]:
        """Of each window, and how many pixels it has."""
        sides = _pair(self.kernel_size)
        total = functional.avg_pool2d(codes, sides, self.stride, self.padding, divisor_override=1)
        return total, self.divisor_override or sides[0] * sides[1]


class IntegerAverage(IntegerModule):
    """The average of the codes in a window, rounded to bytes."""

    def __init__(
        self, pool: GlobalAverage | WindowAverage, active: ActiveSetting, source: Value, out: Bytes
    ) -> None:
        super().__init__(active, source)
        self.pool, self.out = pool, out

    def trained(self, x: Tensor, *more: Any) -> Tensor:
        result: Tensor = self.out(self.pool(x))
        return result

    def exact(self, x: Tensor, *more: Any) -> Tensor:
        rows = self.active.rows
        source_step = step_of(self.source, rows)
        n, pixels = self.pool.sums(codes_at(x, source_step))
        if 255 * pixels > SUM_LIMIT:
            raise ModelError(
                f"integer: the average of {pixels:,} pixels sums more than float32 adds exactly "
                f"(2^24); use images of a smaller size, got a map of {tuple(x.shape[2:])}"
            )
        step = self.out.scale.at(rows)
        a = average(source_step, step, pixels)
        return n.mul_(float(a)).round_().clamp_(self.out.low, self.out.top).mul_(step)


class IntegerResize(IntegerModule):
    """A map of bytes of another height and width, as `torch.nn.functional.interpolate` gives it.

    Blended with weights in whole parts of 128, and rounded to bytes of the same scale; or the
    nearest pixels as they are.

    Args:
        mode, align_corners, size, scale_factor, recompute_scale_factor: as torch has them; a size
            that depends on the image comes with each call.
    """

    def __init__(
        self,
        active: ActiveSetting,
        source: Bytes,
        mode: str,
        align_corners: bool | None,
        size: Any = None,
        scale_factor: Any = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        super().__init__(active, source)
        self.mode, self.align_corners = mode, align_corners
        self.size, self.scale_factor = size, scale_factor
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, x: Tensor, size: Any = None) -> Tensor:
        return self.trained_or_exact(x, size)

    def taps(self, sides: tuple[int, int], size: Any) -> tuple[Taps, Taps]:
        """Pixels and weights of rows and columns, for a map of these sides."""
        size = self.size if size is None else size
        factors: tuple[float | None, float | None] = (None, None)
        if size is not None:
            height, width = (int(side) for side in _pair(size))
        else:
            factors = tuple(map(float, _pair(self.scale_factor)))  # type: ignore[assignment]
            height, width = (
                scaled_side(side, factor)
                for side, factor in zip(sides, factors, strict=True)
                if factor is not None
            )
            if self.recompute_scale_factor:
                factors = (None, None)
        rows, columns = (
            self._taps_of(side, out, factor)
            for side, out, factor in zip(sides, (height, width), factors, strict=True)
        )
        return rows, columns

    def _taps_of(self, side: int, out: int, factor: float | None) -> Taps:
        if self.mode == "bilinear":
            return in_parts(linear(side, out, factor, bool(self.align_corners)))
        return nearest(side, out, factor, exact=self.mode == "nearest-exact")

    def blended(self, x: Tensor, size: Any) -> Tensor:
        """What lies between the pixels, not rounded: of codes exact in float32, in any order."""
        rows, columns = self.taps((x.shape[-2], x.shape[-1]), size)
        return _between(_between(x, columns, -1), rows, -2)

    def trained(self, x: Tensor, *more: Any) -> Tensor:
        out = self.source
        assert isinstance(out, Bytes)
        rows = self.active.rows
        # Not the step of a later call, in a recomputation.
        step = basis_of(self, out.scale.step[rows.i])
        return straight_through(self.blended(x.float(), *more), self._rounded(x, step, *more))

    def exact(self, x: Tensor, *more: Any) -> Tensor:
        return self._rounded(x, step_of(self.source, self.active.rows), *more)

    @torch.no_grad()
    def _rounded(self, x: Tensor, step: Tensor | float, size: Any) -> Tensor:
        step = torch.as_tensor(step, device=x.device, dtype=torch.float32).clamp_min(1e-30)
        codes = torch.round(x.float() / step)
        return self.blended(codes, size).round_().mul_(step)

    def extra_repr(self) -> str:
        return f"mode={self.mode}"


def _between(x: Tensor, taps: Taps, dim: int) -> Tensor:
    """Two pixels along a side, times their weights, added."""
    pixels, weights = (torch.from_numpy(v).to(x.device) for v in taps)
    shape = (-1, 1) if dim == -2 else (-1,)
    first, second = (
        x.index_select(dim, pixels[:, i].long()) * weights[:, i].view(shape) for i in range(2)
    )
    return first + second


class _Ending(IntegerModule):
    """What ends a network: bytes by weights of 8 bits, |w| <= 64.

    Attributes:
        layer: the layer, whose weights are float32 in training.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, active: ActiveSetting, source: Value) -> None:
        super().__init__(active, source)
        self.layer = layer

    def byte_weights(self) -> tuple[Tensor, Tensor]:
        """Weights as integers, in their shape, float32, and what 1 is worth, (classes,)."""
        return _bytes_of(self.layer.weight.float())

    def rounded_weight(self) -> Tensor:
        """What training computes with."""
        integers, scale = self.byte_weights()
        real = integers * scale.view(-1, *[1] * (integers.dim() - 1))
        return straight_through(self.layer.weight, real)


class IntegerLinear(_Ending):
    """The classifier: logits = a float32(n + B)."""

    layer: nn.Linear

    def trained(self, x: Tensor, *more: Any) -> Tensor:
        weight = self.rounded_weight()
        return functional.linear(x.to(weight.dtype), weight, self.layer.bias)

    def exact(self, x: Tensor, *more: Any) -> Tensor:
        rows = self.active.rows
        integers, scale = self.byte_weights()
        step = step_of(self.source, rows)
        n = linear_sums(codes_at(x, step), integers)
        slope, shift = worth(scale, step, self.layer.bias, None, rows)
        a, bias = multiplier_and_bias(slope, shift)
        total = n + torch.from_numpy(bias).to(n.device)
        logits = total.float() * torch.from_numpy(a).to(n.device)
        return logits.to(self.layer.weight.dtype)


class IntegerHead(_Ending):
    """The convolution that gives a map of logits: a float32(n) + b, two roundings."""

    layer: nn.Conv2d

    def trained(self, x: Tensor, *more: Any) -> Tensor:
        weight = self.rounded_weight()
        return self.layer._conv_forward(x.to(weight.dtype), weight, self.layer.bias)

    def exact(self, x: Tensor, *more: Any) -> Tensor:
        rows = self.active.rows
        integers, scale = self.byte_weights()
        step = step_of(self.source, rows)
        n = large_sums(self.layer, codes_at(x, step), integers).float()
        a, b = (
            torch.from_numpy(v.astype(np.float32)).to(n.device).view(-1, 1, 1)
            for v in worth(scale, step, self.layer.bias, None, rows)
        )
        return (n.mul_(a) + b).to(self.layer.weight.dtype)


@torch.no_grad()
def _bytes_of(real: Tensor) -> tuple[Tensor, Tensor]:
    """Weights rounded to integers of at most 64 per output channel, and what 1 is worth."""
    rows = real.detach().flatten(1)
    # A channel of zeros still needs a scale.
    scale = (rows.abs().amax(1) / WEIGHT_LIMIT).clamp_min(1e-30)
    return torch.round(rows / scale.unsqueeze(1)).view_as(real), scale
