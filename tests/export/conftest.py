"""Small networks whose every size and channel differs."""

import pytest
import torch
from shallow import RESNET10

import rsquant


@pytest.fixture(scope="session")
def make(vary):
    """make(arch, wbits, abits, sizes) -> a network with 5 classes; a ResNet has width 8."""

    def build(arch=RESNET10, wbits=2, abits=2, sizes=(64, 48, 32)):
        torch.manual_seed(0)
        width = 64 if arch.startswith("torchvision:") else 8
        return vary(rsquant.create(arch, wbits, abits, sizes, 5, width=width))

    return build
