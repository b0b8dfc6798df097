"""Blurs: convolutions with fixed weights of 1 2 1, or 1 3 3 1, in each channel of its own.

    (1 1) * (1 1) = 1 2 1: k weights are k - 1 averages of 2 pixels, the last with the stride.

Networks that blur before they subsample (BlurPool) have no other convolutions of float weights.
"""

from __future__ import annotations

from math import comb
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rsquant.nn.tracer import argument
from rsquant.packed.ops.window import pair, pooled_pixels
from rsquant.packing.call import Call
from rsquant.packing.constants import Constants
from rsquant.packing.ops import Op


def blur_of(call: Call, constants: Constants) -> Op | None:
    """The averages that a convolution with constant weights is; None of any other call.

    Raises:
        PackError: its weights are no blur.
    """
    if call.node.target not in (functional.conv2d, torch.conv2d) or call.module is not None:
        return None
    weight = constants.of(argument(call.node, 1, "weight", None))
    names = ("bias", "stride", "padding", "dilation", "groups")
    bias, stride, padding, dilation, groups = (
        argument(call.node, 2 + i, name, default)
        for i, (name, default) in enumerate(zip(names, (None, 1, 0, 1, 1), strict=True))
    )
    x = call.input()
    if not isinstance(weight, Tensor) or not _is_blur(weight, x.channels):
        call.refuse(
            "is a convolution with weights of no layer, which blur nothing", "use an nn.Conv2d"
        )
    if bias is not None or any(pair(padding)) or pair(dilation) != (1, 1) or groups != x.channels:
        call.refuse("blurs with bias, padding, dilation or groups", "pad before it")
    rows, columns = pair(stride)
    for step in reversed(range(weight.shape[2] - 1)):
        fields: dict[str, Any] = {
            "kernel": (2, 2),
            "stride": (1, 1) if step else (rows, columns),
            "padding": (0, 0),
            "ceil_mode": False,
        }
        pixels = pooled_pixels(x.pixels, fields)
        x = call.step(
            "avgpool2d", (x,), pixels=pixels, **fields, count_include_pad=True, divisor=None
        )
    return x


def _is_blur(weight: Tensor, channels: int) -> bool:
    """Whether weights are, in every channel, the products of binomial coefficients."""
    size = weight.shape[-1]
    if weight.shape != (channels, 1, size, size) or size < 2:
        return False
    row = torch.tensor([comb(size - 1, k) for k in range(size)]) / 2 ** (size - 1)
    return bool((weight == row[:, None] * row).all())
