"""Integer grids against brute force over all small integers, and what quantizers make of them."""

import itertools

import numpy as np
import pytest
import torch

import rsquant
from rsquant.errors import ConfigError
from rsquant.quantizers import LQActivationQuantizer, LQWeightQuantizer, codes
from rsquant.quantizers.grid import limits, snap, snapped


def levels_error(basis, other, signed):
    """Mean square difference of all levels, pattern by pattern, in float64."""
    pattern = codes.patterns(len(basis), signed).double().numpy()
    return np.mean((pattern @ (np.asarray(basis) - np.asarray(other))) ** 2)


def best_by_brute_force(basis, limit, signed):
    pattern = codes.patterns(len(basis), signed).double().numpy()
    levels = pattern @ basis
    best = np.inf
    for p in itertools.product(range(-limit, limit + 1), repeat=len(basis)):
        if 0 < sum(map(abs, p)) <= limit:
            integer = pattern @ np.array(p, float)
            if not (integer @ integer):
                continue
            scale = integer @ levels / (integer @ integer)
            best = min(best, np.mean((levels - scale * integer) ** 2))
    return best


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(
    ("bits", "limit", "slack"), [(1, 3, 0), (2, 14, 0), (2, 15, 0), (3, 7, 0.1), (4, 4, 0.1)]
)
def test_the_nearest_integers_are_found(signed, bits, limit, slack):
    generator = torch.Generator().manual_seed(bits)
    bases = torch.randn(6, bits, generator=generator)
    if not signed:
        bases = bases.abs()
    p, scale = snap(bases, limit, signed)
    assert p.abs().sum(-1).max() <= limit
    for basis, integers, factor in zip(bases.double().numpy(), p.numpy(), scale, strict=True):
        error = levels_error(basis, integers * float(factor), signed)
        # Exact to two bits, but that the scale is rounded to float32; see `snap` beyond.
        assert error <= best_by_brute_force(basis, limit, signed) * (1 + slack) + 1e-12


@pytest.mark.parametrize("limit", [14, 15, 127])
def test_what_lies_on_the_grid_stays(limit):
    for p in ([3, 8], [-1, 5], [0, 7], [4, 10]):
        basis = torch.tensor(p) * 0.0371
        torch.testing.assert_close(snapped(basis, limit, True), basis, rtol=1e-6, atol=0)


def test_the_fine_grid_is_within_half_a_percent_of_the_largest_level():
    bases = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
    moved = (snapped(bases, 127, False) - bases).abs()
    assert (moved.sum(-1) <= 0.005 * bases.sum(-1)).all()


def test_zero_and_negative_bases_have_a_place():
    p, scale = snap(torch.tensor([[0.0, 0.0], [-1.0, 2.0]]), 15, False)
    assert torch.isfinite(scale).all() and (p[0] * scale[0]).abs().sum() == 0
    assert p[1, 0] < 0 < p[1, 1]
    assert snapped(torch.tensor([1.3, 2.7]), None, True).tolist() == pytest.approx([1.3, 2.7])


@pytest.mark.parametrize("limit", [14, 127])
def test_weights_take_integer_levels_while_the_real_basis_learns(limit):
    torch.manual_seed(0)
    quantizer = LQWeightQuantizer(8, 2, 9 * 8, grid=limit)
    plain = LQWeightQuantizer(8, 2, 9 * 8)
    weight = torch.randn(8, 5, 3, 3) * 0.1
    for module in (quantizer, plain):
        module.start_from(weight)
    for _ in range(30):
        quantized = quantizer(weight)
        plain(weight)
    _, scale = snap(quantizer.eval().basis, limit, True)
    integers = quantizer(weight) / scale.view(-1, 1, 1, 1)
    assert (integers - integers.round()).abs().max() < 1e-4
    assert integers.abs().max() <= limit + 1e-3
    assert not torch.equal(quantizer.basis, snapped(quantizer.basis, limit, True))
    # The fit is still that of the published rule, up to the few weights that change level.
    torch.testing.assert_close(quantizer.basis, plain.basis, rtol=0.1, atol=1e-3)
    assert torch.unique(quantized[0]).numel() <= 4


def test_activations_take_integer_levels_and_pass_the_clipped_gradient():
    quantizer = LQActivationQuantizer(2, grid=15)
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 3
    x.requires_grad_()
    quantizer(x).sum().backward()
    quantizer.eval()
    p, scale = snap(quantizer.basis, 15, False)
    levels = quantizer.levels()
    expected = sorted({0.0, float(p[0]), float(p[1]), float(p.sum())})
    np.testing.assert_allclose(levels / scale, expected, rtol=1e-5, atol=1e-6)
    top = LQActivationQuantizer(2, grid=15).levels()[-1]
    assert torch.equal(x.grad, (x <= top).float())


def test_a_whole_network_knows_its_grid(tmp_path):
    network = rsquant.create("resnet18", 2, 2, (32,), 3, width=4, grid="coarse")
    grids = {
        type(m).__name__: m.grid
        for m in network.modules()
        if isinstance(m, (LQWeightQuantizer, LQActivationQuantizer))
    }
    assert grids == {"LQWeightQuantizer": 14, "LQActivationQuantizer": 15}
    rsquant.save(network, tmp_path / "x.safetensors")
    loaded = rsquant.load(tmp_path / "x.safetensors")
    assert loaded.spec.grid == "coarse"
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(x), network.eval()(x))


def test_unknown_grids_are_named():
    assert limits("none") == (None, None)
    with pytest.raises(ConfigError, match="grid: must be one of none, fine, coarse, got 'rough'"):
        rsquant.create("resnet18", 2, 2, (32,), grid="rough")
    for wrong in (0, 128, 1.5):
        with pytest.raises(ConfigError, match="grid must be 1 to 127, or None"):
            LQActivationQuantizer(2, grid=wrong)
