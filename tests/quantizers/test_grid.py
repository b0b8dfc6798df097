"""Integer grids against brute force over all small integers, and what quantizers make of them."""

import functools

import numpy as np
import pytest
import torch
from shallow import RESNET10

import rsquant
from rsquant import kernels
from rsquant.errors import ConfigError
from rsquant.quantizers import codes
from rsquant.quantizers.grid import limits, snap, snapped
from rsquant.quantizers.lq import LQActivationQuantizer, LQWeightQuantizer


@pytest.mark.parametrize("signed", [True, False])
def test_the_metric_is_the_mean_square_of_the_levels(signed):
    v = np.array([0.3, -1.2, 0.7])
    levels = codes.patterns(3, signed).double().numpy() @ v
    scale = 1 if signed else 4
    assert np.mean(levels**2) * scale == pytest.approx(v @ metric(3, signed) @ v)


def metric(bits, signed):
    """M of the module's docstring: sum_patterns (d . c)^2 = d'Md, up to a factor."""
    return np.eye(bits) + (0 if signed else 1)


def errors(bases, p, signed):
    """The error that the best scale of each p leaves, (N,) float64."""
    m = metric(bases.shape[1], signed)
    product = np.einsum("nk,kl,nl->n", p, m, bases)
    norm = np.einsum("nk,kl,nl->n", p, m, p)
    return np.einsum("nk,kl,nl->n", bases, m, bases) - product**2 / norm


@functools.cache
def all_integers(bits, limit, descending):
    """Every p of a limit, (P, K) float64; only those not negative that descend, if asked for."""
    ends = [limit // (k + 1) if descending else limit for k in range(bits)]
    axes = [np.arange(0 if descending else -end, end + 1) for end in ends]
    p = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, bits)
    size = np.abs(p).sum(1)
    p = p[(size > 0) & (size <= limit)]
    if descending:
        p = p[(np.diff(p, axis=1) <= 0).all(1)]
    return p.astype(np.float64)


def least_errors(bases, limit, signed, descending=False):
    """The error of the best of all p, (N,) float64."""
    m = metric(bases.shape[1], signed)
    if descending:
        bases = -np.sort(-bases, 1)
    p = all_integers(bases.shape[1], limit, descending)
    directions = p @ m / np.sqrt(np.einsum("pk,kl,pl->p", p, m, p))[:, None]
    best = np.array([(directions @ v).max() for v in bases])
    return np.einsum("nk,kl,nl->n", bases, m, bases) - best**2


def some_bases(bits, count, mixed):
    """Bases of several kinds: even, near powers of two, of any width, 1 : 10 : 100 : 1000."""
    generator = torch.Generator().manual_seed(bits)
    normal = torch.randn(4, count, bits, generator=generator).double()
    bases = torch.cat(
        [
            normal[0],
            2.0 ** torch.arange(bits) * (1 + 0.3 * normal[1]),
            10.0 ** (1.5 * normal[2].clamp(-1, 1)),
            10.0 ** torch.arange(bits) * (1 + 0.1 * normal[3]),
        ]
    )
    return bases.float() if mixed else bases.float().abs()


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("limit", [1, 7, 14, 15])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_no_small_integers_are_nearer(bits, limit, signed):
    bases = some_bases(bits, 25 if bits == 4 else 60, mixed=True)
    p, scale = snap(bases, limit, signed)
    assert p.abs().sum(-1).max() <= limit
    assert (scale >= 0).all()
    exact = bases.double().numpy()
    size = np.square(exact).sum(1)
    got = errors(exact, p.double().numpy(), signed)
    # Both are differences of sums of a few products: 1e-14 of the largest.
    assert (got <= least_errors(exact, limit, signed) + 1e-12 * size).all()


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(
    ("bits", "limit", "slack"),
    [
        (2, 127, 0.05),
        (3, 127, 0.05),
        (3, 20, 1.0),
        (4, 16, 1.0),
        (4, 31, 1.0),
        pytest.param(4, 127, 0.05, marks=pytest.mark.slow),
    ],
)
def test_larger_integers_are_as_near_as_promised(bits, limit, slack, signed):
    bases = some_bases(bits, 15 if (bits, limit) == (4, 127) else 60, mixed=False)
    p, _ = snap(bases, limit, signed)
    assert p.abs().sum(-1).max() <= limit
    exact = bases.double().numpy()
    size = np.square(exact).sum(1)
    got = errors(exact, p.double().numpy(), signed)
    least = least_errors(exact, limit, signed, descending=True)
    assert (got <= least * (1 + slack) + 1e-12 * size).all()


def test_four_bits_keep_their_levels_on_the_coarse_grid():
    assert [limits("coarse", bits) for bits in (1, 2, 3, 4)] == [(14, 15)] * 3 + [(15, 15)]
    assert limits("coarse", 32) == (14, 15)
    assert limits("fine", 4) == (127, 127)
    assert limits("none", 4) == (None, None)
    start = LQWeightQuantizer(3, 4, 27, grid=limits("coarse", 4)[0])
    p, _ = snap(start.basis, 15, True)
    assert p.tolist() == [[1, 2, 4, 8]] * 3
    network = rsquant.create(RESNET10, 4, 3, (32,), 3, width=4, grid="coarse")
    assert {m.grid for m in network.modules() if isinstance(m, LQWeightQuantizer)} == {15}


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: LQActivationQuantizer(2, grid=15), (70,)),
        (lambda: LQWeightQuantizer(3, 4, 9, 15), (3, 9)),
    ],
)
def test_torch_compile_traces_a_grid(make, shape, monkeypatch):
    monkeypatch.setattr(kernels, "has_native", lambda: False)
    eager, compiled = make(), make()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    traced = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    assert torch.equal(traced(x), eager(x))
    assert torch.equal(compiled.basis, eager.basis)


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
    network = rsquant.create(RESNET10, 2, 2, (32,), 3, width=4, grid="coarse")
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
        rsquant.create(RESNET10, 2, 2, (32,), grid="rough")
    for wrong in (0, 128, 1.5):
        with pytest.raises(ConfigError, match="grid must be 1 to 127, or None"):
            LQActivationQuantizer(2, grid=wrong)
