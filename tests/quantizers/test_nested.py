"""One basis at several numbers of bits: against nearest levels and stacked least squares."""

import itertools

import numpy as np
import pytest
import torch

from rsquant.errors import ConfigError
from rsquant.quantizers import qem
from rsquant.quantizers.calls import using
from rsquant.quantizers.lq import LQWeightQuantizer
from rsquant.quantizers.nested import (
    BITS,
    NestedWeights,
    check_nestable,
    dominant,
    snap_dominant,
)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def nested(weight, bits=(4, 2, 1), grid=None):
    quantizer = NestedWeights(len(weight), bits, grid)
    quantizer.start_from(weight)
    return quantizer


def at(quantizer, bits):
    return using([(BITS, (bits, 1))])


def levels_of(vectors):
    """Every sum of the vectors with signs, float64 (L,), as Python adds them."""
    signs = itertools.product((-1.0, 1.0), repeat=len(vectors))
    return np.array([sum(s * v for s, v in zip(row, vectors, strict=True)) for row in signs])


@pytest.mark.parametrize("grid", [None, 15, 127])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_each_weight_takes_the_nearest_level_of_the_first_vectors(bits, grid):
    weight = random(5, 40)
    quantizer = nested(weight, grid=grid).eval()
    vectors = quantizer.basis.double()
    if grid is not None:
        p, scale = snap_dominant(quantizer.basis, grid)
        vectors = p.double() * scale.double().unsqueeze(1)
    with at(quantizer, bits):
        rounded = quantizer(weight).double().numpy()
    for row, basis, got in zip(weight.double().numpy(), vectors.numpy(), rounded, strict=True):
        distance = np.abs(row[:, None] - levels_of(basis[:bits])[None])
        np.testing.assert_allclose(np.abs(row - got), distance.min(1), atol=1e-6)


@pytest.mark.parametrize("grid", [None, 15, 127])
@pytest.mark.parametrize("seed", range(4))
def test_fewer_bits_have_the_first_digits_of_more(grid, seed):
    weight = random(8, 300, seed=seed)
    quantizer = nested(weight, (4, 3, 2, 1), grid)
    # Bases as wide apart as dominant ones may be, and as narrow.
    quantizer.basis.copy_(dominant(random(8, 4, seed=seed + 9) * torch.tensor([1, 0.5, 0.1, 0.3])))
    with at(quantizer, 4):
        most = quantizer.codes(weight)
    for bits in (3, 2, 1):
        with at(quantizer, bits):
            assert torch.equal(quantizer.codes(weight), most >> (4 - bits))


def test_a_snapped_basis_is_the_nearest_of_all_dominant_ones():
    basis = dominant(random(20, 3) * torch.tensor([2.0, 1.0, 0.5]))
    p, scale = snap_dominant(basis, 14)
    every = [q for q in itertools.product(range(15), repeat=3) if 0 < sum(q) <= 14]
    every = np.array([q for q in every if q[0] >= q[1] + q[2] and q[1] >= q[2]], float)
    for v, mine, s in zip(basis.double().numpy(), p.numpy(), scale.numpy(), strict=True):
        best = every @ v / (every**2).sum(1)
        errors = ((v - best[:, None] * every) ** 2).sum(1)
        assert ((v - s * mine) ** 2).sum() == pytest.approx(errors.min(), abs=1e-6)


def test_a_coarse_or_fine_basis_keeps_its_limit_and_its_order():
    basis = dominant(random(200, 4))
    for limit in (15, 30, 127):
        p = snap_dominant(basis, limit)[0]
        assert (p.sum(1) <= limit).all()
        assert all((p[:, k] >= p[:, k + 1 :].sum(1)).all() for k in range(4))


def test_the_fit_minimises_the_errors_of_all_numbers_of_bits_together():
    weight = random(1, 500)
    quantizer = nested(weight)
    counts, sums = quantizer._counted(weight, quantizer.basis, None)
    fitted = quantizer._fitted(counts, sums, quantizer.basis)[0].numpy()
    blocks = []
    for bits in (4, 2, 1):
        with at(quantizer, bits):
            codes = quantizer.codes(weight)[0].numpy()
        digits = (codes[:, None] >> np.arange(bits)[::-1]) & 1
        blocks.append(np.pad(2.0 * digits - 1, ((0, 0), (0, 4 - bits))))
    stacked, target = np.concatenate(blocks), np.tile(weight[0].double().numpy(), 3)
    expected = np.linalg.lstsq(stacked, target, rcond=None)[0]
    np.testing.assert_allclose(fitted, expected, atol=1e-5)


def test_of_one_number_of_bits_the_fit_is_that_of_lq():
    counts, sums = torch.tensor([[3.0, 5, 2, 4]]), torch.tensor([[-6.0, -2, 1, 7]])
    signs, basis = random(4, 2).sign(), random(1, 2)
    plain = qem.fit_basis(counts, sums, signs, basis)
    ones = torch.ones(2, dtype=torch.float64)
    assert torch.equal(qem.fit_basis(counts, sums, signs, basis, None, ones), plain)


def test_two_bits_of_normal_weights_cost_little_more_than_a_quantizer_of_their_own():
    weight = random(1, 20_000)
    own, shared = LQWeightQuantizer(1, 2, 1), nested(weight)
    own.fit(weight)
    shared.fit(weight)
    with at(shared, 2):
        mine = shared.eval()(weight)
    # Up to a scale, which the BatchNorm behind the layer has.
    scale = (weight * mine).sum() / mine.square().sum()
    error = (weight - scale * mine).square().mean()
    assert error <= 1.01 * (weight - own.eval()(weight)).square().mean()


def test_training_moves_the_basis_once_and_keeps_it_dominant():
    weight = random(6, 50)
    one, many = nested(weight).train(), nested(weight).train()
    found = many.at_each(weight, (4, 2, 1))
    with at(one, 2):
        assert torch.equal(one(weight), found[2])  # with the basis before it moves
    assert torch.equal(one.basis, many.basis)
    assert not torch.equal(one.basis, nested(weight).basis)
    tails = one.basis.flip(1).cumsum(1).flip(1) - one.basis
    assert (one.basis >= tails).all()


def test_the_gradient_passes_straight_through_at_every_number_of_bits():
    weight = random(3, 7).requires_grad_()
    found = nested(weight.detach()).at_each(weight, (4, 1))
    (2 * found[4] + 3 * found[1]).sum().backward()
    assert torch.equal(weight.grad, torch.full((3, 7), 5.0))


def test_the_integer_form_has_the_levels_and_the_first_digits():
    weight = random(4, 30)
    quantizer = nested(weight, grid=15)
    for bits in (4, 2, 1):
        with at(quantizer, bits):
            form = quantizer.on_grid()
            own = form.scale.unsqueeze(1) * form.integers()
            torch.testing.assert_close(own, quantizer.levels())
        p = snap_dominant(quantizer.basis, 15)[0]
        assert torch.equal(form.basis, 2 * p[:, :bits])


@pytest.mark.parametrize(("quantizer", "norm"), [("lsq", "none"), ("brevitas-mse", "none")])
def test_other_quantizers_are_refused(quantizer, norm):
    with pytest.raises(ConfigError, match=f"^bits: .* which quantizer '{quantizer}' has not"):
        check_nestable(quantizer, norm)
    with pytest.raises(ConfigError, match=r"^bits: .* which weight_norm 'std' has not"):
        check_nestable("lq", "std")
