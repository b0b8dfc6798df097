"""MobileNetV2: torchvision's is the reference, the published counts are RS-Nets'."""

import pytest
import torch
import torchvision
from torch import nn

import rsquant
from rsquant.errors import ConfigError
from rsquant.evaluate.complexity import madds
from rsquant.models.mobilenet_v2 import MobileNetV2, width_of

# RS-Nets (arXiv 2007.09558), tables 2 and 4: M of multiply-adds is 10^6, of parameters 2^20.
MADDS_BY_SIZE = {224: 301, 192: 221, 160: 154, 128: 99, 96: 56}
MADDS_BY_WIDTH = {"1_0": 301, "0_8": 222, "0_65": 161, "0_5": 97, "0_35": 59}


@pytest.mark.parametrize("width", [1.0, 0.35, 1.4])
def test_it_is_torchvisions_without_dropout(width):
    torch.manual_seed(3)
    theirs = torchvision.models.mobilenet_v2(num_classes=7, width_mult=width)
    after_theirs = torch.rand(1)
    torch.manual_seed(3)
    own = MobileNetV2(7, width)
    # The same draws of random numbers: runs made with torchvision's continue with the same bits.
    assert torch.equal(torch.rand(1), after_theirs)
    assert list(own.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(own.state_dict()[name], value), name
    x = torch.randn(2, 3, 32, 32)
    theirs.eval()
    assert torch.equal(own.eval()(x), theirs(x))


def test_parameters_and_madds_are_the_published_ones():
    sizes = tuple(MADDS_BY_SIZE)
    network = rsquant.create("mobilenet_v2", 32, 32, sizes)
    for size, published in MADDS_BY_SIZE.items():
        assert round(madds(network, size) / 1e6) == published
    # Table 2: 3.34 M of an individual network, 3.47 M with BatchNorms of five sizes.
    assert sum(p.numel() for p in network.parameters()) / 2**20 == pytest.approx(3.47, abs=0.005)
    single = sum(p.numel() for p in MobileNetV2(1000).parameters())
    assert single / 2**20 == pytest.approx(3.34, abs=0.005)
    assert 5 * single / 2**20 == pytest.approx(16.71, abs=0.005)


@pytest.mark.parametrize("width,published", MADDS_BY_WIDTH.items())
def test_madds_of_widths_are_the_published_ones(width, published):
    network = rsquant.create(f"mobilenet_v2_x{width}", 32, 32, (224,))
    # The source's own count of a width between those of the original paper may round otherwise.
    assert madds(network, 224) / 1e6 == pytest.approx(published, rel=0.01)


def test_names_say_widths():
    assert width_of("mobilenet_v2") == 1.0
    assert width_of("mobilenet_v2_x0_35") == 0.35
    assert width_of("resnet18") is None
    assert width_of("mobilenet_v2_x") is None
    with pytest.raises(ConfigError, match=r"mobilenet_v2_x9_0: widths are 0.05 to 4.0, got 9"):
        rsquant.create("mobilenet_v2_x9_0")
    with pytest.raises(ConfigError, match="mobilenet_v2_x0_5"):
        rsquant.create("mobilenet_v2", width=32)
    with pytest.raises(ConfigError, match="unknown network 'mobilenet_v2_half'"):
        rsquant.create("mobilenet_v2_half")


def test_a_narrow_low_bit_one_trains_and_is_saved(tmp_path):
    network = rsquant.create("mobilenet_v2_x0_1", 2, 2, (64, 32), num_classes=3)
    outputs = network.forward_all([torch.randn(2, 3, s, s) for s in (64, 32)])
    sum(z.square().sum() for z in outputs).backward()
    assert isinstance(network.body.classifier[0], nn.Identity)
    path = tmp_path / "m.safetensors"
    rsquant.save(network, path)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(rsquant.load(path)(x), network.eval()(x))
