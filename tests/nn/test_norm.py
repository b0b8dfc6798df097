"""Private BatchNorms and the active resolution, against torch's BatchNorm2d."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import rsquant
from rsquant.errors import ModelError
from rsquant.export.switchable import to_switchable_onnx
from rsquant.nn.active import ActiveSetting
from rsquant.nn.freeze import freeze
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.packing.affine import norm_table
from rsquant.settings import Blend, of_sizes

SIZES = (96, 64, 32)


def randomised(channels=5):
    norm = SwitchableBatchNorm2d(channels, ActiveSetting(of_sizes(SIZES)))
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
    "size,expected",
    [
        (96, [1, 0, 0]),
        (80, [0.5, 0.5, 0]),
        (72, [0.25, 0.75, 0]),
        (64, [0, 1, 0]),
        (40, [0, 0.25, 0.75]),
        (32, [0, 0, 1]),
        (200, [1, 0, 0]),
        (8, [0, 0, 1]),
    ],
)
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
    active = ActiveSetting(of_sizes(SIZES))
    with pytest.raises(RuntimeError), active.at(64), active.at(32):
        raise RuntimeError
    assert active.pinned is None
    assert active.rows == (0, 0, 0.0)


@pytest.mark.parametrize("sizes", [(), (96, 64, 64), (64, 64, 32, 32), (64, 0), (0, 0)])
def test_impossible_resolutions_are_refused(sizes):
    with pytest.raises(ModelError, match="must be different positive sizes"):
        of_sizes(sizes)


@pytest.mark.parametrize("scale,shift", [(False, False), (True, False), (False, True)])
def test_what_a_batchnorm_does_not_learn_is_a_constant(scale, shift):
    plain = nn.BatchNorm2d(5)
    if not scale:
        plain.register_parameter("weight", None)
    if not shift:
        plain.register_parameter("bias", None)
    plain.running_mean.uniform_()
    norm = SwitchableBatchNorm2d.from_float(plain, ActiveSetting(of_sizes(SIZES)))
    learned = {name for name, has in (("weight", scale), ("bias", shift)) if has}
    assert {name for name, _ in norm.named_parameters()} == learned
    assert set(norm.state_dict()) == learned | {"running_mean", "running_var"}
    x = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(norm.eval()(x), plain.eval()(x), rtol=0, atol=0)
    gamma, beta, _, _ = norm.at_rows(Blend(0, 1, 0.3))
    assert (gamma == 1).all() and (beta == 0).all()


def test_without_affine_parameters_a_layer_freezes_exports_and_packs(tmp_path):
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.BatchNorm2d(8, affine=False),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 1, 1),
        nn.BatchNorm2d(8, affine=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    torch.manual_seed(0)
    model = rsquant.convert(body, 2, 2, (32, 24), grid="coarse").train()
    model.forward_all([torch.randn(4, 3, s, s) for s in (32, 24)])
    model.eval()
    x = torch.randn(2, 3, 24, 24)
    # Another order of products, rounded to float32 (2**-24 of values around 1) some ten times.
    torch.testing.assert_close(freeze(model, 24)(x), model(x), rtol=1e-6, atol=1e-6)
    assert to_switchable_onnx(model).graph.node
    rsquant.pack(model, tmp_path / "x.rsq")
    assert (norm_table(model.body[1], 2)[0] == 1).all()
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in body.parameters())


def test_a_cumulative_average_counts_the_batches_of_each_size():
    plain = nn.BatchNorm2d(5, momentum=None)
    generator = torch.Generator().manual_seed(0)
    x = [torch.randn(4, 5, 6, 6, generator=generator) for _ in range(5)]
    plain(x[0])
    active = ActiveSetting(of_sizes(SIZES))
    norm = SwitchableBatchNorm2d.from_float(plain, active)
    for batch in x[1:]:
        plain(batch)
        with active.at(64):
            norm(batch)
    assert norm.num_batches_tracked.tolist() == [1, 5, 1]
    torch.testing.assert_close(norm.running_mean[1], plain.running_mean, rtol=0, atol=0)
    torch.testing.assert_close(norm.running_var[1], plain.running_var, rtol=0, atol=0)
    again = SwitchableBatchNorm2d(5, active, momentum=None)
    again.load_state_dict(norm.state_dict())
    with active.at(64):
        torch.testing.assert_close(norm.eval()(x[0]), plain.eval()(x[0]), rtol=0, atol=0)


def test_a_batchnorm_without_running_statistics_is_refused_by_name():
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.BatchNorm2d(8, track_running_stats=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    with pytest.raises(ModelError, match=r"^1: is a BatchNorm2d with track_running_stats=False"):
        rsquant.convert(body, 2, 2, (32,))


def test_rows_that_are_kept_keep_their_count_of_batches():
    norm = SwitchableBatchNorm2d(5, ActiveSetting(of_sizes(SIZES)), momentum=None)
    norm.num_batches_tracked.copy_(torch.tensor([3, 5, 7]))
    norm.keep_rows([0, 2])
    assert norm.num_batches_tracked.tolist() == [3, 7]
    one = SwitchableBatchNorm2d(5, ActiveSetting(of_sizes((96, 32))), momentum=None)
    one.load_state_dict(norm.state_dict())
