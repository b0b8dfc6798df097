"""ResNets of one or two blocks a stage: all that deeper ones have, in half the time."""

from torchvision.models.resnet import BasicBlock, Bottleneck

from rsquant.models import checkpoint, description, factory
from rsquant.models.resnet import LAYERS

RESNET10 = "resnet10"  # of ResNet-18's blocks
RESNET14 = "resnet14"  # of ResNet-50's
RESNET26 = "resnet26"

LAYERS[RESNET10] = BasicBlock, (1, 1, 1, 1)
LAYERS[RESNET14] = Bottleneck, (1, 1, 1, 1)
LAYERS[RESNET26] = Bottleneck, (2, 2, 2, 2)
for module in (checkpoint, description, factory):
    module.ARCHITECTURES = (*module.ARCHITECTURES, RESNET10, RESNET14, RESNET26)
