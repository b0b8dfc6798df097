"""Images that a network does not take are told in one line; those it does take are let alone."""

import re

import pytest
import torch
from tiny_network import SIZES, Tiny, batches, converted

import rsquant
from rsquant.data.transforms import normalise
from rsquant.errors import ExportError, ModelError

NORMALISE = re.escape(
    "normalise them first: rsquant.data.transforms.normalise(images, network.spec.mean, "
    "network.spec.std)"
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return converted().eval()


def pixels(size=16):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_both_dtypes_are_named_and_what_to_do(model, dtype):
    line = f"^images: are {dtype}, but the network is torch.float32; pass images.to.torch.float32"
    with pytest.raises(ModelError, match=line):
        model(batches(dtype)[0])
    with model.at(12), pytest.raises(ModelError, match=line):
        model(batches(dtype)[0])
    cast = converted().to(dtype)
    line = f"^images: are torch.float32, but the network is {dtype}; pass images.to.{dtype}"
    for run in (cast, lambda x: cast.forward_all(batches()), lambda x: rsquant.calibrate(cast, x)):
        with pytest.raises(ModelError, match=line):
            run(batches()[0])


@pytest.mark.parametrize("keep", [None, ()])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_pixels_are_to_be_normalised(keep, dtype):
    network = converted(keep=keep).eval()
    with pytest.raises(ModelError, match=f"^images: are {dtype}, .* {NORMALISE}$"):
        network(pixels().to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ModelError, match=NORMALISE):
        network(pixels().to(dtype))
    network.bfloat16()
    with pytest.raises(ModelError, match=NORMALISE + re.escape(".to(torch.bfloat16)")):
        network(pixels().to(dtype))
    # What the line says works.
    images = normalise(pixels(), network.spec.mean, network.spec.std).to(torch.bfloat16)
    assert network(images).shape == (2, 3)


@pytest.mark.parametrize(
    "change,line",
    [
        (lambda x: x.numpy(), r"must be a torch\.Tensor \(N, 3, H, W\), got ndarray"),
        (lambda x: [x], r"must be a torch\.Tensor \(N, 3, H, W\), got list"),
        (lambda x: x[0, 0, 0], r"must be a torch\.Tensor \(N, 3, H, W\), got \(16,\)"),
        (lambda x: x[0], r"must be \(N, 3, H, W\), got \(3, 16, 16\); .* images\[None\]"),
        (lambda x: x.permute(0, 2, 3, 1), r".* got \(2, 16, 16, 3\); pass images\.permute\(0, 3"),
    ],
)
def test_other_mistakes_are_told_as_well(model, change, line):
    with pytest.raises(ModelError, match=f"^images: {line}"):
        model(change(batches()[0]))


@pytest.mark.parametrize("given", [torch.float32, torch.float16, torch.bfloat16])
def test_autocast_takes_what_it_casts(model, given):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(batches(given)[0]).shape == (2, 3)


def test_another_failure_under_autocast_or_of_the_network_is_not_explained_away(model):
    x = batches()[0][:, :2]
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(RuntimeError, match="channels"):
        model(x.half())
    with pytest.raises(RuntimeError, match="to have 3 channels"):
        model(x)


class Casts(Tiny):
    """Takes pixels of any dtype, channels last, or a single image."""

    def forward(self, x):
        x = x if x.dim() == 4 else x[None]
        x = x if x.shape[1] == 3 else x.permute(0, 3, 1, 2)
        return super().forward(x.to(self.stem.weight.dtype))


def test_a_network_that_casts_by_itself_takes_what_it_likes():
    network = rsquant.convert(Casts(), 2, 2, SIZES).eval()
    expected = network(pixels().float())
    assert torch.equal(network(pixels()), expected)
    with network.at(16):
        assert torch.equal(network(pixels().double().permute(0, 2, 3, 1)), expected)
        torch.testing.assert_close(network(pixels()[0]), expected[:1])


def test_exports_take_any_floats_and_refuse_pixels(model, tmp_path):
    for name in ("images", "calibration"):
        with pytest.raises(ExportError, match=f"^images: are torch.uint8, .* {NORMALISE}$"):
            rsquant.export_onnx(model, tmp_path / "a.onnx", 16, **{name: pixels()})
    x = batches(torch.float64)[0]
    assert rsquant.export_onnx(model, tmp_path / "a.onnx", 16, images=x, form="float").passed
