"""Small networks whose every size and channel differs."""

import pytest
import torch

import rsquant
from rsquant.nn import SwitchableBatchNorm2d


def vary(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, SwitchableBatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.uniform_(-0.3, 0.5, generator=generator)
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    return network.eval()


@pytest.fixture
def make():
    """make(arch, wbits, abits, sizes) -> a network with 5 classes, ResNets of width 8."""

    def build(arch="resnet18", wbits=2, abits=2, sizes=(64, 48, 32)):
        torch.manual_seed(0)
        width = 64 if arch.startswith("torchvision:") else 8
        return vary(rsquant.create(arch, wbits, abits, sizes, 5, width=width))

    return build
