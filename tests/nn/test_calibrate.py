"""Bases that start from data."""

import pytest
import torch
import torchvision
from torch import nn

import rsquant
from rsquant.errors import ModelError
from rsquant.quantizers.lq import LQActivationQuantizer


def images(count=8, size=64, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def network():
    torch.manual_seed(0)
    return rsquant.create("resnet18", 2, 2, (64, 48), width=8, num_classes=3)


def test_only_activation_bases_change():
    model = network().train()
    model.body.layer1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    state = torch.get_rng_state()
    rsquant.calibrate(model, images())
    quantizers = {n for n, m in model.named_modules() if isinstance(m, LQActivationQuantizer)}
    for name, value in model.state_dict().items():
        moved = name.removesuffix(".basis") in quantizers
        assert torch.equal(value, before[name]) != moved, name
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_every_quantizer_reads_what_the_calibrated_ones_before_it_give():
    """A second calibration finds what it left: each basis fits its input as the others now are."""
    model = network()
    first = rsquant.calibrate(model, images())
    again = rsquant.calibrate(model, images())
    assert first.images == 8
    assert len(first.errors) == 16
    for name, (_, after) in first.errors.items():
        before_again = again.errors[name][0]
        assert before_again == pytest.approx(after, rel=1e-5), name


def gradient(model, x, y):
    model.train()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    return torch.sqrt(sum(p.grad.square().sum() for p in model.parameters() if p.grad is not None))


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("mobilenet_v2", 2),
        pytest.param("mnasnet0_5", 2, marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", 4, marks=pytest.mark.slow),
        pytest.param("mnasnet0_5", 4, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", 2, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", 4, marks=pytest.mark.slow),
    ],
)
def test_the_first_gradient_of_a_converted_network_is_of_the_size_of_floats(name, bits):
    torch.manual_seed(0)
    plain = torchvision.models.get_model(name, num_classes=4)
    x, y = images(8), torch.arange(8) % 4
    low = rsquant.convert(plain, bits, bits, (64,))
    rsquant.calibrate(low, x)
    ratio = gradient(low, x, y) / gradient(plain, x, y)
    assert 0.1 < ratio < 10


def test_one_image_or_another_size_is_refused():
    model = network()
    with pytest.raises(ModelError, match=r"2 or more images .* \(64, 48\), got 1 of"):
        rsquant.calibrate(model, images(1))
    with pytest.raises(ModelError, match="got 8 of 56 pixels"):
        rsquant.calibrate(model, images(size=56))


def test_a_frozen_batchnorm_normalises_by_its_statistics():
    """What a quantizer behind it is fitted to is what it reads in training."""
    model = network().train()
    norm = model.body.bn1.eval()
    with torch.no_grad():
        norm.running_var.fill_(0.01)
    expected, got = [], []
    with torch.no_grad(), model.at(64):
        expected.append(norm(model.body.conv1(images())))
    norm.register_forward_hook(lambda module, args, out: got.append(out.clone()))
    rsquant.calibrate(model, images())
    assert torch.equal(expected[0], got[0])
