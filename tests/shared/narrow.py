"""torchvision's networks with few channels and blocks, in a fraction of the time."""

from torch import nn
from torchvision import models
from torchvision.models.resnet import BasicBlock

# Factor, channels, blocks and stride: a block without expansion, one with a shortcut, strides.
_INVERTED = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2], [6, 64, 1, 2], [6, 96, 1, 2]]


def mobilenet_v2(num_classes=5, width_mult=0.1):
    """Ends at a 32nd of the image's side, as the whole network does."""
    return models.MobileNetV2(num_classes, width_mult, _INVERTED)


class _NarrowResNet(models.ResNet):
    """BasicBlocks of a quarter of the channels; they take no width."""

    def _make_layer(self, block, planes, *args, **more):
        return super()._make_layer(block, planes // 4, *args, **more)


def resnet(num_classes=5):
    """Ends at a 32nd of the image's side; shortcuts with and without a convolution."""
    network = _NarrowResNet(BasicBlock, [1, 2, 1, 1])
    network.fc = nn.Linear(128, num_classes)
    return network


NETWORKS = {
    "mobilenet_v2": mobilenet_v2,
    "shufflenet_v2": lambda: models.ShuffleNetV2([1, 2, 1], [8, 8, 16, 32, 32], 5),
    "densenet": lambda: models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=5),
}
