"""Small networks that have every operation of packed files between them."""

import narrow
import torch
import torchvision
from one_operation import Around
from shallow import RESNET10
from third_party import AffineWeights, EdgedActivations
from torch import nn
from torch.nn import functional

import rsquant
from rsquant.packing.write import pack

interpolate = functional.interpolate


def gated(x, y):
    """Functions, and gates of one pixel and of one channel: function, binary, channels, concat."""
    x = functional.silu(x) * torch.sigmoid(y.mean((2, 3), keepdim=True))
    return torch.cat([x * x[:, :1].tanh(), functional.leaky_relu(x)[:, 1:3]], 1)


def pooled(x, y):
    """Poolings of floats and of codes: maxpool, avgpool2d and the adaptive ones."""
    x = functional.avg_pool2d(functional.adaptive_avg_pool2d(x, (7, 6)), 3, 2, 1, True, False)
    y = functional.adaptive_max_pool2d(functional.max_pool2d(y, 3, 2, 1, 2, True), (4, 4))
    return x + y


def resized(x, y):
    """Maps of the size of another, of a fixed one, of a multiple, with edges: resize, pad."""
    x = x + interpolate(y, x.shape[2:], mode="bilinear")
    x = interpolate(x, size=(5, 6)) + interpolate(x, size=(5, 6), mode="bilinear")
    return functional.pad(interpolate(x, scale_factor=1.5), (-1, 2, 1, 0), value=0.5)


def extended(x, y):
    """A map with its own pixels around it: extend."""
    return functional.pad(x, (1, 2, 1, 0), mode="reflect") + functional.pad(x, (2, 1, 0, 1))


class Flat(nn.Module):
    """As VGG: a map of fixed size, flattened, hidden layers, the classifier: flatten."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 5, 3, 2, 1), nn.BatchNorm2d(5)
        self.conv2, self.bn2 = nn.Conv2d(5, 7, 1), nn.BatchNorm2d(7)
        self.pool = nn.AdaptiveAvgPool2d((3, 2))
        self.hidden, self.fc = nn.Linear(42, 9), nn.Linear(9, 4)

    def forward(self, x):
        x = functional.relu(self.bn(self.conv(x)))
        x = torch.flatten(self.pool(functional.relu(self.bn2(self.conv2(x)))), 1)
        return self.fc(functional.relu(self.hidden(x)))


class Pixels(nn.Module):
    """Logits of each pixel: heads of float weights, 3x3 of floats and 1x1, added and enlarged."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 5, 3, 2, 1), nn.BatchNorm2d(5)
        self.conv2, self.bn2 = nn.Conv2d(5, 7, 3, 1, 1), nn.BatchNorm2d(7)
        self.head, self.other = nn.Conv2d(7, 3, 3, padding=1), nn.Conv2d(5, 3, 1, bias=False)

    def forward(self, x):
        size = x.shape[2:]
        x = functional.relu(self.bn(self.conv(x)))
        out = self.head(functional.relu(self.bn2(self.conv2(x)))) + self.other(x)
        return interpolate(out, size, mode="bilinear", align_corners=False)


class IntegerPixels(nn.Module):
    """The same of integers: a map of bytes enlarged and added, then the head."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, 2, 1), nn.BatchNorm2d(6)
        self.conv3, self.bn3 = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.head = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x):
        x = functional.relu(self.bn(self.conv(x)))
        low = interpolate(self.bn2(self.conv2(x)), x.shape[2:], mode="bilinear")
        return self.head(self.bn3(self.conv3(x)) + low)


def float_inputs():
    """A ResNet with convolutions that read floats."""
    network = rsquant.create(RESNET10, 2, 2, (32,), 3, width=4)
    network.body.layer1[0].act1 = network.body.layer2[1][2] = nn.Identity()
    return network


def edged():
    """Quantizers of somebody else: an offset, levels below 0."""
    if "edged" not in rsquant.quantizers.names():
        rsquant.quantizers.register("edged", AffineWeights, EdgedActivations)
    return rsquant.create(RESNET10, 2, 2, (32, 24), 3, width=4, quantizer="edged")


def mobile():
    body = narrow.mobilenet_v2(3, 0.1)
    return rsquant.convert(body, 2, 2, (32,))


def shuffled():
    body = torchvision.models.ShuffleNetV2([1, 1, 1], [4, 6, 8, 10, 12], num_classes=3)
    return rsquant.convert(body, 2, 2, (32,))


NETWORKS = {
    "small": lambda: rsquant.create(RESNET10, 2, 2, (32, 24), 3, width=4),
    "stem": lambda: rsquant.create(RESNET10, 1, 3, (64, 32), 3, width=5, stem="imagenet"),
    "integer": lambda: rsquant.create(RESNET10, 2, 2, (32, 24), 3, width=4, integer=True),
    "mobile": mobile,
    "floats": float_inputs,
    "edged": edged,
    "shuffle": shuffled,
    "gated": lambda: rsquant.convert(Around(gated, given=7), 2, 2, (32, 24)),
    "pooled": lambda: rsquant.convert(Around(pooled), 2, 2, (96, 64)),
    "resized": lambda: rsquant.convert(Around(resized), 2, 2, (96, 64)),
    "extended": lambda: rsquant.convert(Around(extended), 2, 2, (32, 24)),
    "flat": lambda: rsquant.convert(Flat(), 2, 2, (96, 64)),
    "several": lambda: rsquant.create(
        RESNET10, 2, 2, (32, 24), 3, width=4, widths=(1.0, 0.5), bits=("2/2", "1/2")
    ),
    "narrow": lambda: rsquant.create("mobilenet_v2_x0_25", 2, 2, (32,), 3, widths=(1.0, 0.5)),
    "pixels": lambda: rsquant.convert(Pixels(), 2, 2, (32, 24), task="segmentation"),
    "integer_pixels": lambda: rsquant.convert(
        IntegerPixels(), 2, 2, (32, 24), task="segmentation", integer=True
    ),
}


def write(folder, names=tuple(NETWORKS)):
    """A packed file of each of some of NETWORKS, by name."""
    paths = {name: f"{folder}/{name}.rsq" for name in names}
    for name, path in paths.items():
        torch.manual_seed(0)
        pack(NETWORKS[name]().eval(), path)
    return paths
