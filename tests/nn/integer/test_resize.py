"""Resized maps of bytes and heads against whole numbers, and what their gradients are."""

import numpy as np
import pytest
import torch
from integer_network import blended
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import rsquant
from rsquant.nn.active import ActiveSetting
from rsquant.nn.integer.byte_scale import Bytes, ByteScale
from rsquant.nn.integer.endings import IntegerHead
from rsquant.nn.integer.resize import IntegerResize
from rsquant.packed.resampling import PARTS, in_parts, linear
from rsquant.settings import of_sizes

ACTIVE = ActiveSetting(of_sizes((64, 32)))


def source(unsigned=False):
    out = Bytes(ByteScale(ACTIVE), unsigned).eval()
    out.scale.step.fill_(0.0371)
    return out


def codes(shape, low, high):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(low, high + 1, shape, generator=generator).float()


def whole(x, size, aligned):
    return torch.from_numpy(blended(x.numpy().astype(np.int64), size, aligned)).float()


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("size", [(7, 9), (10, 12), (16, 5), (1, 1), (5, 6)])
@pytest.mark.parametrize("unsigned", [True, False])
def test_blended_codes_are_those_of_whole_numbers(aligned, size, unsigned):
    value = source(unsigned)
    step = value.scale.at(ACTIVE.blend(64))
    x = codes((2, 3, 5, 6), value.low, value.top)
    layer = IntegerResize(ACTIVE, value, "bilinear", aligned).eval()
    found = layer(x * step, size)
    assert torch.equal(torch.round(found / step), whole(x, size, aligned))


def test_halves_go_to_the_even_code():
    # 128 parts: a place of one half has equal weights, and odd sums end in a half.
    x = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    expected = torch.tensor([[[[0.0, 0.0, 1.0], [1.0, 2.0, 2.0], [2.0, 2.0, 3.0]]]])
    value = source()
    step = value.scale.at(ACTIVE.blend(64))
    found = IntegerResize(ACTIVE, value, "bilinear", True).eval()(x * step, (3, 3))
    assert torch.equal(torch.round(found / step), expected)
    assert torch.equal(whole(x, (3, 3), True), expected)


def test_weights_of_parts_add_up_to_one_and_lie_next_to_those_of_torch():
    for side, out, aligned in ((5, 17, True), (11, 4, False), (88, 44, True), (3, 100, False)):
        pixels, weights = linear(side, out, None, aligned)
        same, parts = in_parts((pixels, weights))
        assert same is pixels and parts.dtype == np.float32
        assert (parts * PARTS == np.rint(parts * PARTS)).all() and (parts.sum(1) == 1).all()
        assert np.abs(parts - weights).max() <= 0.5 / PARTS + 1e-7


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_nearest_pixels_are_those_of_torch(mode):
    value = source()
    step = value.scale.at(ACTIVE.blend(64))
    x = codes((1, 2, 5, 6), -128, 127) * step
    layer = IntegerResize(ACTIVE, value, mode, None, scale_factor=(1.7, 0.6)).eval()
    assert torch.equal(layer(x), functional.interpolate(x, scale_factor=(1.7, 0.6), mode=mode))


def test_gradients_are_those_of_blending_in_training_and_evaluation():
    value = source()
    step = value.scale.at(ACTIVE.blend(64))
    layer = IntegerResize(ACTIVE, value, "bilinear", True)
    seen = []
    for training in (True, False):
        x = (codes((1, 2, 4, 4), -128, 127) * step).requires_grad_()
        result = layer.train(training)(x, (9, 7))
        result.square().sum().backward()
        seen.append((result.detach(), x.grad))
    assert torch.equal(seen[0][0], seen[1][0]) and torch.equal(seen[0][1], seen[1][1])
    # Close to torch's own, whose weights are not in parts.
    x = (codes((1, 2, 4, 4), -128, 127) * step).requires_grad_()
    upstream = 2 * seen[0][0]
    functional.interpolate(x, (9, 7), mode="bilinear", align_corners=True).backward(upstream)
    assert torch.allclose(seen[0][1], x.grad, atol=0.05 * float(x.grad.abs().max()))


@pytest.mark.parametrize("bias", [True, False])
def test_a_head_rounds_twice_in_float32(bias):
    torch.manual_seed(0)
    value = source()
    step = value.scale.at(ACTIVE.blend(64))
    layer = IntegerHead(nn.Conv2d(40, 5, 3, padding=1, bias=bias), ACTIVE, value).eval()
    x = codes((2, 40, 6, 6), -128, 127)
    with torch.no_grad():
        found = layer(x * step)
    weights, scale = layer.byte_weights()
    assert weights.abs().max() == 64
    n = functional.conv2d(x.double(), weights.double(), padding=1).numpy()
    assert np.abs(n).max() > 2**16
    a = (scale.detach().numpy().astype(np.float64) * step).astype(np.float32).reshape(-1, 1, 1)
    b = np.zeros_like(a) if not bias else layer.layer.bias.detach().numpy().reshape(-1, 1, 1)
    np.testing.assert_array_equal(found.numpy(), n.astype(np.float32) * a + b)


def test_a_head_learns_through_its_rounded_weights():
    torch.manual_seed(0)
    layer = IntegerHead(nn.Conv2d(3, 2, 1), ACTIVE, source()).train()
    x = torch.randn(1, 3, 2, 2)
    result = layer(x)
    weights, scale = layer.byte_weights()
    expected = functional.conv2d(x, weights * scale.view(-1, 1, 1, 1), layer.layer.bias)
    assert torch.allclose(result, expected, atol=1e-6)
    result.sum().backward()
    assert torch.allclose(layer.layer.weight.grad[0, :, 0, 0], x.sum((0, 2, 3)), atol=1e-5)


class Recomputed(nn.Module):
    def __init__(self, recompute):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.mid, self.head = nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 5, 1)
        self.recompute = recompute

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        y = functional.interpolate(self.mid(x), x.shape[2:], mode="bilinear")
        return self.head(x + y)


def test_a_recomputation_has_the_step_of_its_forward():
    gradients = []
    for recompute in (False, True):
        network = rsquant.convert(
            Recomputed(recompute), 2, 2, (64, 32), task="segmentation", integer=True
        ).train()
        body = network.body
        forward = body.forward
        if recompute:
            body.forward = lambda x, f=forward: checkpoint(f, x, use_reentrant=False)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(2, 3, 64, 64, generator=generator)
        first = network.forward_all([images, images[..., :32, :32]])
        # Steps follow what they see: the second call has another one.
        second = network.forward_all([5 * images, 5 * images[..., :32, :32]])
        sum(logits.square().sum() for logits in (*first, *second)).backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert len(gradients[0]) > 5
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5 * float(one.abs().max()))
