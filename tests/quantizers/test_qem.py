"""The basis fit, against the published formula on the full matrix of codes in float64."""

import numpy as np
import pytest
import torch

from rsquant.quantizers import codes, qem


def published(x, rows, basis, ridge):
    """(B'B + ridge I)^-1 (B'x + ridge basis), B one row of digits per value."""
    gram = rows.T @ rows + ridge * np.eye(len(basis))
    return np.linalg.solve(gram, rows.T @ x + ridge * basis)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("signed", [True, False])
def test_counts_and_sums_give_the_published_solution(bits, signed):
    rng = np.random.default_rng(bits)
    x = rng.normal(size=20_000) if signed else np.abs(rng.normal(size=20_000))
    basis = torch.tensor(0.6 * 2.0 ** np.arange(bits) / 2 ** (bits - 1))
    pattern = codes.patterns(bits, signed).double()
    levels, order = codes.sorted_levels(basis, pattern)
    taken = codes.assign(torch.tensor(x), codes.thresholds(levels))
    counts, sums = qem.counts_and_sums(torch.tensor(x), taken, 2**bits)
    ridge = qem.WEIGHT_RIDGE if signed else None
    fitted = qem.fit_basis(counts, sums, pattern[order], basis, ridge)
    rows = pattern[order][taken].numpy()
    expected = published(x, rows, basis.numpy(), ridge or 0.0)
    # The relative ridge of 1e-8 moves a well-populated solution by about as much.
    np.testing.assert_allclose(fitted.numpy(), expected, rtol=1e-6)


def test_counts_and_sums_of_two_resolutions_add_up():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    taken = codes.assign(x, torch.tensor([-0.5, 0.0, 0.5]))
    whole = qem.counts_and_sums(x, taken, 4)
    parts = [qem.counts_and_sums(x[i], taken[i], 4) for i in (slice(0, 300), slice(300, 1000))]
    for index in range(2):
        torch.testing.assert_close(parts[0][index] + parts[1][index], whole[index])


@pytest.mark.parametrize("populated", [(0,), (3,), (0, 3), (1, 2), ()])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("ridge", [None, qem.WEIGHT_RIDGE])
def test_a_singular_fit_is_finite_and_reproduces_what_the_data_says(populated, signed, ridge):
    basis = torch.tensor([0.3, 0.6])
    pattern = codes.patterns(2, signed)
    levels, order = codes.sorted_levels(basis, pattern)
    counts, sums = torch.zeros(4), torch.zeros(4)
    for level in populated:
        counts[level] = 1e6
        sums[level] = 1e6 * (levels[level] + 0.01)
    fitted = qem.fit_basis(counts, sums, pattern[order], basis, ridge)
    assert torch.isfinite(fitted).all()

    # The fit cannot be worse than the stored basis on the populated levels.
    def error(values):
        made = pattern[order].double() @ values.double()
        return sum(float((made[i] - levels[i] - 0.01) ** 2) for i in populated)

    assert error(fitted) <= error(basis) + 1e-12


def test_a_direction_without_data_stays_where_it_was():
    basis = torch.tensor([0.3, 0.6])
    pattern = codes.patterns(2, signed=False)
    counts = torch.tensor([10.0, 50.0, 0.0, 0.0])  # only the level u_0 = 0.3 says something
    sums = torch.tensor([0.0, 50.0 * 0.4, 0.0, 0.0])
    fitted = qem.fit_basis(counts, sums, pattern, basis)
    torch.testing.assert_close(fitted, torch.tensor([0.4, 0.6]).double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_never_enter_a_basis(bad):
    basis = torch.tensor([[0.3, 0.6], [0.2, 0.5]])
    pattern = codes.patterns(2, signed=False).expand(2, 4, 2)
    counts = torch.ones(2, 4)
    sums = torch.tensor([[0.0, 0.3, 0.6, bad], [0.0, 0.2, 0.5, 0.7]])
    fitted = qem.fit_basis(counts, sums, pattern, basis)
    assert torch.equal(fitted[0], basis[0].double())
    torch.testing.assert_close(fitted[1], basis[1].double())
