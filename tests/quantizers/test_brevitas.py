"""Brevitas both ways: LQ in its layers, and its quantizers in ours, to the bit."""

import importlib
import subprocess
import sys

import pytest
import torch
from torch import nn

from rsquant import quantizers
from rsquant.errors import ConfigError
from rsquant.quantizers.lq import LQActivationQuantizer, LQWeightQuantizer
from rsquant.quantizers.registry import make_activations, make_weights

qnn = pytest.importorskip("brevitas.nn")
quant = importlib.import_module("brevitas.quant")
ours = importlib.import_module("rsquant.quantizers.brevitas")

OFFICIAL = {
    "brevitas-default": quant.Int8WeightPerChannelFloat,
    "brevitas-learned": quant.Int8WeightPerChannelFloat.let(
        narrow_range=False, scaling_impl_type="parameter_from_stats"
    ),
    "brevitas-mse": quant.Int8WeightPerChannelFloatMSE,
}


def values(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def official_conv(name, bits, weight):
    out_channels, in_channels, kernel, _ = weight.shape
    conv = qnn.QuantConv2d(
        in_channels,
        out_channels,
        kernel,
        bias=False,
        weight_quant=OFFICIAL[name],
        weight_bit_width=bits,
    )
    conv.weight = nn.Parameter(weight.clone())
    return conv


@pytest.mark.parametrize("name", OFFICIAL)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_weights_and_their_gradients_are_brevitas_s(name, bits):
    weight, gradient = values(5, 3, 3, 3), values(5, 3, 3, 3, seed=1)
    conv = official_conv(name, bits, weight)
    expected = conv.quant_weight().value
    expected.backward(gradient)
    quantizer = make_weights(name, 5, bits, None)
    quantizer.start_from(weight)
    given = weight.clone().requires_grad_()
    got = quantizer(given)
    got.backward(gradient)
    assert torch.equal(got, expected)
    assert torch.equal(given.grad, conv.weight.grad)
    scales = [p.grad.flatten() for n, p in conv.named_parameters() if n != "weight"]
    # A statistic has no parameter.
    assert len(scales) == (name != "brevitas-default")
    assert all(torch.equal(scale, quantizer.threshold.grad) for scale in scales)
    assert torch.equal(
        quantizer.levels().gather(1, quantizer.codes(weight).flatten(1)).view_as(got), got
    )


def test_the_default_s_scale_is_that_of_the_last_step():
    quantizer = make_weights("brevitas-default", 4, 2, None)
    weight = values(4, 9)
    quantizer.train()(weight)
    assert torch.equal(quantizer.threshold, weight.abs().amax(1))
    quantizer.eval()(2 * weight)
    assert torch.equal(quantizer.threshold, weight.abs().amax(1))


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("signed", [False, True])
def test_activations_and_their_gradients_are_brevitas_s(bits, signed):
    if signed and bits == 1:
        return  # one bit has no sign
    x, gradient = values(4, 6), values(4, 6, seed=1)
    kind = quant.Int8ActPerTensorFloat if signed else quant.Uint8ActPerTensorFloat
    layer = qnn.QuantIdentity if signed else qnn.QuantReLU
    act = layer(act_quant=kind, bit_width=bits, collect_stats_steps=1)
    for _ in range(2):  # then the statistics have become a parameter
        act.train()(x)
    act.eval()
    threshold = next(act.parameters())
    quantizer = make_activations("brevitas-default", bits, signed, None)
    with torch.no_grad():
        threshold.fill_(1.25)
        quantizer.threshold.fill_(1.25)
    theirs, mine = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = act(theirs)
    got = quantizer(mine if signed else mine.relu())
    expected.backward(gradient)
    got.backward(gradient)
    assert torch.equal(got, expected) and torch.equal(mine.grad, theirs.grad)
    torch.testing.assert_close(quantizer.threshold.grad, threshold.grad.view(()))


def test_activations_start_from_brevitas_s_percentile():
    x = values(3000).relu()
    act = qnn.QuantReLU(act_quant=quant.Uint8ActPerTensorFloat, bit_width=2)
    act.train()(x)
    quantizer = make_activations("brevitas-mse", 2, False, None)
    before, after = quantizer.start_from(x)
    scale = act.act_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl.buffer
    torch.testing.assert_close(quantizer.threshold.detach(), scale.view(()))
    assert 0 < after < 1 and before > 0


@pytest.mark.parametrize("name", OFFICIAL)
def test_one_bit_weights_are_refused(name):
    with pytest.raises(ConfigError, match="brevitas: weights need 2 to 4 bits"):
        make_weights(name, 4, 1, None)


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_channel_of_zeros_has_levels(name):
    weight = values(3, 8)
    weight[1] = 0
    quantizer = make_weights(name, 3, 2, None)
    quantizer.start_from(weight)
    assert quantizer.levels().isfinite().all() and not quantizer(weight)[1].any()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_brevitas_convolution_trains_with_lq_weights(bits):
    torch.manual_seed(0)
    conv = qnn.QuantConv2d(
        3,
        5,
        3,
        weight_quant=ours.LQWeightQuant,
        weight_bit_width=bits,
        input_quant=ours.LQActQuant,
        input_bit_width=2,
    )
    weights, inputs = LQWeightQuantizer(5, bits, 5), LQActivationQuantizer(2)
    weights.start_from(conv.weight)
    twin = nn.Conv2d(3, 5, 3)
    twin.load_state_dict({"weight": conv.weight, "bias": conv.bias})
    optimizers = [torch.optim.SGD(m.parameters(), 0.05) for m in (conv, twin)]
    for step in range(3):
        x = values(2, 3, 6, 6, seed=step).relu()
        expected = nn.functional.conv2d(inputs(x), weights(twin.weight), twin.bias)
        got = conv(x)
        assert type(got) is torch.Tensor and torch.equal(got, expected)
        for optimizer, y in zip(optimizers, (got, expected), strict=True):
            optimizer.zero_grad()
            y.square().sum().backward()
            optimizer.step()
        assert torch.equal(conv.weight, twin.weight)
    assert torch.equal(conv.weight_quant.quantizer.basis, weights.basis)
    assert len(conv.eval().quant_weight()[0].unique()) <= 2**bits


def lq_linear():
    return qnn.QuantLinear(6, 4, bias=True, weight_quant=ours.LQWeightQuant, weight_grid=14)


def test_a_brevitas_layer_with_lq_saves_and_loads():
    layer, x = lq_linear(), values(2, 6)
    layer.train()(x)
    again = lq_linear()
    again.load_state_dict(layer.state_dict())
    assert again.weight_quant.quantizer.grid == 14
    assert torch.equal(again.eval()(x), layer.eval()(x))


def test_new_weights_of_a_brevitas_layer_restart_its_basis():
    layer = lq_linear()
    layer.weight = nn.Parameter(100 * values(4, 6))
    expected = LQWeightQuantizer(4, 2, 4, 14)
    expected.start_from(layer.weight)
    assert torch.equal(layer.weight_quant.quantizer.basis, expected.basis)


def test_an_activation_layer_of_brevitas_takes_lq():
    relu = qnn.QuantReLU(act_quant=ours.LQActQuant, bit_width=2)
    x = values(50)
    assert torch.equal(relu.eval()(x), LQActivationQuantizer(2).eval()(x.relu()))
    signed = qnn.QuantIdentity(act_quant=ours.LQActQuant, bit_width=2, signed=True)
    assert torch.equal(signed.eval()(x), LQActivationQuantizer(2, signed=True).eval()(x))


def test_layers_whose_weights_have_outputs_elsewhere_are_refused():
    with pytest.raises(ConfigError, match="QuantConvTranspose2d has its output channels in dim"):
        qnn.QuantConvTranspose2d(3, 5, 3, weight_quant=ours.LQWeightQuant)


def test_the_names_are_known_and_brevitas_is_not_imported_before_it_is_used():
    code = (
        "import sys, rsquant.quantizers as q; "
        "print('brevitas-mse' in q.names(), 'brevitas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_without_brevitas_the_error_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "rsquant.quantizers.brevitas_baselines", raising=False)
    for name in [n for n in sys.modules if n.partition(".")[0] == "brevitas"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Hidden(), *sys.meta_path])
    with pytest.raises(ConfigError, match=r"'brevitas-mse' needs the package brevitas .*pip inst"):
        make_weights("brevitas-mse", 4, 2, None)
    assert "brevitas-mse" in quantizers.names()


class _Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "brevitas":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
