"""Dropout in all its forms is gone from a packed file."""

import pytest
import torch
import torchvision
from norm_acts import NormAct
from torch import nn
from torch.nn import functional

import rsquant
from rsquant.errors import PackError
from rsquant.packing.trace import trace

SIZES = (24, 16)


class Dropping(nn.Module):
    """A residual network that drops its branch, and what comes before the head."""

    def __init__(self, drop=None, norm=None):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.branch, self.norm = nn.Conv2d(8, 8, 1, bias=False), norm or nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)
        self.drop = drop or nn.Identity()

    def forward(self, x):
        x = functional.relu(self.bn(self.conv(x)))
        x = x + self.drop(self.norm(self.branch(x)))
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class Calls(nn.Module):
    """A function of x and of whether it trains."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x, self.training)


class DropPath(nn.Module):
    """As timm's."""

    def forward(self, x):
        if not self.training:
            return x
        return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(0.9)


DROPS = {
    "stochastic depth": lambda: torchvision.ops.StochasticDepth(0.2, "row"),
    "stochastic_depth": lambda: Calls(
        lambda x, training: torchvision.ops.stochastic_depth(x, 0.2, mode="row", training=training)
    ),
    "drop block": lambda: torchvision.ops.DropBlock2d(0.2, 3),
    "drop path": DropPath,
    "dropout": lambda: nn.Dropout(0.3),
    "dropout2d": lambda: nn.Dropout2d(0.3),
    "feature alpha dropout": lambda: nn.FeatureAlphaDropout(0.3),
    "functional": lambda: Calls(lambda x, training: functional.dropout(x, 0.3, training)),
    "functional 2d": lambda: Calls(
        lambda x, training: functional.dropout2d(x, training=training, inplace=True)
    ),
    "functional alpha": lambda: Calls(lambda x, training: functional.alpha_dropout(x, 0.3)),
    "contiguous": lambda: Calls(lambda x, training: x.contiguous()),
}


def operations(drop):
    model = rsquant.convert(Dropping(drop), 2, 2, SIZES, grid="coarse").eval()
    return [op.kind for op in trace(model.body, SIZES)]


@pytest.mark.parametrize("kind", DROPS)
def test_it_is_no_operation(kind):
    assert operations(DROPS[kind]()) == operations(nn.Identity())


@pytest.mark.parametrize("function", [functional.dropout, functional.dropout2d])
def test_what_drops_in_evaluation_too_is_refused(function):
    with pytest.raises(PackError, match=f"is {function.__name__}, which the runtime does not have"):
        operations(Calls(lambda x, training: function(x, 0.3)))


def test_a_batchnorm_with_drop_and_activation_packs(compare, pixels, signed_norms):
    torch.manual_seed(0)
    network = Dropping(norm=NormAct(8, drop=nn.Dropout(0.2)))
    model = rsquant.convert(network, 2, 2, SIZES, grid="coarse").eval()
    signed_norms(model)
    compared, _, _ = compare(model, pixels(2, 24, 24))
    assert compared > 0
