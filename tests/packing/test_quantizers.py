"""Packed networks of every kind of quantizer that has an integer form with symmetric weights."""

import pytest
import torch

import rsquant
from rsquant.packing.grid import on_grid


@pytest.mark.parametrize("grid", ["coarse", "fine"])
@pytest.mark.parametrize("bits", [(2, 2), (1, 3), (3, 1), (4, 4)])
def test_uniform_networks_pack_as_they_were_trained(compare, pixels, vary, bits, grid):
    torch.manual_seed(0)
    model = vary(rsquant.create("resnet18", *bits, (32, 24), 3, width=4, quantizer="uniform"))
    moved = on_grid(model, grid)
    assert moved.weights.error == moved.activations.error == moved.weights.merged == 0
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(moved.network(x), model(x))  # its levels are on every grid already
    compare(moved.network, pixels(2, 32, 32))


def test_signed_uniform_activations_pack(compare, pixels, vary):
    import torchvision

    torch.manual_seed(0)
    body = torchvision.models.mobilenet_v2(num_classes=3, width_mult=0.1)
    model = vary(rsquant.convert(body, 2, 2, (32,), quantizer="uniform"))
    assert any(getattr(m, "signed", False) for m in model.modules())
    compare(on_grid(model, "coarse").network, pixels(1, 32, 32))


@pytest.mark.parametrize("name", ["brevitas-default", "brevitas-mse"])
@pytest.mark.parametrize("bits", [(2, 2), (3, 1), (4, 4)])
def test_brevitas_networks_pack_as_they_were_trained(compare, pixels, vary, name, bits):
    pytest.importorskip("brevitas")
    torch.manual_seed(0)
    model = vary(rsquant.create("resnet18", *bits, (32, 24), 3, width=4, quantizer=name))
    moved = on_grid(model, "coarse")
    assert moved.weights.error == moved.activations.error == 0
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(moved.network(x), model(x))
    compare(moved.network, pixels(2, 32, 32))


def test_networks_whose_layers_differ_pack(compare, pixels, vary):
    torch.manual_seed(0)
    bits = {"layer4.*": (4, 4), "layer2.*": (None, 3), "layer1.0.conv2": (1, 1)}
    model = vary(
        rsquant.create(
            "resnet18",
            2,
            2,
            (32, 24),
            3,
            width=4,
            layer_bits=bits,
            layer_quantizer={"layer3.*": "uniform"},
        )
    )
    compare(on_grid(model, "coarse").network, pixels(2, 32, 32))
