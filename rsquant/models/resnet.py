"""ResNet with post-activation blocks, for float activations. Blocks are torchvision's.

Source: He et al. (arXiv 1512.03385); bottlenecks stride in their 3x3 convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from rsquant.models.stem import stem_conv, stem_pool

LAYERS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """Float ResNet; `rsquant.create` quantizes it and makes it switchable.

    Layer names equal torchvision's, so its weights load by name at width 64 and the imagenet stem.

    Args:
        arch: a key of `LAYERS`.
        num_classes: outputs of the classifier.
        width: channels of the first stage (64 in the paper); later stages double it.
        stem: a resolved stem name.
        zero_gamma: the last BatchNorm of every branch starts at gamma 0, so that each block starts
            as its shortcut: the published start of networks with low-bit weights alone.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self, arch: str, num_classes: int, width: int, stem: str, zero_gamma: bool = False
    ) -> None:
        super().__init__()
        block, counts = LAYERS[arch]
        self.conv1 = stem_conv(stem, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = stem_pool(stem)
        channels = width
        for stage, count in enumerate(counts):
            planes = width * 2**stage
            blocks = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                out = planes * block.expansion
                shortcut = None
                if stride != 1 or channels != out:
                    shortcut = nn.Sequential(
                        nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
                    )
                blocks.append(block(channels, planes, stride, shortcut))
                channels = out
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        initialise(self)
        if zero_gamma:
            for module in self.modules():
                if isinstance(module, (BasicBlock, Bottleneck)):
                    last = module.bn2 if isinstance(module, BasicBlock) else module.bn3
                    nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def initialise(network: nn.Module) -> None:
    """He fan-out initialisation of all convolutions, as LQ bases expect."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
