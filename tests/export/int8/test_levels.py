"""Integer levels against enumeration: exact on a grid, nearest off it."""

import itertools

import numpy as np
import pytest
import torch

from rsquant.export.int8.levels import Levels, integer_levels, positions
from rsquant.quantizers.grid import GRIDS, snap, snapped
from rsquant.quantizers.lq import LQActivationQuantizer


def lowest_terms(basis):
    """The levels of an integer basis, ascending, without their common factor."""
    switches = np.array(list(itertools.product((0, 1), repeat=len(basis))))
    levels = np.sort(switches @ np.asarray(basis))
    return tuple((levels // max(np.gcd.reduce(levels), 1)).tolist())


def levels_of(basis, grid=None):
    """(L,) float32, as a network computes them."""
    quantizer = LQActivationQuantizer(len(basis), grid=grid)
    quantizer.basis.copy_(torch.as_tensor(np.asarray(basis, np.float32)))
    return quantizer.levels().numpy()


def error(levels, integers):
    """Mean square of levels - scale * integers at the best scale, as a share of theirs."""
    exact, integers = levels.astype(np.float64), np.asarray(integers, np.float64)
    norm = np.square(integers).sum(-1)
    return 1 - np.square(integers @ exact) / (norm * np.square(exact).sum())


SMALL = {
    1: [(p,) for p in range(-15, 16) if p],
    2: [(p, q) for p in range(-15, 16) for q in range(-15, 16) if 0 < abs(p) + abs(q) <= 15],
    3: [b for b in itertools.product(range(-4, 8), repeat=3) if 0 < sum(map(abs, b)) <= 15][::6],
    4: [b for b in itertools.product(range(-2, 6), repeat=4) if 0 < sum(map(abs, b)) <= 15][::10],
}


@pytest.mark.parametrize("bits", SMALL)
def test_small_integer_bases_are_found_exactly_and_in_lowest_terms(bits):
    scales = np.exp(np.random.default_rng(bits).uniform(-9, 9, len(SMALL[bits])))
    wrong = []
    for basis, scale in zip(SMALL[bits], scales, strict=True):
        found = integer_levels(levels_of(np.array(basis) * np.float32(scale)), 127)
        if found.integers != lowest_terms(np.array(basis)):
            wrong.append((basis, scale, found))
    assert len(SMALL[bits]) >= 30 and not wrong


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("grid", ["coarse", "fine"])
@pytest.mark.parametrize("signed", [False, True], ids=["positive", "signed"])
def test_levels_of_a_network_on_a_grid_are_exact(bits, grid, signed):
    limit = GRIDS[grid][1]
    rng = np.random.default_rng(10 * bits + limit)
    for _ in range(15):
        basis = np.abs(rng.normal(size=bits)).astype(np.float32)
        if signed:
            basis[:-1] *= -1
        levels = levels_of(basis, limit)
        integers, _ = snap(torch.from_numpy(basis), limit, signed=False)
        found = integer_levels(levels, 127)
        assert found.integers == lowest_terms(integers.numpy()), basis
        # p_k s is rounded, and up to three sums: 4 * 2**-24 of the span, and the scale that fits
        # such levels is off by as much.
        allowed = 2.0**-21 * np.ptp(levels.astype(np.float64))
        assert np.abs(levels - found.scale * np.array(found.integers)).max() <= allowed


def test_a_grid_up_to_the_limit_is_exact_and_one_beyond_it_is_not():
    levels = levels_of(np.array([63, 64], np.float32))
    assert integer_levels(levels, 127).integers == (0, 63, 64, 127)
    # Exact ones would leave 2**-48 by float32 rounding.
    assert error(levels, integer_levels(levels, 126).integers) > 1e-10


def random_bases(bits, signs, count=30):
    rng = np.random.default_rng([bits, *(s + 1 for s in signs)])
    return np.abs(rng.normal(size=(count, bits))).astype(np.float32) * np.float32(signs)


def rms(levels, found):
    return np.sqrt(np.square(levels - found.scale * np.array(found.integers)).mean())


@pytest.mark.parametrize("limit", [1, 3, 15, 127])
@pytest.mark.parametrize("signs", [(1,), (1, 1), (1, 1, 1), (-1, 1, 1), (-1, -1, 1, 1)], ids=str)
def test_other_levels_are_off_by_half_a_step_at_most(signs, limit):
    # With a step of span / limit, rounding moves no level by more than half a step; what is found
    # is no worse than that in its mean square, whatever its own step.
    for basis in random_bases(len(signs), signs):
        levels = levels_of(basis)
        found = integer_levels(levels, limit)
        assert rms(levels, found) <= np.ptp(levels) / (2 * limit) * (1 + 1e-6), basis


@pytest.mark.parametrize("limit", [1, 3, 15, 127])
@pytest.mark.parametrize("signs", [(1,), (-1, 1), (1, 1, 1), (-1, -1, 1, 1)], ids=str)
def test_integers_ascend_and_span_at_most_the_limit(signs, limit):
    for basis in random_bases(len(signs), signs):
        integers = integer_levels(levels_of(basis), limit).integers
        assert list(integers) == sorted(integers)
        assert 0 < np.ptp(integers) <= limit


# What (1, -1) or (1, 1), a step along p_1 + p_2 = n, adds to |p| at most, times n: see below.
SLACK = {(1, 1): 2 / np.sqrt(3), (-1, -1): 2 / np.sqrt(3), (-1, 1): 2 * np.sqrt(3)}


@pytest.mark.parametrize("limit", [3, 7, 15, 30, 127])
@pytest.mark.parametrize("signs", SLACK, ids=str)
def test_no_other_two_integers_are_nearer(signs, limit):
    # Levels 0, p_1, p_2, p_1 + p_2 have |p|^2 = p_1^2 + p_2^2 + (p_1 + p_2)^2. Let r = v t be the
    # multiple of the basis v with |r_1| + |r_2| = n. A p = r + d u of that sum, u the step along
    # it, has the error d^2 / |p|^2 times a constant. Rounding takes the least |d|, and so is at
    # most (|p'| / |p|)^2 as bad as the best p', where |p'| <= |p| + |u|:
    #   same signs:      |u|^2 = 2, |p|^2 >= 3 n^2 / 2    |u| / |p| <= 2 / (sqrt(3) n)
    #   opposite signs:  |u|^2 = 6, |p|^2 >= n^2 / 2      |u| / |p| <= 2 sqrt(3) / n
    # and 1e-12 counts as exact.
    sizes = np.arange(limit + 1)
    pairs = np.stack(np.meshgrid(sizes, sizes), -1).reshape(-1, 2)
    pairs = pairs[(pairs.sum(1) > 0) & (pairs.sum(1) <= limit)] * signs
    all_levels = np.sort(pairs @ np.array([[0, 1, 0, 1], [0, 0, 1, 1]]))
    for basis in random_bases(2, signs):
        levels = levels_of(basis)
        errors = error(levels, all_levels)
        n = np.abs(pairs[errors.argmin()]).sum()
        found = error(levels, integer_levels(levels, limit).integers)
        assert found <= errors.min() * (1 + SLACK[signs] / n) ** 2 + 2e-12, basis


@pytest.mark.parametrize("signs", SLACK, ids=str)
def test_two_bits_keep_two_equal_steps(signs):
    for basis in random_bases(2, signs):
        steps = np.diff(integer_levels(levels_of(basis), 127).integers)
        assert steps[0] == steps[2], basis


@pytest.mark.parametrize(
    ("basis", "integers", "scale"),
    [
        ([0.0, 0.0], (0, 0, 0, 0), 1.0),
        ([0.0, 0.5], (0, 0, 1, 1), 0.5),
        ([0.0, -0.5], (-1, -1, 0, 0), 0.5),
        ([0.5, 0.5], (0, 1, 1, 2), 0.5),
        ([-0.5, 0.5], (-1, 0, 0, 1), 0.5),
        ([-0.5, -1.0], (-3, -2, -1, 0), 0.5),
        ([0.0], (0, 0), 1.0),
        ([-0.25], (-1, 0), 0.25),
        ([0.0, 0.0, 0.0, 2.0], (0,) * 8 + (1,) * 8, 2.0),
        ([1e-30, 2e-30], (0, 1, 2, 3), 1e-30),
        ([1e30, 2e30], (0, 1, 2, 3), 1e30),
    ],
)
def test_a_degenerate_basis_has_levels_too(basis, integers, scale):
    found = integer_levels(levels_of(basis), 127)
    assert found.integers == integers
    # One rounding of the basis to float32 and one of each sum.
    assert found.scale == pytest.approx(scale, rel=2.0**-22)


@pytest.mark.parametrize(("value", "integer"), [(0.5, 1), (-0.5, -1)])
def test_one_level_that_is_not_zero_keeps_its_value(value, integer):
    found = integer_levels(np.full(4, value, np.float32), 127)
    assert found.integers == (integer,) * 4 and found.scale == 0.5


def test_a_value_off_the_grid_by_rounding_alone_is_on_it():
    basis = torch.tensor([0.1, 0.3])
    levels = levels_of(snapped(basis, 15, signed=False).numpy())
    moved = np.nextafter(levels, np.float32(1))
    assert integer_levels(moved, 127).integers == integer_levels(levels, 127).integers


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("scale", [1e-4, 0.3, 700.0])
def test_thresholds_halfway_between_integer_levels_are_exact(bits, scale):
    integers = np.array([*range(2**bits - 1), 3 * 2**bits]) - 2
    levels = Levels(tuple(integers.tolist()), scale)
    thresholds = scale * 0.5 * (integers[:-1] + integers[1:])
    if bits == 2:
        thresholds = scale * np.array([-1.5, 0.0, 1.5])
    places, step = positions(thresholds, levels)
    np.testing.assert_allclose(thresholds[0] + step * places, thresholds, atol=1e-9 * scale)
    assert places[0] == 0 and places.max() <= 254


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_thresholds_anywhere_are_rounded_to_a_small_share_of_their_span(bits):
    rng = np.random.default_rng(bits)
    for _ in range(100):
        integers = np.arange(2**bits) - int(rng.integers(0, 2**bits))
        levels = Levels(tuple(integers.tolist()), float(np.exp(rng.uniform(-9, 9))))
        moved = rng.uniform(-0.45, 0.45, 2**bits - 1)
        thresholds = levels.scale * (integers[:-1] + 0.5 + moved)
        places, step = positions(thresholds, levels)
        error = np.abs(thresholds[0] + step * places - thresholds).max()
        # Half of one of 254 steps, or 0.4 % of the levels'.
        assert error <= max(np.ptp(thresholds) / 508, 0.004 * levels.scale * np.ptp(integers))
        assert (np.diff(places) >= 0).all() and places.max() <= 254
