"""The GPU's classifier against `kernels.reference`, exactly."""

import numpy as np
import pytest
import torch

from rsquant.kernels import reference
from rsquant.kernels.gpu.linear import linear


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (64, 10), (130, 65), (2048, 70)])
def test_the_classifier(gpu, inputs, outputs):
    rng = np.random.default_rng(inputs)
    x = rng.normal(0, 3, (5, inputs)).astype(np.float32)
    x[1] = 0
    x[2] *= 1e-33
    x[3, 0] = 50
    weight = rng.integers(-127, 128, (outputs, inputs)).astype(np.int8)
    scale, bias = rng.normal(0, 0.1, (2, outputs)).astype(np.float32)
    expected = reference.linear(x, weight, np.abs(scale), bias)
    out = torch.empty(5, outputs, device=gpu)
    linear(*(torch.from_numpy(a).to(gpu) for a in (x, weight, np.abs(scale), bias)), out)
    np.testing.assert_array_equal(out.cpu().numpy(), expected)


def test_the_classifier_uses_all_16_bits(gpu):
    x = np.array([[1.0, -1.0, 0.5]], np.float32)
    weight = np.array([[127, 0, 0], [0, 127, 0], [-127, 127, 1]], np.int8)
    ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
    out = torch.empty(1, 3, device=gpu)
    linear(*(torch.from_numpy(a).to(gpu) for a in (x, weight, ones, zeros)), out)
    np.testing.assert_array_equal(out.cpu().numpy(), reference.linear(x, weight, ones, zeros))
