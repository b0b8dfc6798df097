"""Small networks that pad as those from TensorFlow do; their classes are users', not rsquant's."""

import math

from torch import nn
from torch.nn import functional


def same_pads(side, kernel, stride, dilation):
    """TensorFlow's: ceil(side / stride) outputs, the odd zero at the end."""
    total = max((math.ceil(side / stride) - 1) * stride + (kernel - 1) * dilation + 1 - side, 0)
    return total // 2, total - total // 2


class DynamicSame(nn.Conv2d):
    """As in timm and efficientnet-lite-pytorch: computed at every call."""

    def ends(self, x):
        sides = zip(x.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True)
        (top, bottom), (left, right) = (same_pads(*side) for side in sides)
        return left, right, top, bottom

    def forward(self, x):
        x = functional.pad(x, self.ends(x))
        return functional.conv2d(
            x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )


class LowerSame(DynamicSame):
    """The odd zero at the beginning."""

    def ends(self, x):
        left, right, top, bottom = super().ends(x)
        return right, left, bottom, top


class StaticSame(nn.Conv2d):
    """As in efficientnet-lite-pytorch: computed for one size, then the same at all."""

    def __init__(self, *args, image_size, **kwargs):
        super().__init__(*args, **kwargs)
        self.stride = list(self.stride)
        top, bottom = same_pads(image_size, self.kernel_size[0], self.stride[0], 1)
        self.static_padding = nn.ZeroPad2d((top, bottom, top, bottom))

    def forward(self, x):
        x = self.static_padding(x)
        return functional.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class OnlyNamed(nn.Conv2d):
    """Computes what Conv2d does."""


class Lite(nn.Module):
    """A stem, depthwise and pointwise convolutions, strided and not, all of one class."""

    def __init__(self, conv, width=8, **options):
        super().__init__()
        self.stem = conv(3, width, 3, 2, bias=False, **options)
        self.expand = conv(width, 2 * width, 1, bias=False, **options)
        self.depthwise = conv(2 * width, 2 * width, 5, 2, groups=2 * width, bias=False, **options)
        self.project = conv(2 * width, width, 1, **options)
        self.even = conv(width, width, 2, **options)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n * width) for n in (1, 2, 2, 1, 1))
        self.act = nn.ReLU6()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(width, 5)

    def forward(self, x):
        x = self.act(self.norms[0](self.stem(x)))
        y = self.act(self.norms[1](self.expand(x)))
        y = self.act(self.norms[2](self.depthwise(y)))
        x = self.norms[3](self.project(y))
        x = x + self.act(self.norms[4](self.even(x)))
        return self.fc(self.pool(x).flatten(1))
