"""MobileNetV2 at any width multiplier.

Source: Sandler et al. (arXiv 1801.04381), table 2 and section 5; channels are multiples of 8 and
the last layer is never narrower than 1280, as in the authors' code. RS-Nets trains it without
dropout.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from rsquant.errors import ConfigError

NAME = "mobilenet_v2"
# Multiplier in a name: mobilenet_v2_x0_35 is 0.35 times as wide. Above 4 is a slip.
_NAME = re.compile(rf"{NAME}(_x(?P<whole>\d)_(?P<part>\d{{1,3}}))?", re.ASCII)
MIN_WIDTH, MAX_WIDTH = 0.05, 4.0
# Expansion, channels, blocks, stride of the first of them.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM, LAST = 32, 1280


def width_of(arch: str) -> float | None:
    """The multiplier that a name says; None for the name of another network.

    Raises:
        ConfigError: a multiplier that is too small or too large.
    """
    match = _NAME.fullmatch(arch)
    if match is None:
        return None
    width = 1.0 if match["whole"] is None else float(f"{match['whole']}.{match['part']}")
    if not MIN_WIDTH <= width <= MAX_WIDTH:
        raise ConfigError(f"arch: {arch}: widths are {MIN_WIDTH} to {MAX_WIDTH}, got {width:g}")
    return width


def named(width: float) -> str:
    """The name of a network with this multiplier: mobilenet_v2_x0_35.

    Raises:
        ConfigError: a multiplier that is too small or too large, or of more than three digits.
    """
    text = f"{width:.3f}".rstrip("0").rstrip(".")
    if abs(float(text) - width) > 1e-9:
        raise ConfigError(
            f"widths: {width:.6g} times the width of {NAME} has more than three digits; choose "
            "another share"
        )
    whole, _, part = text.partition(".")
    arch = NAME if text == "1" else f"{NAME}_x{whole}_{part or 0}"
    width_of(arch)
    return arch


def channels(count: int, width: float) -> int:
    """`count` times `width`, to the nearest multiple of 8 that is at most a tenth smaller."""
    wanted = count * width
    found = max(8, int(wanted + 4) // 8 * 8)
    return found if found >= 0.9 * wanted else found + 8


class InvertedResidual(nn.Module):
    """1x1 to more channels, 3x3 depthwise, 1x1 back without an activation; added where it fits.

    Args:
        expansion: channels in between per input channel; 1 leaves the first convolution out.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(_conv_norm_relu6(in_channels, hidden, 1))
        layers.append(_conv_norm_relu6(hidden, hidden, 3, stride, groups=hidden))
        layers.append(nn.Conv2d(hidden, out_channels, 1, bias=False))
        layers.append(nn.BatchNorm2d(out_channels))
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Float MobileNetV2. Layer names are torchvision's, so its weights load by name.

    Args:
        num_classes: outputs of the classifier.
        width: multiplier of all channels.
    """

    def __init__(self, num_classes: int, width: float = 1.0) -> None:
        super().__init__()
        into = channels(STEM, width)
        features: list[nn.Module] = [_conv_norm_relu6(3, into, 3, 2)]
        for expansion, count, blocks, stride in STAGES:
            out = channels(count, width)
            for index in range(blocks):
                features.append(InvertedResidual(into, out, stride if index == 0 else 1, expansion))
                into = out
        last = channels(LAST, max(1.0, width))
        features.append(_conv_norm_relu6(into, last, 1))
        self.features = nn.Sequential(*features)
        # The published network drops out in place of the first.
        self.classifier = nn.Sequential(nn.Identity(), nn.Linear(last, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(x, 1))


def _conv_norm_relu6(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    padding = (kernel_size - 1) // 2
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )
