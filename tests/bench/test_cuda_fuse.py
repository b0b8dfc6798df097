"""Fused convolutions compute what they replace; on the CPU by their formula."""

import pytest
import torch
import torchvision
from torch import fx, nn

from rsquant.bench.cuda.fuse import FusedConv, fuse
from rsquant.nn.freeze import fold_batchnorms


def varied(network, seed=0):
    """A torchvision network with BatchNorms that do something, in evaluation mode."""
    torch.manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("name,fused", [("resnet18", 17), ("resnet50", 49)])
def test_every_relu_of_a_folded_network_is_fused(name, fused):
    network = varied(torchvision.models.get_model(name, weights=None, num_classes=7))
    folded = fold_batchnorms(network).module.double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected = folded(images)
    # One ReLU after the stem and two or three per block.
    assert fuse(folded) == fused
    layers = [type(layer) for layer in folded.modules()]
    assert layers.count(FusedConv) == fused
    assert nn.ReLU not in layers
    # Biases were added to each other before they were added to the sums: float64's rounding.
    torch.testing.assert_close(folded(images), expected, rtol=1e-9, atol=1e-9)


def test_the_bias_of_a_shortcut_moves_into_the_fused_convolution():
    folded = fold_batchnorms(varied(torchvision.models.resnet18(weights=None))).module
    fuse(folded)
    shortcuts = [m for n, m in folded.named_modules() if "downsample" in n and hasattr(m, "bias")]
    assert len(shortcuts) == 3 and all(m.bias is None for m in shortcuts)


class _Shared(nn.Module):
    """Convolutions that something else reads, too, and one that runs twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.same = nn.Conv2d(4, 4, 3, padding="same")

    def forward(self, x):
        y = self.a(x)
        z = torch.relu(y) + y
        z = torch.relu(self.b(torch.relu(self.b(z))))
        return torch.relu(self.same(z)) + torch.relu(z + 1)


def test_what_something_else_reads_stays():
    traced = fx.symbolic_trace(_Shared().eval().requires_grad_(False))
    x = torch.randn(1, 4, 5, 5)
    expected = traced(x)
    assert fuse(traced) == 0
    assert torch.equal(traced(x), expected)


def test_a_pre_activation_block_fuses_the_norms_that_follow_a_convolution():
    import rsquant
    from rsquant.nn.freeze import freeze

    torch.manual_seed(0)
    network = rsquant.create("resnet18", 2, 2, (32,), 5, width=8).eval()
    folded = fold_batchnorms(freeze(network, 32, activation=False)).module
    x = torch.randn(2, 3, 32, 32)
    expected = folded(x)
    # The stem's, and one of the two of each block; the others follow an addition.
    assert fuse(folded) == 9
    torch.testing.assert_close(folded(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("z", [False, True])
def test_cudnn_is_called_as_its_functions_want_it(monkeypatch, z):
    """On a fake of cuDNN's functions: order of arguments, and one way back where it has none."""
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2).requires_grad_(False)
    x, other = torch.randn(2, 4, 9, 9), torch.randn(2, 6, 5, 5)

    def plain(x, weight, bias, stride, padding, dilation, groups):
        return nn.functional.conv2d(x, weight, bias, stride, padding, dilation, groups).relu()

    def added(x, weight, z, alpha, bias, stride, padding, dilation, groups):
        sums = nn.functional.conv2d(x, weight, bias, stride, padding, dilation, groups)
        return (sums + alpha * z).relu()

    monkeypatch.setattr(torch, "cudnn_convolution_relu", plain)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", added)
    given = (x, other) if z else (x,)
    layer = FusedConv(conv)
    expected = layer(*given)
    assert layer.available is False
    layer.available = True
    torch.testing.assert_close(layer(*given), expected)
    lacks = FusedConv(conv)
    monkeypatch.setattr(lacks, "_fused", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lacks._has_kernel(*given, *((None,) if not z else ()))

    def refuses(*_):
        raise RuntimeError("CUDNN_STATUS_NOT_SUPPORTED")

    monkeypatch.setattr(lacks, "_fused", refuses)
    assert not lacks._has_kernel(x, other if z else None)
