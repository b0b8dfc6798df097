"""Quantizers whose thresholds are not halfway between levels, as bytes."""

import pytest
import third_party
import tiny_network
import torch

import rsquant
from rsquant import quantizers


@pytest.mark.parametrize(
    "name,bits,compat", [("edged", 3, False), ("signed", 2, True), ("sign", 1, False)]
)
def test_the_file_takes_each_value_to_its_level(monkeypatch, vary, tmp_path, name, bits, compat):
    monkeypatch.setattr(quantizers.registry, "_KINDS", dict(quantizers.registry._KINDS))
    affine, edged = third_party.AffineWeights, third_party.EdgedActivations
    quantizers.register("edged", affine, edged)
    quantizers.register("signed", affine, lambda bits, _, grid: edged(bits, True, grid))
    quantizers.register("sign", affine, third_party.SignActivations)
    torch.manual_seed(0)
    model = vary(
        rsquant.convert(tiny_network.Tiny(), bits, bits, tiny_network.SIZES, quantizer=name)
    )
    images = torch.randn(8, 3, 12, 12)
    parity = rsquant.export_onnx(
        model, tmp_path / "a.onnx", resolution=12, images=images, form="int8", compat=compat
    )
    assert parity.passed and parity.wrong_codes == 0
