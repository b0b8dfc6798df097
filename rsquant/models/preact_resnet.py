"""ResNet with pre-activation blocks, for quantized activations.

Every quantized convolution is fed by BatchNorm - ReLU - quantize. The first block of a stage takes
the stage's already quantized input for both its branch and its shortcut; each stage ends with an
extra BatchNorm - ReLU - quantize, the last one without the quantize. Shortcuts that change shape
are a bare 1x1 convolution (type B).

Source: the published LQ-Nets and RS-Nets networks; He et al. (arXiv 1603.05027).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from rsquant.models.resnet import LAYERS, initialise
from rsquant.models.stem import stem_conv, stem_pool

Quantizer = Callable[[], nn.Module]


def _activation(channels: int, quantizer: Quantizer) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True), quantizer())


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


class PreactBasicBlock(nn.Module):
    """3x3, 3x3. `first`: the input is the stage's quantized one."""

    expansion = 1

    def __init__(
        self, in_channels: int, planes: int, stride: int, first: bool, quantizer: Quantizer
    ) -> None:
        super().__init__()
        self.act1 = nn.Identity() if first else _activation(in_channels, quantizer)
        self.conv1 = nn.Conv2d(in_channels, planes, 3, stride, 1, bias=False)
        self.act2 = _activation(planes, quantizer)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.shortcut = _shortcut(in_channels, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.act2(self.conv1(self.act1(x)))) + self.shortcut(x)


class PreactBottleneck(nn.Module):
    """1x1, 3x3 (strided), 1x1 to four times the planes. `first`: the input is quantized."""

    expansion = 4

    def __init__(
        self, in_channels: int, planes: int, stride: int, first: bool, quantizer: Quantizer
    ) -> None:
        super().__init__()
        out_channels = planes * self.expansion
        self.act1 = nn.Identity() if first else _activation(in_channels, quantizer)
        self.conv1 = nn.Conv2d(in_channels, planes, 1, bias=False)
        self.act2 = _activation(planes, quantizer)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.act3 = _activation(planes, quantizer)
        self.conv3 = nn.Conv2d(planes, out_channels, 1, bias=False)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv2(self.act2(self.conv1(self.act1(x))))
        return self.conv3(self.act3(branch)) + self.shortcut(x)


class PreactResNet(nn.Module):
    """Pre-activation ResNet with a quantizer after every ReLU but the last.

    Args:
        arch: a key of `resnet.LAYERS`.
        num_classes: outputs of the classifier.
        width: channels of the first stage (64 in the paper); later stages double it.
        stem: a resolved stem name.
        quantizer: makes one activation quantizer.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self, arch: str, num_classes: int, width: int, stem: str, quantizer: Quantizer
    ) -> None:
        super().__init__()
        post_block, counts = LAYERS[arch]
        block = PreactBasicBlock if post_block is BasicBlock else PreactBottleneck
        self.conv1 = stem_conv(stem, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = stem_pool(stem)
        # Pooling and quantizing commute; quantizing last touches a quarter of the values.
        self.quantizer = quantizer()
        channels = width
        for stage, count in enumerate(counts):
            planes = width * 2**stage
            layers: list[nn.Module] = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                layers.append(block(channels, planes, stride, index == 0, quantizer))
                channels = planes * block.expansion
            last = stage == len(counts) - 1
            layers.append(_activation(channels, nn.Identity if last else quantizer))
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.quantizer(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))
