"""Private BatchNorms and the active resolution, against torch's BatchNorm2d."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from rsquant.errors import ModelError
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.resolution import ActiveResolution

SIZES = (96, 64, 32)


def randomised(channels=5):
    norm = SwitchableBatchNorm2d(channels, ActiveResolution(SIZES))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for table in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            table.copy_(torch.rand(table.shape, generator=generator) + 0.5)
    return norm


def ordinary(norm, row):
    twin = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum)
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(twin, name).copy_(getattr(norm, name)[row])
    return twin


@pytest.mark.parametrize("row,size", list(enumerate(SIZES)))
def test_each_size_is_an_ordinary_batchnorm_in_training_and_evaluation(row, size):
    norm = randomised()
    twin = ordinary(norm, row)
    x = torch.randn(4, 5, 6, 7, generator=torch.Generator().manual_seed(1))
    for training in (True, False):
        norm.train(training)
        twin.train(training)
        with norm.active.at(size):
            torch.testing.assert_close(norm(x), twin(x), rtol=0, atol=0)
    assert torch.equal(norm.running_mean[row], twin.running_mean)
    assert torch.equal(norm.running_var[row], twin.running_var)


def test_training_at_one_size_leaves_the_others_untouched():
    norm = randomised()
    before = copy.deepcopy(norm.state_dict())
    with norm.active.at(64):
        norm(torch.randn(4, 5, 3, 3)).square().sum().backward()
    for row in (0, 2):
        assert torch.equal(norm.running_mean[row], before["running_mean"][row])
        assert (norm.weight.grad[row] == 0).all()
    assert (norm.weight.grad[1] != 0).any()


@pytest.mark.parametrize(
    "size,expected", [(96, [1, 0, 0]), (80, [0.5, 0.5, 0]), (72, [0.25, 0.75, 0]), (64, [0, 1, 0]),
                      (40, [0, 0.25, 0.75]), (32, [0, 0, 1]), (200, [1, 0, 0]), (8, [0, 0, 1])],
)  # fmt: skip
def test_unseen_sizes_blend_their_neighbours_linearly_and_clamp_outside(size, expected):
    norm = randomised()
    blended = norm.at_rows(norm.active.blend(size))
    tables = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    for got, table in zip(blended, tables, strict=True):
        want = np.tensordot(np.array(expected), table.detach().double().numpy(), 1)
        np.testing.assert_allclose(got.detach().numpy(), want, rtol=1e-6)


def test_training_at_an_unseen_size_is_refused():
    norm = randomised()
    with norm.active.at(80), pytest.raises(ModelError, match=r"only trained resolutions.*got 80"):
        norm(torch.zeros(2, 5, 3, 3))


def test_a_scope_restores_the_size_even_after_an_error():
    active = ActiveResolution(SIZES)
    with pytest.raises(RuntimeError), active.at(64), active.at(32):
        raise RuntimeError
    assert active.pinned is None
    assert active.rows == (0, 0, 0.0)


@pytest.mark.parametrize("sizes", [(), (96, 64, 64), (64, 64, 32, 32), (64, 0), (0, 0)])
def test_impossible_resolutions_are_refused(sizes):
    with pytest.raises(ModelError, match="must be different positive sizes"):
        ActiveResolution(sizes)
