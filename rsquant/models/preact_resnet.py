"""ResNet with pre-activation blocks, for quantized activations.

Every quantized convolution is fed by BatchNorm - ReLU - quantize, and a BatchNorm follows the last
convolution of each branch and each shortcut's convolution, before the two are added. The first
block of a stage has no BatchNorm - ReLU of its own: in the later stages it takes the stage's
quantized input for both its branch and its shortcut; in the first stage it quantizes inside the
branch, and its shortcut takes the value before that. Each stage ends with an extra BatchNorm -
ReLU - quantize, the last one without the quantize. Shortcuts that change the number of channels are
a 1x1 convolution (type B).

ResNet-18 has 28 BatchNorms of 6,720 channels, ResNet-50 has 69 of 41,664.

"preact-bare" is the block of rsquant before 0.2: no BatchNorm before the addition, and the first
block of the first stage like those of the others.

Source: the published LQ-Nets and RS-Nets networks; He et al. (arXiv 1603.05027).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from rsquant.models.resnet import LAYERS, initialise
from rsquant.models.stem import stem_conv, stem_pool
from rsquant.quantizers import ActivationQuantizer, InputQuantizer

# What a block's input is: "float" (its own BatchNorm - ReLU - quantize comes first), "rectified"
# (behind a ReLU: the branch only quantizes), "quantized" (nothing is left to do).
Entry = Literal["float", "rectified", "quantized"]


class Quantize(nn.Identity):
    """Where activations are quantized; `factory` puts a quantizer in its place.

    Args:
        readers: names of the layers that read what it gives.
    """

    def __init__(self, *readers: str) -> None:
        super().__init__()
        self.readers = readers


class Activation(nn.Sequential):
    """BatchNorm, ReLU, quantizer; a quantizer that can takes the ReLU into its own pass."""

    def forward(self, x: Tensor) -> Tensor:
        norm, relu, quantizer = self
        x = norm(x)
        if isinstance(quantizer, InputQuantizer):
            quantizer = quantizer.in_force
        if isinstance(quantizer, ActivationQuantizer) and type(relu) is nn.ReLU:
            # Whoever watches a layer must see it run, with its own input.
            watched = any(
                hooks
                for layer in (relu, quantizer)
                for hooks in (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks)
            )
            if not watched and quantizer.takes_relu(x):
                rounded: Tensor = quantizer(x, rectified=True)
                return rounded
        result: Tensor = quantizer(relu(x))
        return result


def _activation(channels: int, *readers: str) -> Activation:
    after = Quantize(*readers) if readers else nn.Identity()
    return Activation(nn.BatchNorm2d(channels), nn.ReLU(inplace=True), after)


def _enter(entry: Entry, channels: int, reader: str) -> nn.Module:
    """What a branch starts with."""
    if entry == "float":
        return _activation(channels, reader)
    return Quantize(reader) if entry == "rectified" else nn.Identity()


def _shortcut(in_channels: int, out_channels: int, stride: int, bare: bool) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return conv if bare else nn.Sequential(conv, nn.BatchNorm2d(out_channels))


class PreactBasicBlock(nn.Module):
    """3x3, 3x3."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int,
        entry: Entry,
        bare: bool,
        name: str,
    ) -> None:
        super().__init__()
        self.act1 = _enter(entry, in_channels, f"{name}.conv1")
        self.conv1 = nn.Conv2d(in_channels, planes, 3, stride, 1, bias=False)
        self.act2 = _activation(planes, f"{name}.conv2")
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn = nn.Identity() if bare else nn.BatchNorm2d(planes)
        self.shortcut = _shortcut(in_channels, planes, stride, bare)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv2(self.act2(self.conv1(self.act1(x))))
        return self.bn(branch) + self.shortcut(x)


class PreactBottleneck(nn.Module):
    """1x1, 3x3 (strided), 1x1 to four times the planes."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int,
        entry: Entry,
        bare: bool,
        name: str,
    ) -> None:
        super().__init__()
        out_channels = planes * self.expansion
        self.act1 = _enter(entry, in_channels, f"{name}.conv1")
        self.conv1 = nn.Conv2d(in_channels, planes, 1, bias=False)
        self.act2 = _activation(planes, f"{name}.conv2")
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.act3 = _activation(planes, f"{name}.conv3")
        self.conv3 = nn.Conv2d(planes, out_channels, 1, bias=False)
        self.bn = nn.Identity() if bare else nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride, bare)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv2(self.act2(self.conv1(self.act1(x))))
        return self.bn(self.conv3(self.act3(branch))) + self.shortcut(x)


class PreactResNet(nn.Module):
    """Pre-activation ResNet with a `Quantize` after every ReLU but the last.

    Args:
        arch: a key of `resnet.LAYERS`.
        num_classes: outputs of the classifier.
        width: channels of the first stage (64 in the paper); later stages double it.
        stem: a resolved stem name.
        bare: the block without BatchNorms before the addition ("preact-bare").

    Attributes:
        input_quantizers: by name of a convolution, the name of the quantizer that it reads.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        arch: str,
        num_classes: int,
        width: int,
        stem: str,
        bare: bool = False,
    ) -> None:
        super().__init__()
        post_block, counts = LAYERS[arch]
        block = PreactBasicBlock if post_block is BasicBlock else PreactBottleneck
        self.conv1 = stem_conv(stem, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = stem_pool(stem)
        # Pooling and quantizing commute; quantizing last touches a quarter of the values.
        self.quantizer = nn.Identity()
        channels = width
        for stage, count in enumerate(counts):
            planes = width * 2**stage
            layers: list[nn.Module] = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                entry: Entry = "float" if index else "quantized"
                if stage == index == 0 and not bare:
                    entry = "rectified"
                name = f"layer{stage + 1}.{index}"
                layers.append(block(channels, planes, stride, entry, bare, name))
                channels = planes * block.expansion
            last = stage == len(counts) - 1
            # Read by the first block of the next stage, whose shortcut is a convolution.
            shortcut = "shortcut" if bare else "shortcut.0"
            after = f"layer{stage + 2}.0"
            readers = () if last else (f"{after}.conv1", f"{after}.{shortcut}")
            layers.append(_activation(channels, *readers))
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        if bare:
            first = self.layer1[0]
            convolved = isinstance(first.shortcut, nn.Conv2d)
            shortcuts = ("layer1.0.shortcut",) if convolved else ()
            self.quantizer = Quantize("layer1.0.conv1", *shortcuts)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        initialise(self)
        self.input_quantizers = {
            reader: name
            for name, module in self.named_modules()
            if isinstance(module, Quantize)
            for reader in module.readers
        }

    def forward(self, x: Tensor) -> Tensor:
        x = self.quantizer(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))
