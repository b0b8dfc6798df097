"""A small network around something done to a map."""

import torch
from torch import nn
from torch.nn import functional

SIZES = (24, 16)


class AroundMap(nn.Module):
    """A 17-channel map of both signs, what `change(self, map)` makes of it, and a classifier.

    Args:
        change: gives a map of 17 channels.
        parts: layers and parameters that it uses, by name.
    """

    def __init__(self, change, channels=17, **parts):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.wide, self.bn_w = nn.Conv2d(8, 17, 1), nn.BatchNorm2d(17)
        self.join, self.bn_j = nn.Conv2d(channels, 9, 1, bias=False), nn.BatchNorm2d(9)
        self.fc = nn.Linear(9, 7)
        self.change = change
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        x = functional.relu(self.bn(self.conv(x)))
        x = self.change(self, self.bn_w(self.wide(x)))
        x = functional.relu(self.bn_j(self.join(x)))
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


def operations(packed):
    """Names of the operations of a packed file, in their order."""
    return [step.OP for step in packed.plan.steps]
