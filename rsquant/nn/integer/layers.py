"""The layers of an integer network: what is between two roundings, in one module.

Between them flow values, step * code in float32. In training a layer computes with them, as the
parts it is made of do, and rounds its result; in evaluation it computes the very integers of a
device (`exact`). Gradients are those of the training form in both.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.utils import _pair

from rsquant.errors import ModelError
from rsquant.nn.active import ActiveSetting
from rsquant.nn.integer.byte_scale import Bytes
from rsquant.nn.integer.exact import (
    Value,
    byte_weights,
    codes_at,
    emit,
    level_weights,
    step_of,
    sums,
    worth,
)
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.quantized import QuantConv2d
from rsquant.packed.integers import BYTE_WEIGHT, SUM_LIMIT, average
from rsquant.quantizers.rounding import straight_through

Form = Callable[[Tensor], Tensor]


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
        return self.either(x, self.trained, self.exact)

    def either(self, x: Tensor, trained: Form, exact: Form) -> Tensor:
        """The result of training or of a device, with gradients of training."""
        if self.training:
            return trained(x)
        with torch.no_grad():
            result = exact(x)
        learns = x.requires_grad or any(p.requires_grad for p in self.parameters())
        if torch.is_grad_enabled() and learns:
            return straight_through(trained(x), result)
        return result

    @abstractmethod
    def trained(self, x: Tensor) -> Tensor:
        """The result in training; what its quantizers and statistics do then depends on theirs."""

    @abstractmethod
    def exact(self, x: Tensor) -> Tensor:
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

    def trained(self, x: Tensor) -> Tensor:
        return self.finish(self.layer(x.to(self.layer.weight.dtype)))

    def exact(self, x: Tensor) -> Tensor:
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
        return (real, *byte_weights(real))

    def trained(self, x: Tensor) -> Tensor:
        real, integers, scale = self.byte_weights()
        dtype = self.layer.weight.dtype
        weight = straight_through(real, integers * scale.view(-1, 1, 1, 1)).to(dtype)
        pixels = self.pixels(x).to(dtype)
        return self.finish(self.layer._conv_forward(pixels, weight, self.layer.bias))

    def exact(self, x: Tensor) -> Tensor:
        _, integers, scale = self.byte_weights()
        n = sums(self.layer, self.pixels(x), integers)
        return self.finish_exactly(n, scale, 1.0, self.layer.bias)


class IntegerMap(_Finished):
    """BatchNorm, ReLU and rounding of a map of codes: n = 64 code."""

    def trained(self, x: Tensor) -> Tensor:
        return self.finish(x)

    def exact(self, x: Tensor) -> Tensor:
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

    def trained(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(self.pool(x))
        return result

    def exact(self, x: Tensor) -> Tensor:
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
