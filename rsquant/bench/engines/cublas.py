"""cuBLAS, through PyTorch: a 1x1 convolution as a product of int8 matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from rsquant.bench.cuda.ceilings import runs
from rsquant.bench.cuda.device import Device
from rsquant.bench.cuda.forms import Form
from rsquant.bench.engines.layer import LayerCall

# Rows that `torch._int_mm` needs at least, and what the other sides must be multiples of.
_INT_MM_ROWS = 17
_INT_MM_MULTIPLE = 8


def pointwise(form: Form, device: Device) -> LayerCall | None:
    """A 1x1 convolution as cuBLAS's product of int8 matrices; None for any other convolution.

    Its sums are written as int32 and nothing follows them: no bias, scale or rounding back to
    8 bits. A real int8 layer takes longer; this bounds its time from below.
    """
    is_pointwise = form.kernel == (1, 1) and form.stride == (1, 1) and form.padding == (0, 0)
    rows = form.batch * form.out_height * form.out_width
    sides = (form.in_channels, form.out_channels)
    if not is_pointwise or form.groups != 1 or rows < _INT_MM_ROWS:
        return None
    if any(side % _INT_MM_MULTIPLE for side in sides):
        return None
    at = device.device
    generator = torch.Generator(at).manual_seed(0)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, dtype=torch.int8, device=at, generator=generator)

    x = integers(0, 16, rows, form.in_channels)
    weights = integers(-14, 15, form.out_channels, form.in_channels).t()
    sums = torch.empty(rows, form.out_channels, dtype=torch.int32, device=at)

    def call() -> None:
        torch._int_mm(x, weights, out=sums)

    return LayerCall(call, form.bytes(1, 1, 4, 0), "no epilogue") if runs(call) else None
