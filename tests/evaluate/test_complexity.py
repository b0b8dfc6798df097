"""MAdds against the paper's table."""

import pytest
import torch

import rsquant
from rsquant.evaluate.complexity import madds
from rsquant.nn import SwitchableBatchNorm2d

PUBLISHED = {
    "resnet18": (1.82e9, 1.34e9, 931e6, 596e6, 335e6),
    "resnet50": (4.14e9, 3.04e9, 2.11e9, 1.35e9, 760e6),
    "torchvision:mobilenet_v2": (301e6, 221e6, 154e6, 99e6, 56e6),
}


@pytest.mark.parametrize("arch", PUBLISHED)
@pytest.mark.usefixtures("undrawn")
def test_madds_are_the_published_ones(arch):
    network = rsquant.create(arch, 32, 32)
    for size, published in zip((224, 192, 160, 128, 96), PUBLISHED[arch], strict=True):
        # The paper counts ResNet-50's other layers too: 1.2 % more.
        assert madds(network, size) == pytest.approx(published, rel=0.013)


@pytest.mark.usefixtures("undrawn")
def test_madds_of_resnet18_are_exact():
    # torchvision's documented 1.814 GMAC: 1,814,073,344 by hand from the layer shapes.
    assert madds(rsquant.create("resnet18", 32, 32), 224) == 1_814_073_344


def test_bits_do_not_change_madds_and_counting_does_not_change_the_network():
    network = rsquant.create("resnet18", 2, 32, (64, 48), 7, width=8).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    counted = madds(network, 48)
    assert counted == madds(rsquant.create("resnet18", 32, 32, (64, 48), 7, width=8), 48)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    quantized = rsquant.create("resnet18", 2, 2, (64, 48), 7, width=8)
    assert madds(quantized, 64) > madds(quantized, 48) > 0


def test_each_further_resolution_adds_twice_the_batchnorm_channels():
    def parameters(sizes):
        network = rsquant.create("resnet18", 2, 32, sizes, 7, width=8)
        channels = sum(
            m.num_features for m in network.modules() if isinstance(m, SwitchableBatchNorm2d)
        )
        return sum(p.numel() for p in network.parameters()), channels

    one, channels = parameters((64,))
    assert parameters((64, 48)) == (one + 2 * channels, channels)
    assert parameters((64, 48, 32)) == (one + 4 * channels, channels)
