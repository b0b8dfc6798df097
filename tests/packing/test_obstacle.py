"""Why a network does not pack, known before it is tried, in the words of packing it."""

import pytest
import torch
from shallow import RESNET10

import rsquant
from rsquant import quantizers
from rsquant.errors import PackError
from rsquant.packing.obstacle import obstacle
from rsquant.packing.write import pack


class Formless(type(quantizers.kind("uniform").weights(1, 2, None))):
    on_grid = quantizers.Quantizer.on_grid


@pytest.fixture(autouse=True)
def formless(monkeypatch):
    monkeypatch.setattr(quantizers.registry, "_KINDS", dict(quantizers.registry._KINDS))
    quantizers.register("formless", Formless, quantizers.kind("uniform").activations)


@pytest.mark.parametrize(
    "bits,more,reason",
    [
        ((2, 2), {}, ""),
        ((2, 2), {"integer": True}, ""),
        ((2, 2), {"layer_bits": {"fc": "32/32"}}, ""),
        ((32, 32), {"layer_bits": {"layer*": "2/2"}}, ""),
        ((32, 2), {}, "its weights are float32"),
        ((2, 32), {}, "its activations are float32"),
        ((2, 2), {"layer_bits": {"layer3.*": "32/"}}, "layer3.0.conv1: has float32 weights in the"),
        ((2, 2), {"layer_quantizer": {"layer2.*": "formless"}}, "'formless' has no integer form"),
    ],
)
def test_what_is_said_before_is_what_packing_says(tmp_path, bits, more, reason):
    torch.manual_seed(0)
    network = rsquant.create(RESNET10, *bits, (32,), 5, width=4, **more).eval()
    said = obstacle(network)
    assert bool(said) == bool(reason) and reason in said
    if reason:
        with pytest.raises(PackError) as caught:
            pack(network, tmp_path / "a.rsq")
        assert str(caught.value) == said
