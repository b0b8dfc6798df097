"""A network of one layer between a stem and a head, for what users do to a layer."""

import torch
from torch import nn

import rsquant

SIZES = (16, 12)


class Tiny(nn.Module):
    """Stem, BatchNorm, `middle`, BatchNorm, head; `middle` takes and gives 8 channels."""

    def __init__(self, middle=None, norm=None):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1), norm or nn.BatchNorm2d(8)
        self.middle = middle or nn.Conv2d(8, 8, 3, padding=1)
        self.bn2, self.fc = nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.bn(self.stem(x)))
        x = torch.relu(self.bn2(self.middle(x)))
        return self.fc(x.mean((2, 3)))


def converted(middle=None, norm=None, **options):
    return rsquant.convert(Tiny(middle, norm), 2, 2, SIZES, **options)


def batches(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, size, size, generator=generator).to(dtype) for size in SIZES]
