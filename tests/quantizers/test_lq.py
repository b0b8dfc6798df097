"""The quantizer modules: start, update, gradients; native and PyTorch forms agree."""

import math

import numpy as np
import pytest
import torch

from rsquant import kernels
from rsquant.errors import ConfigError
from rsquant.quantizers import codes, lq
from rsquant.quantizers.lq import LQActivationQuantizer, LQWeightQuantizer

BITS = [1, 2, 3, 4]


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def channels_last(*shape):
    """A tensor whose memory order is not its logical order."""
    n, c, h, w = shape
    return random(n, h, w, c).permute(0, 3, 1, 2).relu()


@pytest.mark.parametrize("bits", BITS)
def test_a_weight_basis_starts_at_the_published_value(bits):
    quantizer = LQWeightQuantizer(out_channels=8, bits=bits, fan_out=72)
    expected = [2.0**j * 0.6745 * math.sqrt(2 / 72) / 2 ** (bits - 1) for j in range(bits)]
    np.testing.assert_allclose(quantizer.basis.numpy(), [expected] * 8, rtol=1e-6)


@pytest.mark.parametrize("bits", BITS)
def test_an_activation_basis_starts_at_the_published_value(bits):
    expected = [2.0**j * 2 * 0.6745 / (2**bits - 1) for j in range(bits)]
    np.testing.assert_allclose(LQActivationQuantizer(bits).basis.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_signed_activation_basis_starts_with_levels_on_both_sides_of_zero(bits):
    levels = LQActivationQuantizer(bits, signed=True).levels()
    assert levels[0] < 0 < levels[-1]
    assert (levels == 0).any()


def published_step(x, basis, signed, ridge):
    """Quantize by brute force, fit by the published formula, move a tenth of the way; float64."""
    bits = len(basis)
    digits = (np.arange(2**bits)[:, None] >> np.arange(bits)) & 1
    pattern = 2.0 * digits - 1 if signed else digits.astype(float)
    taken = np.abs(x[:, None] - pattern @ basis).argmin(1)
    rows = pattern[taken]
    fitted = np.linalg.solve(rows.T @ rows + ridge * np.eye(bits), rows.T @ x + ridge * basis)
    return rows @ basis, 0.9 * basis + 0.1 * fitted


@pytest.mark.parametrize("bits", BITS)
def test_weights_follow_the_published_rule_for_three_steps(bits):
    quantizer = LQWeightQuantizer(4, bits, fan_out=36)
    weight = random(4, 32, 3, 3) * math.sqrt(2 / 36)
    bases = quantizer.basis.double().numpy().copy()
    for _ in range(3):
        out = quantizer(weight)
        for channel in range(4):
            values, bases[channel] = published_step(
                weight[channel].flatten().double().numpy(), bases[channel], True, 1e-4
            )
            np.testing.assert_allclose(out[channel].flatten(), values, atol=1e-5)
        # Rounding of the stored float32 basis and of the float32 levels: a few units of 6e-8.
        np.testing.assert_allclose(quantizer.basis.numpy(), bases, rtol=1e-5)


@pytest.mark.parametrize("bits", BITS)
def test_activations_follow_the_published_rule_for_three_steps(bits):
    quantizer = LQActivationQuantizer(bits)
    basis = quantizer.basis.double().numpy().copy()
    x = channels_last(2, 3, 17, 19)
    for _ in range(3):
        out = quantizer(x)
        values, basis = published_step(x.flatten().double().numpy(), basis, False, 0.0)
        np.testing.assert_allclose(out.flatten(), values, atol=1e-5)
        np.testing.assert_allclose(quantizer.basis.numpy(), basis, rtol=1e-5)


def test_every_output_is_exactly_one_of_the_levels():
    activations, weights = LQActivationQuantizer(2), LQWeightQuantizer(3, 2, 27)
    x, w = channels_last(1, 5, 7, 9), random(3, 3, 3, 3)
    before = activations.levels()
    assert np.isin(activations(x).numpy(), before.numpy()).all()
    level = torch.stack([weights.basis @ p for p in weights.pattern], 1).sort(1).values
    out = weights(w)
    for channel in range(3):
        assert np.isin(out[channel].detach().numpy(), level[channel].numpy()).all()


def test_the_weight_gradient_is_straight_through():
    weight = random(4, 8).requires_grad_()
    upstream = random(4, 8, seed=1)
    LQWeightQuantizer(4, 2, 4)(weight).backward(upstream)
    assert torch.equal(weight.grad, upstream)


@pytest.mark.parametrize("native", [True, False])
def test_the_activation_gradient_is_one_up_to_the_top_level_and_zero_above(native, monkeypatch):
    if native and not kernels.has_native():
        pytest.skip("the native kernels are not built")
    monkeypatch.setattr(kernels, "has_native", lambda: native)
    quantizer = LQActivationQuantizer(2)
    top = quantizer.levels()[-1]
    x = torch.stack([top, torch.nextafter(top, top + 1), top * 3, top * 0.5, -top, top * 0])
    x.requires_grad_()
    upstream = torch.arange(1.0, 7.0)
    quantizer(x).backward(upstream)
    assert x.grad.tolist() == [1.0, 0.0, 0.0, 4.0, 5.0, 6.0]


@pytest.mark.parametrize("native", [True, False])
def test_a_signed_quantizer_passes_no_gradient_beyond_either_end(native, monkeypatch):
    if not native:
        monkeypatch.setattr(kernels, "has_native", lambda: False)
    quantizer = LQActivationQuantizer(2, signed=True).eval()
    low, *_, top = quantizer.levels().tolist()
    x = torch.tensor([low - 1, low - 1e-4, low, 0.0, top, top + 1e-4, math.nan])
    x.requires_grad_()
    quantizer(x).sum().backward()
    assert x.grad.tolist() == [0, 0, 1, 1, 1, 0, 0 if native else 1]


def test_the_gradient_is_right_when_it_arrives_in_another_memory_order():
    quantizer = LQActivationQuantizer(2)
    x = (channels_last(2, 4, 5, 6) * 2).requires_grad_()
    upstream = random(2, 4, 5, 6, seed=3)  # contiguous, x is channels_last
    top = quantizer.levels()[-1]
    quantizer(x).backward(upstream)
    assert torch.equal(x.grad, torch.where(x <= top, upstream, 0.0))


@pytest.mark.skipif(not kernels.has_native(), reason="the native kernels are not built")
@pytest.mark.parametrize("bits", BITS)
def test_native_and_pytorch_forms_agree(bits, monkeypatch):
    x = channels_last(3, 5, 31, 33)
    level = LQActivationQuantizer(bits).levels()
    fast = lq.round_to_levels(x, level)
    monkeypatch.setattr(kernels, "has_native", lambda: False)
    plain = lq.round_to_levels(x, level)
    assert torch.equal(fast[0], plain[0])
    assert torch.equal(fast[1], plain[1])
    torch.testing.assert_close(fast[2], plain[2], rtol=1e-6, atol=1e-6)


def test_nothing_moves_in_evaluation_or_when_updating_is_off():
    activations, weights = LQActivationQuantizer(2), LQWeightQuantizer(4, 2, 9)
    before = activations.basis.clone(), weights.basis.clone()
    activations.updating = False
    activations(channels_last(1, 2, 3, 4))
    activations.updating = True
    activations.eval()(channels_last(1, 2, 3, 4))
    weights.eval()(random(4, 9))
    assert torch.equal(activations.basis, before[0])
    assert torch.equal(weights.basis, before[1])


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(64),
        torch.full((64,), 1e9),
        torch.full((64,), float("nan")),
        torch.tensor([float("inf")] * 4),
        torch.empty(0),
        torch.full((8,), 0.01),
    ],
    ids=["zero", "huge", "nan", "inf", "empty", "tiny"],
)
def test_hostile_activations_never_break_the_basis(x):
    quantizer = LQActivationQuantizer(2)
    for _ in range(200):
        quantizer(x)
    assert torch.isfinite(quantizer.basis).all()


@pytest.mark.parametrize("bits", BITS)
def test_dead_and_constant_channels_never_break_the_basis(bits):
    quantizer = LQWeightQuantizer(4, bits, 9)
    weight = torch.stack([torch.zeros(9), torch.ones(9), torch.full((9,), 1e-30), random(9)])
    quantizer.start_from(weight)
    for _ in range(200):
        out = quantizer(weight)
    assert torch.isfinite(quantizer.basis).all()
    assert torch.isfinite(out).all()


def test_start_from_uses_the_weights_own_spread():
    weight = random(6, 500) * torch.tensor([0.001, 0.01, 0.1, 1.0, 10.0, 100.0]).unsqueeze(1)
    quantizer = LQWeightQuantizer(6, 2, fan_out=9)
    quantizer.start_from(weight)
    level, _ = codes.sorted_levels(quantizer.basis, quantizer.pattern)
    taken = codes.assign(weight, codes.thresholds(level))
    for level in range(4):  # with a wrong spread most codes land on the two end levels
        share = (taken == level).float().mean(1)
        assert (share > 0.1).all()


@pytest.mark.parametrize("bits", [0, 5, 8, -1])
@pytest.mark.parametrize(
    "make", [lambda b: LQActivationQuantizer(b), lambda b: LQWeightQuantizer(2, b, 9)]
)
def test_bits_outside_one_to_four_are_refused(bits, make):
    with pytest.raises(ConfigError, match=f"bits must be 1, 2, 3 or 4 .* got {bits}"):
        make(bits)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_start_from_finds_a_fixed_point_of_the_published_rule_at_any_scale(bits, scale):
    x = random(4000, seed=bits).relu() * scale
    quantizer = LQActivationQuantizer(bits)
    before, after = quantizer.start_from(x)
    values = x.double().numpy()
    rounded, moved = published_step(values, quantizer.basis.double().numpy(), False, 0.0)
    # It stops where a whole step moves the basis by less than a thousandth; this is a tenth of one.
    change = np.linalg.norm(moved - quantizer.basis.double().numpy())
    assert change < 1.5e-4 * np.linalg.norm(moved)
    error = ((values - rounded) ** 2).sum() / (values**2).sum()
    np.testing.assert_allclose(after, error, rtol=1e-4)
    assert after <= before


# Least errors of L levels for a half-normal and a normal signal by Lloyd's rule, over the signal's
# power: Max (1960) for the normal; LQ levels are less free from 3 bits on.
@pytest.mark.parametrize("bits,signed,optimum", [(2, False, 0.0586), (2, True, 0.1175)])
def test_start_from_comes_near_the_best_levels(bits, signed, optimum):
    x = random(200_000, seed=7)
    x = x if signed else x.relu()
    quantizer = LQActivationQuantizer(bits, signed=signed)
    _, after = quantizer.start_from(x)
    assert after < 1.35 * optimum


@pytest.mark.parametrize("x", [torch.zeros(9), torch.full((9,), math.nan), torch.zeros(0)])
def test_start_from_nothing_leaves_the_basis(x):
    quantizer = LQActivationQuantizer(2)
    basis = quantizer.basis.clone()
    assert quantizer.start_from(x) == (0.0, 0.0)
    assert torch.equal(quantizer.basis, basis)
