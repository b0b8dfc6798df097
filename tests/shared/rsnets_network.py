"""A network of RS-Nets' PyTorch program, from the paper and the structure of its files.

Convolutions and the classifier run a list of images, each of its size, in a module that keeps them
as `module`; a BatchNorm is bn_0, bn_1, .. of the sizes. The blocks are those of He et al.
(arXiv 1512.03385, strides in the 3x3 of a bottleneck) and of MobileNetV2 (arXiv 1801.04381).
"""

import torch
from torch import nn


class Each(nn.Module):
    """One module for the images of every size."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, images):
        return [self.module(x) for x in images]


class Norms(nn.Module):
    """A BatchNorm for each size."""

    def __init__(self, channels, sizes):
        super().__init__()
        for i in range(sizes):
            self.add_module(f"bn_{i}", nn.BatchNorm2d(channels))

    def forward(self, images):
        return [getattr(self, f"bn_{i}")(x) for i, x in enumerate(images)]


def conv(channels, out, kernel, stride=1, groups=1):
    layer = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return Each(layer)


class Residual(nn.Module):
    """Two 3x3, or 1x1, 3x3, 1x1 to four times the channels."""

    def __init__(self, channels, planes, stride, bottleneck, sizes):
        super().__init__()
        out = 4 * planes if bottleneck else planes
        shapes = [(channels, planes, 3, stride), (planes, planes, 3, 1)]
        if bottleneck:
            shapes = [(channels, planes, 1, 1), (planes, planes, 3, stride), (planes, out, 1, 1)]
        self.count = len(shapes)
        for i, shape in enumerate(shapes, 1):
            self.add_module(f"conv{i}", conv(*shape))
            self.add_module(f"bn{i}", Norms(shape[1], sizes))
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(conv(channels, out, 1, stride), Norms(out, sizes))

    def forward(self, images):
        branch = images
        for i in range(1, self.count + 1):
            branch = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(branch))
            if i < self.count:
                branch = [x.relu() for x in branch]
        shortcut = images if self.downsample is None else self.downsample(images)
        return [(a + b).relu() for a, b in zip(branch, shortcut, strict=True)]


class Net(nn.Module):
    """A ResNet of some blocks in each of four stages."""

    def __init__(self, blocks, bottleneck, sizes, classes):
        super().__init__()
        self.conv1 = Each(nn.Conv2d(3, 64, 7, 2, 3, bias=False))
        self.bn1 = Norms(64, sizes)
        self.maxpool = Each(nn.MaxPool2d(3, 2, 1))
        channels = 64
        for stage, count in enumerate(blocks):
            planes, layers = 64 * 2**stage, []
            for i in range(count):
                stride = 2 if stage and not i else 1
                layers.append(Residual(channels, planes, stride, bottleneck, sizes))
                channels = 4 * planes if bottleneck else planes
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = Each(nn.Linear(channels, classes))
        self.alpha = nn.Parameter(torch.ones(sizes))

    def forward(self, images):
        x = self.maxpool([y.relu() for y in self.bn1(self.conv1(images))])
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc([y.mean((2, 3)) for y in x])


class Inverted(nn.Module):
    """1x1 to more channels (where it expands), 3x3 of each channel, 1x1 without an activation."""

    def __init__(self, channels, out, stride, expansion, sizes):
        super().__init__()
        hidden = channels * expansion
        layers = []
        if expansion > 1:
            layers += [conv(channels, hidden, 1), Norms(hidden, sizes), Each(nn.ReLU6())]
        layers += [conv(hidden, hidden, 3, stride, hidden), Norms(hidden, sizes), Each(nn.ReLU6())]
        self.conv = nn.Sequential(*layers, conv(hidden, out, 1), Norms(out, sizes))
        self.residual = stride == 1 and channels == out

    def forward(self, images):
        branch = self.conv(images)
        if not self.residual:
            return branch
        return [a + b for a, b in zip(branch, images, strict=True)]


class Mobile(nn.Module):
    """MobileNetV2 of width 1."""

    def __init__(self, sizes, classes):
        super().__init__()
        layers = [nn.Sequential(conv(3, 32, 3, 2), Norms(32, sizes), Each(nn.ReLU6()))]
        channels = 32
        for expansion, out, count, stride in (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ):
            for i in range(count):
                layers.append(Inverted(channels, out, 1 if i else stride, expansion, sizes))
                channels = out
        self.features = nn.Sequential(*layers)
        self.conv = nn.Sequential(conv(320, 1280, 1), Norms(1280, sizes), Each(nn.ReLU6()))
        self.classifier = Each(nn.Linear(1280, classes))
        self.alpha = nn.Parameter(torch.ones(sizes))

    def forward(self, images):
        x = self.conv(self.features(images))
        return self.classifier([y.mean((2, 3)) for y in x])


@torch.no_grad()
def trained(network):
    """The network with statistics, gammas and alphas as no fresh one has them."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in network.state_dict().items():
        leaf = name.rpartition(".")[2]
        draw = torch.rand(tensor.shape, generator=generator)
        if leaf in ("running_mean", "alpha") or (leaf == "bias" and ".bn_" in name):
            tensor.copy_(draw - 0.5)
        elif leaf == "running_var" or (leaf == "weight" and ".bn_" in name):
            tensor.copy_(draw + 0.5)
    return network.eval()
