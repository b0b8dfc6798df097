"""A small network around an operation under test."""

import torch
from torch import nn
from torch.nn import functional


class Around(nn.Module):
    """image -> conv, norm, relu -> 2-bit conv, norm -> `operation`, a function of two maps.

    Args:
        operation: operation(x, y), x signed floats and y positive ones of half the height; or a
            module, of x alone.
        channels: of x.
        given: of what the operation gives; None: of x.
    """

    def __init__(self, operation, channels=5, given=None):
        super().__init__()
        given = given or channels
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.conv, self.norm1 = nn.Conv2d(8, channels, 1, bias=False), nn.BatchNorm2d(channels)
        self.strided, self.norm2 = nn.Conv2d(8, channels, 3, 2, 1), nn.BatchNorm2d(channels)
        self.behind, self.norm3 = nn.Conv2d(given, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.operation = operation
        self.fc = nn.Linear(6 + 2 * channels, 4)

    def forward(self, x):
        x = functional.relu(self.norm(self.stem(x)))
        low = functional.relu(self.norm2(self.strided(x)))
        y = self.norm1(self.conv(x))
        x = self.operation(y) if isinstance(self.operation, nn.Module) else self.operation(y, low)
        x = functional.relu(self.norm3(self.behind(x)))
        # Both are read, whatever the operation does with them.
        return self.fc(torch.cat([value.mean((2, 3)) for value in (x, y, low)], 1))
