"""Levels, their order and the assignment, against enumeration in float64."""

import itertools

import numpy as np
import pytest
import torch

from rsquant.quantizers import codes


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("signed", [True, False])
def test_levels_are_all_signed_sums_of_the_basis(bits, signed):
    basis = np.random.default_rng(bits).normal(size=bits)
    choices = (-1.0, 1.0) if signed else (0.0, 1.0)
    expected = sorted(
        sum(v * c for v, c in zip(basis, pick, strict=True))
        for pick in itertools.product(choices, repeat=bits)
    )
    levels, _ = codes.sorted_levels(torch.tensor(basis), codes.patterns(bits, signed).double())
    np.testing.assert_allclose(levels.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_the_order_leads_from_a_level_back_to_its_pattern_for_an_unsorted_negative_basis():
    pattern = codes.patterns(3, signed=False)
    basis = torch.tensor([[0.7, -0.2, 0.05], [-1.0, 2.0, -3.0]])
    levels, order = codes.sorted_levels(basis, pattern)
    rebuilt = (pattern[order] * basis.unsqueeze(1)).sum(-1)
    torch.testing.assert_close(rebuilt, levels, rtol=0, atol=1e-6)
    assert (levels.diff(dim=-1) >= 0).all()


def test_a_value_takes_the_nearest_level_and_a_tie_goes_down():
    levels = torch.tensor([-1.0, 0.0, 0.5, 2.0])
    steps = codes.thresholds(levels)
    x = torch.tensor([-9.0, -0.5, -0.4999, 0.25, 0.2501, 1.25, 1.2501, 9.0])
    assert codes.assign(x, steps).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_assignment_of_random_values_minimises_the_distance():
    generator = torch.Generator().manual_seed(0)
    levels = torch.randn(5, 8, generator=generator, dtype=torch.float64).sort(-1).values
    x = torch.randn(5, 100, generator=generator, dtype=torch.float64)
    taken = codes.assign(x, codes.thresholds(levels))
    brute = (x.unsqueeze(-1) - levels.unsqueeze(1)).abs().argmin(-1)
    assert torch.equal(taken, brute)
