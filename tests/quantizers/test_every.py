"""What every registered quantizer must do, wherever a network goes."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from packed_values import compare
from shallow import RESNET10
from small_runs import CONFIG, Silent, train
from third_party import EdgedActivations, HalvingActivations, HalvingWeights, TernaryWeights
from torch import nn

import rsquant
from rsquant import kernels, quantizers, runs, runtime
from rsquant.errors import ConfigError, PackError
from rsquant.nn.freeze import ActivationLevels, freeze
from rsquant.nn.quantized import QUANTIZED_LAYERS
from rsquant.packing.grid import on_grid
from rsquant.packing.write import pack_on_grid
from rsquant.quantizers import ActivationQuantizer, IntegerForm, Quantizer
from rsquant.train import training

pytestmark = pytest.mark.usefixtures("one_start")

SIZES = (32, 16)


quantizers.register("halving", HalvingWeights, HalvingActivations)
quantizers.register("ternary", TernaryWeights, EdgedActivations)
EVERY = quantizers.names()
PACKED = tuple(name for name in EVERY if name != "halving")
# Levels of 2 bits; those of others are four.
THREE = ("ternary", "brevitas-default", "brevitas-mse")


def create(name, bits=2, **options):
    torch.manual_seed(0)
    return rsquant.create(RESNET10, bits, bits, SIZES, 3, width=4, quantizer=name, **options)


def stepped(model, steps=2):
    """After some steps of descent on noise, in evaluation mode."""
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images = torch.randn(8, 3, 32, 32, generator=generator)
        logits = model.train().forward_all([images, images[:, :, ::2, ::2].contiguous()])
        loss = sum(z.logsumexp(1).mean() - z[:, 0].mean() for z in logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module", params=EVERY)
def trained(request):
    return request.param, stepped(create(request.param))


def quantizers_of(model):
    return [m for m in model.modules() if isinstance(m, Quantizer)]


def test_values_are_at_their_levels_by_their_thresholds(trained):
    name, model = trained
    generator = torch.Generator().manual_seed(2)
    for layer in model.modules():
        if isinstance(layer, QUANTIZED_LAYERS) and layer.weight_quantizer is not None:
            quantizer, weight = layer.weight_quantizer, layer.weight.detach()
            levels, codes = quantizer.levels(), quantizer.codes(weight)
            assert levels.shape == (len(weight), 3 if name in THREE else 4)
            assert (levels.diff(dim=-1) > 0).all()
            assert torch.equal(
                quantizer(weight), levels.gather(1, codes.flatten(1)).view_as(weight)
            )
            above = weight.flatten(1).unsqueeze(-1) > quantizer.thresholds().unsqueeze(1)
            assert torch.equal(above.sum(-1), codes.flatten(1))
        elif isinstance(layer, ActivationQuantizer):
            x = torch.randn(3, 5, 7, 2, generator=generator) * 2
            levels, thresholds = layer.levels(), layer.thresholds()
            assert levels.shape == (4,) and (levels.diff() > 0).all()
            expected = levels[(x.unsqueeze(-1) > thresholds).sum(-1)]
            np.testing.assert_allclose(layer(x).detach(), expected, rtol=1e-6, atol=1e-7)


def test_gradients_reach_every_weight(trained):
    name, _ = trained
    model = create(name).train()
    model(torch.randn(4, 3, 32, 32)).square().mean().backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == [], name


def test_checkpoints_bring_it_back(trained, tmp_path):
    name, model = trained
    rsquant.save(model, tmp_path / "a.safetensors")
    again = rsquant.load(tmp_path / "a.safetensors")
    assert again.spec.quantizer == name
    x = torch.randn(2, 3, 24, 24)
    assert torch.equal(again(x), model(x))
    with pytest.raises(rsquant.errors.CheckpointError, match="has quantizer"):
        other = create("lq" if name != "lq" else "uniform")
        rsquant.load(tmp_path / "a.safetensors", into=other)


def test_a_copy_cast_to_another_dtype_keeps_its_levels(trained):
    _, model = trained
    cast = copy.deepcopy(model).bfloat16()
    for a, b in zip(quantizers_of(model), quantizers_of(cast), strict=True):
        assert b.levels().dtype == torch.float32
        assert torch.equal(a.levels(), b.levels())
    assert cast(torch.randn(1, 3, 32, 32).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("form", ["codebook", "int8", "float"])
def test_every_onnx_form_passes_its_parity(trained, form, tmp_path):
    _, model = trained
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    parity = rsquant.export_onnx(
        model, tmp_path / "a.onnx", resolution=32, images=images, form=form
    )
    assert parity.passed and parity.wrong_codes == 0


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_network_has_the_networks_codes_and_logits(name, tmp_path):
    made = on_grid(stepped(create(name)), "coarse")
    generator = torch.Generator().manual_seed(4)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=generator)
    _, _, expected = compare(made.network, pixels)
    packed = pack_on_grid(made, tmp_path / "a.rsq").path
    best = kernels.backends.active()
    others = [(isa.name, None) for isa in kernels.available() if isa.usable]
    every = [(best, kernel) for kernel in kernels.backends.native().all_conv_kernels(best)]
    for isa, kernel in [*others, *every]:
        net = runtime.load(packed, threads=1, tune=False, isa=isa, kernel=kernel)
        np.testing.assert_array_equal(net(pixels.numpy()), expected)


def test_what_cannot_be_packed_says_why(tmp_path):
    with pytest.raises(
        PackError, match=r"'halving' has no integer form.* give Halving\w+ a method on_grid"
    ):
        rsquant.pack(create("halving"), tmp_path / "a.rsq")
    assert list(tmp_path.iterdir()) == []


def test_an_integer_form_gives_the_levels(trained):
    name, model = trained
    if name == "halving":
        return
    for quantizer in quantizers_of(on_grid(model, "coarse").network):
        form: IntegerForm = quantizer.on_grid()
        levels = form.integers().float() * form.scale.unsqueeze(-1)
        torch.testing.assert_close(levels, quantizer.levels(), rtol=1e-6, atol=1e-9)
        assert (form.integers().diff(dim=-1) >= 0).all()


def test_the_float_peer_has_no_quantizer_left(trained):
    _, model = trained
    peer = freeze(model, 32, activation=False)
    assert not any(isinstance(m, (Quantizer, ActivationLevels)) for m in peer.modules())
    frozen = freeze(model, 32)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(frozen(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("name", EVERY)
def test_training_resumes_to_the_same_bits(name, tmp_path):
    config = dataclasses.replace(
        CONFIG,
        model=dataclasses.replace(CONFIG.model, quantizer=name),
        train=dataclasses.replace(CONFIG.train, epochs=1),
    )
    train(tmp_path, "whole", config=config)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "cut", stop_after=3, config=config)
    training.resume(tmp_path / "cut", Silent(), lambda line: None)
    whole, cut = (rsquant.load(tmp_path / n / runs.LAST).state_dict() for n in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_a_name_nobody_registered_names_the_nearest():
    for make in (
        lambda: rsquant.create(RESNET10, quantizer="unifrom"),
        lambda: rsquant.convert(nn.Sequential(nn.Conv2d(3, 3, 3)), quantizer="unifrom"),
    ):
        with pytest.raises(ConfigError, match=r"unknown name 'unifrom'; did you mean 'uniform'\?"):
            make()
    with pytest.raises(ConfigError, match="a name has letters"):
        quantizers.register("a b", HalvingWeights, HalvingActivations)
