"""Thresholds that are learned apart from the levels, against float64 and LSQ."""

import narrow
import numpy as np
import pytest
import torch
from packed_values import compare
from shallow import RESNET10

import rsquant
from rsquant.errors import ModelError
from rsquant.packing.grid import on_grid
from rsquant.quantizers.learned_thresholds import LearnedThresholds
from rsquant.quantizers.lsq import LSQActivationQuantizer

CASES = [(1, False), (2, False), (2, True), (3, False), (4, True)]


def quantizer(bits, signed, seed=0):
    """Of gaps that differ."""
    made = LearnedThresholds(bits, signed)
    generator = np.random.default_rng(seed)
    with torch.no_grad():
        made.gaps.copy_(torch.tensor(generator.uniform(0.2, 1.5, 2**bits - 1)))
        made.start += 0.1
        made.step.fill_(0.7)
    return made


def values(made, count=400):
    generator = np.random.default_rng(1)
    low, high = float(made.start.detach()) - 1, float((made.start + made.gaps.sum()).detach()) + 1
    return generator.uniform(low, high, (4, count // 4)).astype(np.float32)


def interpolated(x, start, gaps, lowest):
    """The function whose rounding the quantizer is, float64; in numbers of levels."""
    knots = start + np.concatenate([[0.0], np.cumsum(gaps)])
    return lowest + np.interp(x, knots, np.arange(len(knots)))


def parameters(made):
    return [p.detach().double().numpy() for p in (made.step, made.start, made.gaps)]


@pytest.mark.parametrize("bits,signed", CASES)
def test_a_value_takes_the_level_of_the_nearer_knot(bits, signed):
    made = quantizer(bits, signed)
    x = values(made)
    step, start, gaps = parameters(made)
    lowest = -(2 ** (bits - 1)) if signed and bits > 1 else 0
    expected = step * np.ceil(interpolated(x.astype(np.float64), start, gaps, lowest) - 0.5)
    rounded = made(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(rounded, expected, rtol=1e-6, atol=1e-7)
    levels, thresholds = made.levels(), made.thresholds()
    taken = (torch.from_numpy(x).unsqueeze(-1) > thresholds).sum(-1)
    assert torch.equal(levels[taken], torch.from_numpy(rounded))


@pytest.mark.parametrize("bits,signed", CASES)
def test_gradients_are_those_of_the_function_through_the_knots(bits, signed):
    made = quantizer(bits, signed)
    x = torch.from_numpy(values(made)).requires_grad_()
    g = np.random.default_rng(2).normal(0, 1, x.shape)
    made(x).backward(torch.tensor(g, dtype=torch.float32))
    step, start, gaps = parameters(made)
    lowest = -(2 ** (bits - 1)) if signed and bits > 1 else 0
    inputs = x.detach().double().numpy()

    def loss(x, start, gaps):
        return g * step * interpolated(x, start, gaps, lowest)

    def slope(of):
        tiny = 1e-6
        return (of(tiny) - of(-tiny)) / (2 * tiny)

    scale = 1 / np.sqrt(x[0].numel() * len(gaps))
    np.testing.assert_allclose(
        x.grad, slope(lambda d: loss(inputs + d, start, gaps)), rtol=1e-4, atol=1e-4
    )
    of_start = slope(lambda d: loss(inputs, start + d, gaps).sum()) * scale
    np.testing.assert_allclose(made.start.grad, of_start, rtol=1e-3, atol=1e-3)
    for i, one in enumerate(np.eye(len(gaps))):
        of_gap = slope(lambda d, one=one: loss(inputs, start, gaps + d * one).sum()) * scale
        np.testing.assert_allclose(made.gaps.grad[i], of_gap, rtol=1e-3, atol=1e-3)
    of_step = (g * made(x.detach()).detach().double().numpy() / step).sum() * scale
    np.testing.assert_allclose(made.step.grad, of_step, rtol=1e-4)


@pytest.mark.parametrize("bits,signed", CASES)
def test_with_equal_gaps_it_is_lsq(bits, signed):
    x = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)) * 2
    g = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
    made, lsq = LearnedThresholds(bits, signed), LSQActivationQuantizer(bits, signed)
    made.start_from(x if signed else x.relu())
    with torch.no_grad():
        lsq.step.copy_(made.step)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    first, second = made(a), lsq(b)
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)
    first.backward(g)
    second.backward(g)
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6)
    # All move as one step does. LSQ has the root of the highest number, not of the gaps' count.
    together = made.step.grad + made.gaps.grad.sum() + made._lowest * made.start.grad
    highest = lsq.levels()[-1] / lsq.step
    ratio = torch.sqrt(highest / len(made.gaps))
    torch.testing.assert_close(together, lsq.step.grad * ratio, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bits,signed", CASES)
@pytest.mark.parametrize("size", [1e-3, 1.0, 50.0])
def test_it_starts_near_the_least_error_of_equidistant_levels(bits, signed, size):
    x = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0)) * size
    x = x if signed and bits > 1 else x.relu()
    made = LearnedThresholds(bits, signed)
    _, share = made.start_from(x)
    lowest = made._lowest
    values = x.double().numpy()
    steps = np.geomspace(0.01, 5, 400) * size
    errors = [
        np.square(values - s * np.clip(np.rint(values / s), lowest, lowest + 2**bits - 1)).mean()
        for s in steps
    ]
    assert share <= 1.05 * min(errors) / np.square(values).mean()
    assert made.start_from(torch.zeros(3, 4)) == (0.0, 0.0)


def test_not_a_number_takes_the_lowest_level():
    assert not LearnedThresholds(2)(torch.tensor([[float("nan")]])).any()


def test_gaps_beyond_zero_leave_ascending_thresholds():
    made = quantizer(2, False)
    with torch.no_grad():
        made.gaps[0], made.gaps[1] = -0.3, 0.0
    assert (made.thresholds().diff() >= 0).all()
    x = torch.from_numpy(values(made)).requires_grad_()
    made(x).sum().backward()
    assert torch.isfinite(made.gaps.grad).all()


def test_descent_moves_thresholds_apart_from_levels():
    made = LearnedThresholds(2)
    x = torch.rand(8, 64, generator=torch.Generator().manual_seed(0)) * 3
    # Levels are where they should be, thresholds are not.
    target = 2 / 3 * ((x > 0.4).float() + (x > 1.4) + (x > 1.6))
    optimizer = torch.optim.SGD([made.start, made.gaps], 0.02)
    losses = []
    for _ in range(100):
        loss = (made(x) - target).square().mean() * 64
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_integer_networks_refuse_them_by_name():
    with pytest.raises(ModelError, match="'lq-thresholds', which has no integer form"):
        rsquant.create(RESNET10, 2, 2, (32,), 3, width=4, quantizer="lq-thresholds", integer=True)


def moved(model):
    """Other gaps in every quantizer, and starts of both signs: zeros may have other levels."""
    generator = torch.Generator().manual_seed(2)
    found = [m for m in model.modules() if isinstance(m, LearnedThresholds)]
    assert found
    with torch.no_grad():
        for index, made in enumerate(found):
            made.gaps *= torch.rand(made.gaps.shape, generator=generator) + 0.5
            made.start += (0.4 if index % 2 else -0.8) * made.gaps[0]
            made.step *= 0.8
    return model.eval()


@pytest.mark.parametrize("arch,bits", [("resnet18", 2), ("resnet18", 3), ("mobilenet_v2", 2)])
def test_networks_with_moved_thresholds_pack_as_they_are(arch, bits):
    torch.manual_seed(0)
    if arch == "resnet18":
        model = rsquant.create(arch, bits, bits, (32,), 3, width=4, quantizer="lq-thresholds")
    else:
        body = narrow.mobilenet_v2(3, 0.1)
        model = rsquant.convert(body, bits, bits, (32,), quantizer="lq-thresholds")
        assert any(getattr(m, "signed", False) for m in model.modules())
    made = on_grid(moved(model), "coarse")
    assert made.activations.error == 0
    generator = torch.Generator().manual_seed(4)
    compare(
        made.network, torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=generator)
    )


@pytest.mark.parametrize("form", ["codebook", "int8", "float"])
def test_networks_with_moved_thresholds_export(form, tmp_path):
    torch.manual_seed(0)
    model = moved(rsquant.create(RESNET10, 2, 2, (32,), 3, width=4, quantizer="lq-thresholds"))
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    parity = rsquant.export_onnx(
        model, tmp_path / "a.onnx", resolution=32, images=images, form=form
    )
    assert parity.passed and parity.wrong_codes == 0
