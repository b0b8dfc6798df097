"""Layers for torch's exporter: what is rewritten stays what it is, and who is refused is named."""

import copy

import pytest
import torch
from torch import nn

from rsquant.export.exportable import as_gemm, as_product, refused_layer
from rsquant.export.graph import OPSET

IMAGES = torch.zeros(1, 3, 8, 8)


class Decomposition(nn.Module):
    """No operator of the exporter's."""

    def forward(self, x):
        return torch.linalg.svd(x).S


class Between(nn.Module):
    """An operation that is refused, between layers that are not."""

    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3), nn.ReLU()

    def forward(self, x):
        return self.act(torch.linalg.svd(self.conv(x)).S)


def test_the_layer_that_the_exporter_refuses_is_named_with_its_type():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), Decomposition()))
    assert refused_layer(network, IMAGES, OPSET) == "1.1 (Decomposition)"


def test_of_two_refused_layers_the_one_that_runs_first_is_named():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.later, self.first = Decomposition(), nn.AdaptiveMaxPool2d(3)

        def forward(self, x):
            return self.later(self.first(x))

    assert refused_layer(Backwards(), IMAGES, OPSET) == "first (AdaptiveMaxPool2d)"


def test_an_operation_between_layers_is_the_networks():
    assert refused_layer(Between().eval(), IMAGES, OPSET) == "this network"


def test_looking_for_it_leaves_the_network_as_it_was_and_prints_nothing(capfd):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), Decomposition()).eval()
    refused_layer(network, IMAGES, OPSET)
    assert not any(m._forward_pre_hooks for m in network.modules())
    assert not any(m.training for m in network.modules())
    assert capfd.readouterr() == ("", "")


def test_no_hook_stays_where_the_network_does_not_run():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(5, 5))
    with pytest.raises(RuntimeError):
        refused_layer(network, IMAGES, OPSET)
    assert not any(m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize("size", [7, (7, 7), (3, 5), (None, 3), (4, 4), 1])
def test_an_adaptive_pooling_as_products_gives_the_same_averages(size):
    x = torch.randn(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    pool = nn.AdaptiveAvgPool2d(size)
    expected = pool(x)
    as_product(pool)
    # Averages of at most 120 values around 1: sums in another order differ by 120 * 2**-24 at most.
    torch.testing.assert_close(pool(x), expected, rtol=0, atol=120 * 2.0**-24)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 6), (2, 3, 4, 6)])
def test_a_linear_layer_as_a_gemm_gives_the_same(bias, shape):
    torch.manual_seed(0)
    linear = nn.Linear(6, 4, bias)
    x = torch.randn(shape)
    plain = copy.deepcopy(linear)
    as_gemm(linear)
    assert linear.weight.equal(plain.weight) and linear.bias is not None
    # Sums of 6 products around 1 and a bias, in whatever order.
    torch.testing.assert_close(linear(x), plain(x), rtol=0, atol=7 * 2.0**-23)
