"""One convolution in the libraries that ours is compared with: cuDNN, and cuBLAS for int8."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rsquant.bench.cuda.ceilings import runs
from rsquant.bench.cuda.device import Device
from rsquant.bench.cuda.forms import Form
from rsquant.bench.cuda.fuse import FusedConv

DTYPES = {"cudnn_bf16": torch.bfloat16, "cudnn_fp16": torch.float16}
# Rows that `torch._int_mm` needs at least, and what the other sides must be multiples of.
_INT_MM_ROWS = 17
_INT_MM_MULTIPLE = 8


@dataclass(frozen=True)
class Peer:
    """A call that computes a convolution once, and the fewest bytes it has to move."""

    call: Callable[[], object]
    bytes: int
    form: str


def cudnn(form: Form, dtype: torch.dtype, device: Device) -> list[Peer]:
    """A convolution with bias, and the same with a ReLU in one kernel where cuDNN has it.

    Where ours adds a residual sum, so do these. PyTorch adds bias and sum in passes of their own,
    so the second may be faster though it does more. Inputs are random and not negative, channels
    innermost.
    """
    at = device.device
    generator = torch.Generator(at).manual_seed(0)

    def values(channels: int, height: int, width: int) -> Tensor:
        shape = (form.batch, channels, height, width)
        drawn = torch.randn(shape, device=at, generator=generator).clamp_(min=0)
        return drawn.to(dtype=dtype, memory_format=torch.channels_last)

    x = values(form.in_channels, form.height, form.width)
    z = None
    conv = nn.Conv2d(
        form.in_channels,
        form.out_channels,
        form.kernel,
        form.stride,
        form.padding,
        form.dilation,
        form.groups,
        device=at,
    ).requires_grad_(False)
    conv = conv.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = dtype.itemsize
    moved = form.bytes(size, size, size, size)
    if "add" in form.epilogue:
        z = values(form.out_channels, form.out_height, form.out_width)
        moved += z.nbytes
    fused = FusedConv(conv)
    call = _inferring(fused, x, z)
    call()
    plain = Peer(_inferring(_WithSum(conv), x, z), moved, "plain")
    return [plain, Peer(call, moved, "fused")] if fused.available else [plain]


def int8(form: Form, device: Device) -> Peer | None:
    """A 1x1 convolution as cuBLAS's product of int8 matrices; None for any other convolution.

    Its sums are written as int32 and nothing follows them: no bias, scale or rounding back to
    8 bits. A real int8 layer takes longer; this bounds its time from below.
    """
    pointwise = form.kernel == (1, 1) and form.stride == (1, 1) and form.padding == (0, 0)
    rows = form.batch * form.out_height * form.out_width
    sides = (form.in_channels, form.out_channels)
    if not pointwise or form.groups != 1 or rows < _INT_MM_ROWS:
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

    return Peer(call, form.bytes(1, 1, 4, 0), "no epilogue") if runs(call) else None


class _WithSum(nn.Module):
    """conv(x) + bias, + z if there is one."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, z: Tensor | None) -> Tensor:
        result: Tensor = self.conv(x)
        return result if z is None else result.add_(z)


def _inferring(module: nn.Module, x: Tensor, z: Tensor | None) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.inference_mode():
            return module(x, z)

    return call
