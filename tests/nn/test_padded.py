"""Convolutions of classes of their own that only pad become ours, and compute the same."""

import pytest
import torch
from padded_networks import DynamicSame, Lite, LowerSame, OnlyNamed, StaticSame
from torch import nn
from torch.nn import functional

import rsquant
from rsquant.errors import CheckpointError, ModelError
from rsquant.models.checkpoint import load, save
from rsquant.nn import QuantConv2d
from rsquant.nn.freeze import fold_batchnorms, freeze
from rsquant.nn.padded import PaddedConv2d, padded_form

SIZES = (33, 24)


def static(*args, **kwargs):
    return StaticSame(*args, image_size=32, **kwargs)


class Cropped(nn.Conv2d):
    def forward(self, x):
        return super().forward(x[:, :, 1:])


class Reflected(nn.Conv2d):
    def forward(self, x):
        return super().forward(functional.pad(x, (1, 1, 1, 1), "reflect"))


class PaddedByOnes(nn.Conv2d):
    def forward(self, x):
        return super().forward(functional.pad(x, (1, 1, 1, 1), value=1.0))


class Standardized(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding)


class Scaled(nn.Conv2d):
    def forward(self, x):
        return 1.0001 * super().forward(x)


class NoisyInTraining(nn.Conv2d):
    def forward(self, x):
        return super().forward(functional.dropout(x, 0.5, self.training))


class Masked(nn.Conv2d):
    def __init__(self, *args):
        super().__init__(*args)
        self.register_buffer("mask", torch.ones_like(self.weight))

    def forward(self, x):
        return functional.conv2d(x, self.weight * self.mask, self.bias, self.stride, self.padding)


@pytest.mark.parametrize(
    "conv,pads,padding",
    [
        (DynamicSame(4, 6, 3, 2), "same", (0, 0)),
        (DynamicSame(4, 6, (3, 1), (2, 1)), "same", (0, 0)),
        (DynamicSame(4, 4, 5, 3, dilation=2, groups=4), "same", (0, 0)),
        (LowerSame(4, 6, 4, 2, bias=False), "same-lower", (0, 0)),
        (static(4, 6, 3, 2), (0, 0, 1, 1), (0, 0)),
        (static(4, 6, 5, 2), (1, 1, 2, 2), (0, 0)),
        # The same at every size: nothing is computed then.
        (DynamicSame(4, 6, 3), None, (1, 1)),
        (DynamicSame(4, 6, 1, 2), None, (0, 0)),
        (DynamicSame(4, 6, 2), (0, 0, 1, 1), (0, 0)),
        (OnlyNamed(4, 6, 3, 2, 1), None, (1, 1)),
        (nn.Conv2d(4, 6, 2, padding="same"), (0, 0, 1, 1), (0, 0)),
    ],
)
def test_what_a_convolution_pads_is_found(conv, pads, padding):
    found = padded_form(conv)
    assert (found.pads, found.padding) == (pads, padding)
    assert found.weight is conv.weight
    assert found.bias is conv.bias
    torch.manual_seed(0)
    for size in ((9, 14), (16, 11), (3, 40)):
        x = torch.randn(2, 4, *size)
        torch.testing.assert_close(found(x), conv(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "kind",
    [Cropped, Reflected, PaddedByOnes, Standardized, Scaled, NoisyInTraining, Masked],
)
def test_a_class_that_computes_anything_else_is_refused_and_can_be_kept(kind):
    assert padded_form(kind(4, 6, 3)) is None
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        kind(4, 4, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    with pytest.raises(ModelError, match=f"2: is a {kind.__name__}, whose own computation"):
        rsquant.convert(network, 2, 2, SIZES)
    assert type(rsquant.convert(network, 2, 2, SIZES, keep=["2"]).body[2]) is kind


def test_hooks_of_a_convolution_do_not_run_while_it_is_looked_at():
    conv, calls = DynamicSame(4, 4, 3, 2), []
    conv.register_forward_hook(lambda *_: calls.append(1))
    assert padded_form(conv).pads == "same"
    assert not calls


@pytest.mark.parametrize("kind", [DynamicSame, LowerSame, static])
def test_a_network_that_pads_by_itself_computes_the_same_when_converted(kind):
    torch.manual_seed(0)
    network = Lite(kind).eval()
    floats = rsquant.convert(network, 32, 32, SIZES).eval()
    low = rsquant.convert(network, 2, 2, SIZES).eval()
    assert low.conversion.quantized == ("expand", "depthwise", "project", "even")
    assert not low.conversion.left
    assert type(low.body.stem) is PaddedConv2d
    assert type(low.body.depthwise) is QuantConv2d
    assert low.body.depthwise.pads == network_pads(kind)
    for size in ((33, 33), (24, 24), (29, 40)):
        x = torch.randn(2, 3, *size)
        torch.testing.assert_close(floats(x), network(x), rtol=0, atol=1e-5)
        frozen = fold_batchnorms(freeze(low, 24))
        assert (frozen.note, frozen.left) == (None, 0)
        with low.at(24):
            torch.testing.assert_close(frozen.module(x), low.body(x), rtol=0, atol=1e-5)


def network_pads(kind):
    # With a stride of 2 and an odd kernel, "same-lower" is half the kernel at every size.
    return {DynamicSame: "same", LowerSame: None, static: (1, 1, 2, 2)}[kind]


def test_a_padded_network_trains_and_its_checkpoint_says_what_it_pads(tmp_path):
    torch.manual_seed(0)
    model = rsquant.convert(Lite(DynamicSame), 2, 2, SIZES)
    images = [torch.randn(2, 3, s, s) for s in SIZES]
    loss = sum(y.square().sum() for y in model.forward_all(images))
    loss.backward()
    assert model.body.depthwise.weight.grad.abs().sum() > 0
    save(model, tmp_path / "x.safetensors")
    again = load(tmp_path / "x.safetensors", rsquant.convert(Lite(DynamicSame), 2, 2, SIZES))
    x = torch.randn(1, 3, 24, 24)
    assert torch.equal(again(x), model.eval()(x))
    other = rsquant.convert(Lite(static), 2, 2, SIZES)
    with pytest.raises(CheckpointError, match=r"pads 'same', in the network given \[0, 0, 1, 1\]"):
        load(tmp_path / "x.safetensors", other)
