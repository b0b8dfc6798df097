"""torchvision's networks with few channels and blocks, in a fraction of the time."""

from torchvision import models

# Factor, channels, blocks and stride: a block without expansion, one with a shortcut, strides.
_INVERTED = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2], [6, 64, 1, 2], [6, 96, 1, 2]]


def mobilenet_v2(num_classes=5, width_mult=0.1):
    """Ends at a 32nd of the image's side, as the whole network does."""
    return models.MobileNetV2(num_classes, width_mult, _INVERTED)


NETWORKS = {
    "mobilenet_v2": mobilenet_v2,
    "shufflenet_v2": lambda: models.ShuffleNetV2([1, 2, 1], [8, 8, 16, 32, 32], 5),
    "densenet": lambda: models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=5),
}
