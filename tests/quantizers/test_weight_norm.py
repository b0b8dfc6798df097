"""Weights normalised before their quantizer: in training, and wherever they go from there."""

import dataclasses

import numpy as np
import pytest
import torch
from packed_values import compare
from shallow import RESNET10
from small_runs import CONFIG, Silent, train
from torch import nn

import rsquant
from rsquant import quantizers, runs
from rsquant.errors import CheckpointError, ConfigError
from rsquant.nn.freeze import freeze
from rsquant.nn.quantized import QUANTIZED_LAYERS, QuantConv2d
from rsquant.packing.grid import on_grid
from rsquant.quantizers.weight_norm import NormalisedWeights, normalised
from rsquant.train import training

pytestmark = pytest.mark.usefixtures("one_start")

NORMS = ("std", "mean-abs")


def by_formula(w, norm):
    """float64."""
    if norm == "std":
        centred = w - w.mean(1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(1, keepdims=True))
    return w / np.abs(w).mean(1, keepdims=True)


def gradient_by_formula(w, g, norm):
    """Of sum(g * normalised), float64, derived by hand: n weights of a row are y = u / size."""
    y = by_formula(w, norm)
    along = (g * y).mean(1, keepdims=True)
    if norm == "std":
        size = w.std(1, keepdims=True)
        return (g - g.mean(1, keepdims=True) - y * along) / size
    return (g - np.sign(w) * along) / np.abs(w).mean(1, keepdims=True)


def weights(shape=(5, 3, 3, 2), seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(0.1, generator.uniform(0.01, 3, (shape[0], 1, 1, 1)), shape)


@pytest.mark.parametrize("norm", NORMS)
def test_values_and_gradients_are_those_of_the_formula(norm):
    w, g = weights(), weights(seed=1)
    given = torch.tensor(w, dtype=torch.float32, requires_grad=True)
    made = normalised(given, norm)
    made.backward(torch.tensor(g, dtype=torch.float32))
    rows, slopes = w.reshape(5, -1), g.reshape(5, -1)
    expected = by_formula(rows, norm)
    np.testing.assert_allclose(made.detach().reshape(5, -1), expected, rtol=1e-5, atol=1e-6)
    gradient = gradient_by_formula(rows, slopes, norm)
    size = np.abs(gradient).max()
    np.testing.assert_allclose(given.grad.reshape(5, -1), gradient, rtol=0, atol=1e-5 * size)


@pytest.mark.parametrize("norm", NORMS)
def test_the_memory_format_changes_no_bit(norm):
    w = torch.tensor(weights((64, 32, 3, 3)), dtype=torch.float32)
    other = w.to(memory_format=torch.channels_last)
    assert torch.equal(normalised(w, norm), normalised(other, norm))


@pytest.mark.parametrize("norm", NORMS)
def test_dead_channels_stay_finite(norm):
    w = torch.tensor(weights(), dtype=torch.float32)
    w[0], w[1] = 0.0, 0.25
    w.requires_grad_()
    made = normalised(w, norm)
    made.square().sum().backward()
    assert not made[0].any() and torch.isfinite(made).all() and torch.isfinite(w.grad).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", quantizers.names())
def test_every_quantizer_quantizes_normalised_weights(name, norm):
    made = quantizers.make_weights(name, 5, 2, None, norm)
    alone = quantizers.make_weights(name, 5, 2, None)
    w = torch.tensor(weights(), dtype=torch.float32)
    made.start_from(w)
    alone.start_from(normalised(w, norm))
    for _ in range(3):
        assert torch.equal(made(w), alone(normalised(w, norm)))
    made.eval()
    quantized = made(w)
    taken = made.levels().gather(1, made.codes(w).flatten(1)).view_as(w)
    np.testing.assert_allclose(quantized.detach(), taken, rtol=1e-6)
    # What is normalised has no size.
    assert torch.equal(made(4 * w), quantized) and torch.equal(made.codes(4 * w), made.codes(w))
    assert made(w.bfloat16()).dtype == torch.bfloat16


def trained(norm, quantizer="lq", **options):
    torch.manual_seed(0)
    model = rsquant.create(
        RESNET10, 2, 2, (32, 16), 3, width=4, quantizer=quantizer, weight_norm=norm, **options
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        images = torch.randn(8, 3, 32, 32, generator=generator)
        outputs = model.train().forward_all([images, images[:, :, ::2, ::2].contiguous()])
        loss = sum(z.logsumexp(1).mean() - z[:, 0].mean() for z in outputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module", params=NORMS)
def model(request):
    return trained(request.param)


def test_a_network_computes_with_normalised_weights(model):
    layers = [m for m in model.modules() if isinstance(m, QUANTIZED_LAYERS) and m.weight_quantizer]
    assert layers and all(isinstance(m.weight_quantizer, NormalisedWeights) for m in layers)
    for layer in layers:
        inner, norm = layer.weight_quantizer.inner, layer.weight_quantizer.weight_norm
        rows = torch.tensor(
            by_formula(layer.weight.detach().flatten(1).double().numpy(), norm)
        ).float()
        above = (rows.unsqueeze(-1) > inner.thresholds().unsqueeze(1)).sum(-1)
        # A value that float64 puts on the other side of a threshold is next to it.
        assert (above != layer.weight_quantizer.codes(layer.weight).flatten(1)).sum() <= 1


def test_checkpoints_bring_it_back_and_tell_it_from_others(model, tmp_path):
    path = tmp_path / "a.safetensors"
    rsquant.save(model, path)
    again = rsquant.load(path)
    x = torch.randn(2, 3, 24, 24)
    assert again.spec == model.spec and torch.equal(again(x), model(x))
    with pytest.raises(CheckpointError, match=r"has weight_norm .*the network given has none"):
        rsquant.load(path, into=rsquant.create(RESNET10, 2, 2, (32, 16), 3, width=4))


@pytest.mark.parametrize("form", ["codebook", "int8", "float"])
def test_exports_pass_their_parity(model, form, tmp_path):
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    parity = rsquant.export_onnx(
        model, tmp_path / "a.onnx", resolution=32, images=images, form=form
    )
    assert parity.passed and parity.wrong_codes == 0
    frozen = freeze(model, 32)
    torch.testing.assert_close(frozen(images), model(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name,norm", [("lq", "std"), ("lsq", "mean-abs"), ("uniform", "std")])
def test_packed_networks_compute_what_training_did(name, norm):
    made = on_grid(trained(norm, name, grid="coarse"), "coarse")
    assert not made.snapped and made.weights.error == 0
    generator = torch.Generator().manual_seed(4)
    pixels = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=generator)
    compare(made.network, pixels)


def test_a_grid_counts_every_basis_once():
    with_norm, without = (on_grid(trained(norm), "coarse").weights for norm in ("std", "none"))
    assert with_norm.bases == without.bases and with_norm.bits == without.bits


def test_a_new_classifier_keeps_the_norm():
    layer = QuantConv2d(4, 8, 3, wbits=2, weight_norm="std")
    layer.restart_weight_quantizer()
    assert layer.weight_quantizer.weight_norm == "std"


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("norm", NORMS)
def test_training_resumes_to_the_same_bits(norm, tmp_path):
    config = dataclasses.replace(
        CONFIG,
        model=dataclasses.replace(CONFIG.model, weight_norm=norm),
        train=dataclasses.replace(CONFIG.train, epochs=1),
    )
    lines = train(tmp_path, "whole", config=config)
    assert any(f"weight norm {norm}" in line for line in lines)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "cut", stop_after=3, config=config)
    training.resume(tmp_path / "cut", Silent(), lambda line: None)
    whole, cut = (rsquant.load(tmp_path / n / runs.LAST).state_dict() for n in ("whole", "cut"))
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_what_cannot_be_normalised_says_why():
    with pytest.raises(ConfigError, match="weight_norm: must be none, std or mean-abs, got 'L2'"):
        rsquant.create(RESNET10, weight_norm="L2")
    with pytest.raises(
        ConfigError, match="weight_norm: normalises low-bit weights, and this network has none"
    ):
        rsquant.create(RESNET10, 32, 2, weight_norm="std")
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1, groups=8))
    body.append(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)))
    with pytest.raises(ConfigError, match=r"needs 2 or more weights .* \(8, 1, 1, 1\)"):
        rsquant.convert(body, 2, 2, (16,), weight_norm="std")
