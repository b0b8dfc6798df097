"""A frozen network computes what the switchable one computes, and folding changes only rounding."""

import narrow
import pytest
import torch
from shallow import RESNET10, RESNET14
from torch import nn

import rsquant
from rsquant.nn import QuantConv2d, QuantLinear, SwitchableBatchNorm2d
from rsquant.nn.freeze import ActivationLevels, fold_batchnorms, freeze
from rsquant.quantizers.lq import LQActivationQuantizer

SIZES = (64, 48, 32)


def images(size, n=2):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(size))


@pytest.mark.parametrize("size", [*SIZES, 40, 70])
@pytest.mark.parametrize(
    "arch,wbits,abits",
    [
        (RESNET10, 2, 32),
        (RESNET10, 2, 2),
        (RESNET10, 1, 1),
        (RESNET14, 4, 4),
        (RESNET14, 32, 3),
        (RESNET14, 32, 32),
    ],
)
def test_frozen_equals_the_network_bit_for_bit(vary, arch, wbits, abits, size):
    torch.manual_seed(0)
    network = vary(rsquant.create(arch, wbits, abits, SIZES, 5, width=8, stem="imagenet"))
    frozen = freeze(network, size)
    switchable = (SwitchableBatchNorm2d, QuantConv2d, QuantLinear, LQActivationQuantizer)
    assert not any(isinstance(m, switchable) for m in frozen.modules())
    x = images(size)
    # oneDNN picks its kernel by memory layout too, and kernels round differently.
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(frozen(x), network(x))


@pytest.mark.parametrize("name", narrow.NETWORKS)
def test_converted_networks_freeze_and_fold(vary, name):
    torch.manual_seed(0)
    network = vary(rsquant.convert(narrow.NETWORKS[name](), 2, 32, (64, 48)))
    x = images(48)
    with torch.no_grad():
        expected, frozen = network(x), freeze(network, 48)
        torch.testing.assert_close(frozen(x), expected, rtol=1e-4, atol=1e-5)
        folding = fold_batchnorms(frozen)
        # Float32 rounding over all layers.
        torch.testing.assert_close(folding.module(x), expected, rtol=1e-4, atol=1e-5)
    assert folding.note is None
    # DenseNet normalises concatenations; the other two have a convolution before every BatchNorm.
    assert (folding.left > 0) == (name == "densenet")


def test_freezing_does_not_change_a_network_in_training():
    network = rsquant.create("resnet18", 2, 2, SIZES, 5, width=8).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    freeze(network, 48)
    assert all(m.training for m in network.modules())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_the_float_peer_has_no_activation_quantizers(vary):
    network = vary(rsquant.create("resnet18", 2, 2, SIZES, 5, width=8))
    peer = freeze(network, 64, activation=False)
    assert not any(isinstance(m, ActivationLevels) for m in peer.modules())
    assert peer(images(64)).shape == (2, 5)


def test_post_activation_batchnorms_all_fold_and_preactivation_ones_after_additions_stay(vary):
    post = freeze(vary(rsquant.create("resnet18", 2, 32, SIZES, 5, width=8)), 64)
    folding = fold_batchnorms(post)
    assert (folding.folded, folding.left) == (20, 0)
    pre = freeze(vary(rsquant.create("resnet18", 2, 2, SIZES, 5, width=8)), 64)
    folding = fold_batchnorms(pre)
    # The stem's, two of each of the eight blocks and three shortcuts'; not those before a branch.
    assert (folding.folded, folding.left) == (20, 8)
    with torch.no_grad():
        torch.testing.assert_close(post(images(64)), fold_batchnorms(post).module(images(64)))


def test_folding_does_not_change_the_given_module(vary):
    frozen = freeze(vary(rsquant.create("resnet18", 2, 32, SIZES, 5, width=8)), 64)
    before = {k: v.clone() for k, v in frozen.state_dict().items()}
    fold_batchnorms(frozen)
    after = frozen.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], v) for k, v in before.items())


class Shared(nn.Module):
    """A convolution that runs twice, once with a BatchNorm after it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.norm.running_var.fill_(4.0)

    def forward(self, x):
        return self.conv(self.norm(self.conv(x)))


class Branching(Shared):
    """Control flow that depends on the data."""

    def forward(self, x):
        return self.norm(self.conv(x)) if x.sum() > 0 else x


def test_a_convolution_that_runs_twice_is_not_folded():
    module = Shared().eval()
    folding = fold_batchnorms(module)
    assert (folding.folded, folding.left) == (0, 1)
    with torch.no_grad():
        assert torch.equal(folding.module(images(8)), module(images(8)))


def test_a_network_that_cannot_be_traced_keeps_its_batchnorms_and_says_so():
    module = Branching().eval()
    folding = fold_batchnorms(module)
    assert folding.module is module
    assert (folding.folded, folding.left) == (0, 1)
    assert "torch.fx cannot trace Branching" in folding.note


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_activation_levels_equal_the_quantizer_at_and_beside_every_threshold(bits):
    quantizer = LQActivationQuantizer(bits).eval()
    with torch.no_grad():
        quantizer.basis.copy_(torch.tensor([0.31, -0.17, 0.9, 1.7])[:bits])
    frozen = ActivationLevels(quantizer)
    at = frozen.thresholds
    up, down = torch.tensor(float("inf")), torch.tensor(float("-inf"))
    x = torch.cat([at, torch.nextafter(at, up), torch.nextafter(at, down), torch.randn(100)])
    assert torch.equal(frozen(x), quantizer(x))
    assert torch.isin(frozen(x), frozen.levels).all()
    # Ties go down, and NaN takes level 0.
    assert torch.equal(frozen(at), frozen.levels[:-1])
    assert frozen(torch.tensor([float("nan")])) == frozen.levels[0]
