"""torchvision's networks with few channels: what they are made of, in a fraction of the time."""

from torchvision import models

NETWORKS = {
    "mobilenet_v2": lambda: models.MobileNetV2(5, width_mult=0.1),
    "shufflenet_v2": lambda: models.ShuffleNetV2([1, 2, 1], [8, 8, 16, 32, 32], 5),
    "densenet": lambda: models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=5),
}
