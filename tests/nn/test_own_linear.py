"""Linear layers of a class of its own: taken where they add nothing."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import rsquant
from rsquant.errors import ModelError
from rsquant.nn import QuantLinear

SIZES = (16,)


class AutocastLinear(nn.Linear):
    """As timm's: the same numbers, computed in the dtype of autocast."""

    def forward(self, x):
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return functional.linear(x, self.weight.to(x.dtype), bias)


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Dropping(nn.Linear):
    """The same in evaluation."""

    def forward(self, x):
        return super().forward(functional.dropout(x, 0.5, self.training))


class Narrow(nn.Linear):
    """Takes nothing but the values of its own network."""

    def forward(self, x):
        return super().forward(x.view(-1, 6)).relu()


class WithMethod(nn.Linear):
    def both(self, x):
        return super().forward(x) + 1


def network_of(hidden, head=None):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        hidden,
        nn.ReLU(),
        head or nn.Linear(6, 4),
    ).eval()


@pytest.mark.parametrize("bias", [True, False])
def test_one_that_adds_nothing_is_a_linear_low_bit_or_kept(bias):
    network = network_of(AutocastLinear(6, 6, bias=bias), AutocastLinear(6, 4, bias=bias))
    body = rsquant.convert(network, 2, 2, SIZES).body
    assert (type(body[4]), type(body[6])) == (QuantLinear, nn.Linear)
    assert torch.equal(body[6].weight, network[6].weight)
    floats = rsquant.convert(network, 32, 32, SIZES).eval()
    assert (type(floats.body[4]), type(floats.body[6])) == (nn.Linear, nn.Linear)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(floats(x), network(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [Scaled, Dropping, Narrow, WithMethod])
def test_one_that_computes_anything_else_is_refused_unless_kept(kind):
    network = network_of(kind(6, 6))
    with pytest.raises(ModelError, match=f"^4: is a {kind.__name__}, whose own computation would"):
        rsquant.convert(network, 2, 2, SIZES)
    body = rsquant.convert(network, 2, 2, SIZES, keep=["4"]).body
    assert type(body[4]) is kind


def test_those_of_an_attention_stay_its_own():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.MultiheadAttention(6, 2, batch_first=True)

        def forward(self, x):
            return self.inner(x[:, None], x[:, None], x[:, None])[0][:, 0]

    network = network_of(Attention())
    kind = type(network[4].inner.out_proj)
    assert kind is not nn.Linear
    body = rsquant.convert(network, 2, 2, SIZES).body
    assert type(body[4].inner.out_proj) is kind
