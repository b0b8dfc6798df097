"""The switchable network: which BatchNorms it uses, and what is shared between sizes."""

import copy

import pytest
import torch

import rsquant
from rsquant.errors import ModelError
from rsquant.nn import QuantConv2d, SwitchableBatchNorm2d
from rsquant.quantizers.lq import LQActivationQuantizer

SIZES = (64, 48, 32)


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = rsquant.create("resnet18", 2, 2, SIZES, num_classes=4, width=8, stem="imagenet")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, SwitchableBatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.2, 0.2)
    return model


def images(size, n=3):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(size))


def test_the_input_size_picks_the_batchnorms(network):
    network.eval()
    for size in (*SIZES, 40, 56):
        x = images(size)
        with network.at(size):
            pinned = network.body(x)
        assert torch.equal(network(x), pinned)
    x = images(48)
    with network.at(32):
        other = network(x)
    assert not torch.equal(network(x), other)


def test_a_rectangle_counts_as_the_square_of_its_area(network):
    network.eval()
    x = torch.randn(1, 3, 32, 72)  # area of 48 x 48
    with network.at(48):
        expected = network(x)
    assert torch.equal(network(x), expected)


def test_forward_all_equals_one_forward_per_size_and_quantizes_weights_once(network, monkeypatch):
    twin = copy.deepcopy(network).eval()
    network.eval()
    batches = [images(s) for s in SIZES]
    expected = [twin(x) for x in batches]
    conv = next(m for m in network.modules() if isinstance(m, QuantConv2d))
    calls = []
    original = conv.weight_quantizer.forward
    monkeypatch.setattr(conv.weight_quantizer, "forward", lambda w: calls.append(1) or original(w))
    for got, want in zip(network.forward_all(batches), expected, strict=True):
        assert torch.equal(got, want)
    assert len(calls) == 1


def test_forward_all_accumulates_the_gradients_of_all_sizes(network):
    batches = [images(s) for s in SIZES]
    for m in network.modules():  # frozen bases and statistics: each forward is then the same map
        if isinstance(m, (SwitchableBatchNorm2d, LQActivationQuantizer)):
            m.eval()
        if isinstance(m, QuantConv2d):
            m.weight_quantizer.eval()
    twin = copy.deepcopy(network)
    sum(z.square().sum() for z in network.forward_all(batches)).backward()
    for x in batches:
        twin(x).square().sum().backward()
    for (name, p), q in zip(network.named_parameters(), twin.parameters(), strict=True):
        scale = q.grad.abs().max()
        assert (p.grad - q.grad).abs().max() <= 1e-4 * scale + 1e-7, name


def test_weight_bases_move_once_per_step_and_activation_bases_as_configured(network):
    batches = [images(s) for s in SIZES]
    largest = copy.deepcopy(network)
    largest.basis_updates = "largest"
    only = copy.deepcopy(network)
    network.train().forward_all(batches)
    largest.train().forward_all(batches)
    only.train()(batches[0])

    def bases(model, kind):
        return {k: v for k, v in model.state_dict().items() if k.endswith(kind)}

    weight_bases = bases(only, "weight_quantizer.basis")
    assert len(weight_bases) == 19  # 16 convolutions of the blocks and 3 shortcuts
    for key, value in weight_bases.items():
        assert torch.equal(network.state_dict()[key], value), key
    activation = [k for k in only.state_dict() if k.endswith("basis") and k not in weight_bases]
    assert len(activation) == 16  # the stem's, 12 inside and before blocks, 3 at ends of stages
    for key in activation:
        assert torch.equal(largest.state_dict()[key], only.state_dict()[key]), key
        assert not torch.equal(network.state_dict()[key], only.state_dict()[key]), key


def test_forward_all_refuses_a_wrong_order(network):
    with pytest.raises(ModelError, match=r"largest first, got sizes \(32.0, 48.0, 64.0\)"):
        network.forward_all([images(s) for s in reversed(SIZES)])


def test_a_deep_copy_switches_on_its_own(network):
    twin = copy.deepcopy(network).eval()
    network.eval()
    x = images(48)
    expected = network(x)
    with network.at(32):
        assert torch.equal(twin(x), expected)
