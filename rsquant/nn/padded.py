"""Convolutions whose padding is not alike on both sides, and finding out what a convolution pads.

Networks that come from TensorFlow pad with layers of their own: timm's Conv2dSame, the
Conv2dStaticSamePadding of EfficientNets, and many more. Each is a Conv2d that puts zeros around
its input.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsquant.padding import RULES, Padding, extent_of, output_side, pads_at, pair, plainest

# How far two sums of a layer in float64 may be from each other, of the largest.
_ROUNDING = 1e-12


class PaddedConv2d(nn.Conv2d):
    """Conv2d with any padding by zeros.

    Args:
        pads: (top, left, bottom, right) in pixels, or "same" (TensorFlow's, computed from the
            size of the input) or "same-lower"; Conv2d's own `padding` is then 0. None: a plain
            Conv2d.
    """

    pads: Padding | None

    def __init__(self, *args: Any, pads: Padding | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pads = pads

    def pads_at(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, bottom and right for an input of this size; `pads` must not be None."""
        assert self.pads is not None
        extent = extent_of(pair(self.kernel_size), pair(self.dilation))
        return pads_at(self.pads, (height, width), extent, (self.stride[0], self.stride[1]))

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.pads is None:
            return super()._conv_forward(input, weight, bias)
        top, left, bottom, right = self.pads_at(*(int(side) for side in input.shape[-2:]))
        if (top, left) != (bottom, right):
            input = functional.pad(input, (left, right, top, bottom))
            top = left = 0
        return functional.conv2d(
            input, weight, bias, self.stride, (top, left), self.dilation, self.groups
        )

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.pads is None else f"{text}, pads={self.pads}"


def pads_of(conv: nn.Conv2d) -> Padding | None:
    """`pads` of a PaddedConv2d; None for any other."""
    return conv.pads if isinstance(conv, PaddedConv2d) else None


def padded_form(conv: nn.Conv2d) -> PaddedConv2d | None:
    """A Conv2d of a class of its own as a PaddedConv2d with its parameters; None if it is none.

    What the class computes is seen from its results, in evaluation and in training: where it does
    anything else than pad with zeros and convolve, the answer is None.
    """
    own = {name for name, _ in (*conv.named_parameters(), *conv.named_buffers())}
    if "weight" not in own or own - {"weight", "bias"}:
        return None  # a mask, or weights that are computed
    try:
        padding = _padding_of(conv)
    except Exception:  # whatever a user's forward raises on inputs it was not made for
        return None
    if padding is None:
        return None
    plain = isinstance(padding, tuple) and len(padding) == 2
    new = PaddedConv2d(
        conv.in_channels,
        conv.out_channels,
        pair(conv.kernel_size),
        pair(conv.stride),
        padding if plain else 0,
        pair(conv.dilation),
        conv.groups,
        conv.bias is not None,
        pads=None if plain else padding,
        device="meta",
    )
    new.weight, new.bias = conv.weight, conv.bias
    return new


@torch.no_grad()
def _padding_of(conv: nn.Conv2d) -> Padding | None:
    kernel, stride, dilation = pair(conv.kernel_size), pair(conv.stride), pair(conv.dilation)
    extent = extent_of(kernel, dilation)
    twin = copy.deepcopy(conv).cpu().double()
    weight, bias = twin.weight.clone(), None if twin.bias is None else twin.bias.clone()
    first = 2 * max(extent) + 2 * max(stride)
    # Every remainder of the stride, twice.
    sizes = [(first + i, first + i + 1) for i in range(2 * max(stride))]
    twin.eval()
    seen = [_placed(twin, size, stride) for size in sizes]
    tops, lefts, heights, widths = zip(*seen, strict=True)
    if min(tops) < 0 or min(lefts) < 0:
        return None
    # Of the remainder of each size some lets no pixel over.
    below = max(
        (out - 1) * stride[0] + extent[0] - top - side
        for out, top, (side, _) in zip(heights, tops, sizes, strict=True)
    )
    right = max(
        (out - 1) * stride[1] + extent[1] - left - side
        for out, left, (_, side) in zip(widths, lefts, sizes, strict=True)
    )
    fixed = (tops[0], lefts[0], max(below, 0), max(right, 0))
    for padding in (fixed, *RULES):
        pads = [pads_at(padding, size, extent, stride) for size in sizes]
        outputs = [
            tuple(output_side(size[i], p[i], p[2 + i], extent[i], stride[i]) for i in range(2))
            for size, p in zip(sizes, pads, strict=True)
        ]
        found = [(*p[:2], *out) for p, out in zip(pads, outputs, strict=True)]
        if found == seen:
            twin.weight.copy_(weight)
            if twin.bias is not None and bias is not None:
                twin.bias.copy_(bias)
            known = _computes(twin, padding, sizes, extent)
            return plainest(padding, extent, stride) if known else None
    return None


def _placed(twin: nn.Conv2d, size: tuple[int, int], stride: tuple[int, int]) -> tuple[int, ...]:
    """Where a convolution puts its input: top, left, and the size of its output.

    Its weights become 1 at the first tap, so each output is one pixel of the padded input, and the
    pixels are numbered.
    """
    twin.weight.zero_()
    twin.weight[:, 0, 0, 0] = 1
    if twin.bias is not None:
        twin.bias.zero_()
    numbers = torch.arange(1.0, size[0] * size[1] + 1, dtype=torch.float64).view(1, 1, *size)
    output = twin.forward(numbers.expand(1, twin.in_channels, *size).contiguous())[0, 0]
    y, x = (int(i) for i in output.nonzero()[0])
    row, column = divmod(int(output[y, x]) - 1, size[1])
    return y * stride[0] - row, x * stride[1] - column, output.shape[0], output.shape[1]


def _computes(
    conv: nn.Conv2d, padding: Padding, sizes: list[tuple[int, int]], extent: tuple[int, int]
) -> bool:
    """Whether a float64 convolution gives the sums of a padded one, in evaluation and training."""
    stride = pair(conv.stride)
    generator = torch.Generator().manual_seed(0)
    for training, size in zip((False, True), sizes, strict=False):
        conv.train(training)
        x = torch.randn(2, conv.in_channels, *size, dtype=torch.float64, generator=generator)
        top, left, bottom, right = pads_at(padding, size, extent, stride)
        wanted = functional.conv2d(
            functional.pad(x, (left, right, top, bottom)),
            conv.weight,
            conv.bias,
            stride,
            0,
            pair(conv.dilation),
            conv.groups,
        )
        got = conv.forward(x)
        largest = float(wanted.abs().max())
        if got.shape != wanted.shape or float((got - wanted).abs().max()) > _ROUNDING * largest:
            return False
    return True
