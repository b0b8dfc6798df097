"""The first layers of a ResNet, for large and for small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from rsquant.errors import ConfigError

# name: kernel, stride, padding of the first convolution; max-pooling after it; total stride
_STEMS = {
    "imagenet": (7, 2, 3, True),
    "small": (3, 2, 1, False),
    "tiny": (3, 1, 1, False),
}
STEMS = ("auto", *_STEMS)


def choose_stem(stem: str, resolutions: Sequence[int]) -> tuple[str, str]:
    """Resolve "auto" from the largest resolution.

    A 7x7 stride-2 convolution and a pooling leave the first block a quarter of each side. Small
    images keep more with a 3x3 convolution of stride 2 (up to 64 pixels) or 1 (up to 40).

    Returns:
        The stem's name, and why in one sentence for the log.
    """
    if stem not in STEMS:
        raise ConfigError(f"stem: must be one of {', '.join(STEMS)}, got '{stem}'")
    if stem != "auto":
        return stem, f"stem '{stem}': as requested"
    largest = max(resolutions)
    if largest > 64:
        name, why = "imagenet", "above 64"
    elif largest > 40:
        name, why = "small", "64 or less"
    else:
        name, why = "tiny", "40 or less"
    kernel, stride, _, pool = _STEMS[name]
    shape = f"{kernel}x{kernel} stride {stride}" + (" and max-pooling" if pool else ", no pooling")
    return name, f"stem '{name}' ({shape}): the largest resolution, {largest}, is {why}"


def stem_stride(stem: str) -> int:
    """Pixels of the image per pixel of the first block's input, each way."""
    _, stride, _, pool = _STEMS[stem]
    return stride * (2 if pool else 1)


def stem_conv(stem: str, width: int) -> nn.Conv2d:
    """The first convolution, 3 -> width channels."""
    kernel, stride, padding, _ = _STEMS[stem]
    return nn.Conv2d(3, width, kernel, stride, padding, bias=False)


def stem_pool(stem: str) -> nn.Module:
    """The pooling after the stem's BatchNorm and ReLU, or nothing."""
    return nn.MaxPool2d(3, 2, 1) if _STEMS[stem][3] else nn.Identity()
