"""Networks that pad by themselves in every form of file, beside torch."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from padded_networks import DynamicSame, Lite, LowerSame, StaticSame
from torch import nn

import rsquant
from rsquant.errors import ExportError
from rsquant.export.onnx import Options, export_onnx, export_switchable

SIZES = (33, 24)
KINDS = {
    "same": DynamicSame,
    "same-lower": LowerSame,
    "static": lambda *args, **kwargs: StaticSame(*args, image_size=32, **kwargs),
}


@pytest.fixture(params=KINDS)
def model(request):
    torch.manual_seed(0)
    return rsquant.convert(Lite(KINDS[request.param]), 2, 2, SIZES).eval()


@pytest.mark.parametrize("form", ["float", "codebook", "int8"])
def test_one_size_passes_its_parity_and_pads_in_its_convolutions(model, form, tmp_path):
    path = tmp_path / "x.onnx"
    images = torch.randn(2, 3, 33, 33, generator=torch.Generator().manual_seed(0))
    assert export_onnx(model, path, 33, images=images, form=form).passed
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    assert "Pad" not in nodes
    assert nodes.count("Conv") == 5


@pytest.mark.parametrize("form", ["float", "codebook"])
def test_a_single_file_pads_as_the_network_does_at_every_size(model, form, tmp_path):
    path = tmp_path / "x.onnx"
    parities = export_switchable(model, path, Options(form=form))
    assert all(parity.passed for parity in parities.values())
    engine = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size in ((33, 33), (24, 24), (23, 36), (30, 17)):
        x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = model(x).numpy()
        (got,) = engine.run(None, {"images": x.numpy()})
        # Tens of sums of float32, of values of about 1.
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_a_single_file_of_dilated_computed_padding_is_refused_by_name(tmp_path):
    body = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        DynamicSame(4, 4, 3, 3, dilation=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    model = rsquant.convert(body, 2, 2, SIZES).eval()
    with pytest.raises(
        ExportError, match=r"2\.?.*: computes its padding .* leave out `single_file=True`"
    ):
        export_switchable(model, tmp_path / "x.onnx", Options(form="float"))
    assert export_onnx(model, tmp_path / "y.onnx", 33).passed
