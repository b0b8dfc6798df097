"""A convolution of the image's blocks as one of the image.

Space to depth puts the pixels of blocks of b x b into channels. A convolution of these reads the
same pixels as one of the image whose kernel, stride and padding are b times as large:

    W[o, c, b i + y, b j + x] = w[o, (c, y, x), i, j]
"""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import nn

from rsquant.errors import PackError
from rsquant.nn.quantized import QuantConv2d
from rsquant.packed.plan import MAX_KERNEL
from rsquant.packing.ops import BLOCKS, Op, set_users
from rsquant.packing.weights import quantized_weight


def absorb_blocks(ops: list[Op]) -> list[Op]:
    """The operations without blocks: the convolutions that read them read the image.

    Raises:
        PackError: a map other than the image is seen in blocks, or something else reads them.
    """
    for blocks in [op for op in ops if op.kind == BLOCKS]:
        if blocks.inputs[0].kind != "image":
            _refuse(blocks, "moves pixels of a map into channels", "only those of the image can be")
        for reader in blocks.users:
            _read_image(reader, blocks)
    kept = [op for op in ops if op.kind != BLOCKS]
    set_users(kept)
    return kept


def _read_image(reader: Op, blocks: Op) -> None:
    """Let a convolution read the image, in place."""
    conv, side = reader.module, blocks.fields["side"]
    plain = type(conv) is nn.Conv2d or (
        isinstance(conv, QuantConv2d) and conv.input_quantizer is None
    )
    if not plain or not isinstance(conv, nn.Conv2d) or isinstance(conv.padding, str):
        _refuse(blocks, f"is read by {reader.name}", "let a convolution of fixed padding be first")
    kernel = side * conv.kernel_size[0], side * conv.kernel_size[1]
    if conv.groups != 1 or conv.dilation != (1, 1) or max(kernel) > MAX_KERNEL:
        _refuse(
            blocks,
            f"is read by {reader.name}, with groups, dilation or a kernel of more than "
            f"{MAX_KERNEL} pixels of the image",
            "use a plain convolution",
        )
    weight = quantized_weight(conv).detach()
    wide = torch.zeros(len(weight), 3, *kernel, dtype=weight.dtype)
    for place, (channel, row, column) in enumerate(blocks.fields["taps"]):
        wide[:, channel, row::side, column::side] = weight[:, place]
    stride, padding = ((side * pair[0], side * pair[1]) for pair in (conv.stride, conv.padding))
    first = nn.Conv2d(3, conv.out_channels, kernel, stride, padding, bias=conv.bias is not None)
    first.weight = nn.Parameter(wide, requires_grad=False)
    if conv.bias is not None:
        first.bias = nn.Parameter(conv.bias.detach(), requires_grad=False)
    reader.module, reader.inputs = first, blocks.inputs


def _refuse(op: Op, why: str, do: str) -> NoReturn:
    raise PackError(f"{op.name}: {why}; {do}")
