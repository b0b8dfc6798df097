"""The integer first convolution against the float one it stands for."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from rsquant.kernels.reference import conv_accumulators
from rsquant.packing.weights import image_tensors, linear_tensors

MEAN, STD = (0.4, 0.6, 0.2), (0.2, 0.25, 0.3)


def integer_conv(conv, pixels):
    tensors = image_tensors("c", conv, MEAN, STD)
    wide = np.full((*pixels.shape[:3], 4), 255, np.uint8)
    wide[..., :3] = pixels
    weight = tensors["c.weight"].astype(np.int64)
    acc = conv_accumulators(wide, weight, conv.stride, conv.padding)
    return acc * tensors["c.scale"].astype(float) + tensors["c.bias"], tensors


def float_conv(conv, pixels):
    images = (
        torch.from_numpy(pixels.astype(np.float64)) / 255 - torch.tensor(MEAN)
    ) / torch.tensor(STD)
    x = images.permute(0, 3, 1, 2).float()
    with torch.no_grad():
        return (
            functional.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding)
            .permute(0, 2, 3, 1)
            .numpy()
        )


@pytest.mark.parametrize("kernel,stride,padding", [(7, 2, 3), (3, 1, 1), (3, 2, 0), (1, 1, 0)])
@pytest.mark.parametrize("bias", [True, False])
def test_each_weight_is_off_by_little_and_smooth_images_by_less(kernel, stride, padding, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 16, kernel, stride, padding, bias=bias)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)
    ramp = np.broadcast_to(np.arange(24, dtype=np.uint8)[:, None, None] * 6 + 50, noise.shape)
    for pixels, allowed in ((noise, 2e-4), (ramp, 1e-4)):
        expected = float_conv(conv, pixels)
        got, tensors = integer_conv(conv, pixels)
        assert np.abs(got - expected).max() < allowed * np.abs(expected).max()
    weight = tensors["c.weight"].astype(np.int64)
    assert tensors["c.weight"].dtype == np.int16 and np.abs(weight).max() <= 127 * 256 + 127
    assert np.abs(weight).sum((1, 2, 3)).max() * 255 < 2**31


def test_the_mean_is_zero_inside_and_at_the_borders():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 16, 5, 1, 2, bias=False)
    pixels = np.empty((1, 12, 12, 3), np.uint8)
    pixels[:] = np.round(np.array(MEAN) * 255)
    got, _ = integer_conv(conv, pixels)
    # Against what the same weights give on a bright image.
    bright, _ = integer_conv(conv, np.full_like(pixels, 255))
    assert np.abs(got[:, 4:8, 4:8]).max() < 1e-5 * np.abs(bright).max()
    assert np.abs(got).max() < 0.01 * np.abs(bright).max()


def test_a_channel_of_zeros_stays_one():
    conv = nn.Conv2d(3, 2, 3, bias=False)
    with torch.no_grad():
        conv.weight[0] = 0
    got, tensors = integer_conv(conv, np.full((1, 5, 5, 3), 200, np.uint8))
    assert (got[..., 0] == 0).all()
    assert tensors["c.scale"][0] == 0


def test_the_classifier_is_rounded_per_class():
    torch.manual_seed(0)
    linear = nn.Linear(65, 5)
    tensors = linear_tensors("f", linear)
    weight = linear.weight.detach().numpy()
    error = tensors["f.weight"] * tensors["f.scale"][:, None] - weight
    assert (np.abs(error) <= np.abs(weight).max(1, keepdims=True) / 254 * 1.0001).all()
    np.testing.assert_array_equal(tensors["f.bias"], linear.bias.detach().numpy())
