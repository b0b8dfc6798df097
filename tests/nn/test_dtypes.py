"""Networks cast to another dtype, and networks built under one, compute what float32 ones do."""

import copy

import pytest
import torch
from torch import nn

import rsquant
from rsquant.nn.freeze import freeze
from rsquant.train.losses import mred

DTYPES = [torch.bfloat16, torch.float16, torch.float64]
SIZES = (16, 12)


def body():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def convert(network=None, **options):
    return rsquant.convert(network or body(), 2, 2, SIZES, **options)


def images(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, size, size, generator=generator).to(dtype) for size in SIZES]


def bases(network):
    return {k: v for k, v in network.state_dict().items() if k.endswith("basis")}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grid", ["none", "coarse"])
def test_a_cast_network_trains_and_its_bases_stay_float32(dtype, grid):
    model = convert(grid=grid)
    before = {name: basis.clone() for name, basis in bases(model).items()}
    model.to(dtype)
    assert all(torch.equal(basis, before[name]) for name, basis in bases(model).items())
    logits = model.forward_all(images(dtype))
    assert {z.dtype for z in logits} == {dtype}
    mred(logits, torch.tensor([0, 1, 2, 0]), torch.zeros(2)).total.backward()
    assert all(p.grad is not None and p.grad.dtype == dtype for p in model.parameters())
    after = bases(model)
    assert {basis.dtype for basis in after.values()} == {torch.float32}
    assert all(not torch.equal(basis, before[name]) for name, basis in after.items())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_quantizer_gives_the_levels_of_the_float32_one_rounded(dtype):
    model = convert().eval()
    layer, x = model.body[3], images(dtype)[0][:, :1].expand(-1, 8, -1, -1).contiguous()
    # Values that 16 bits hold, so that both read the same.
    expected = layer.input_quantizer(x.float()).to(dtype)
    weight = layer.weight_quantizer(layer.weight.detach().to(dtype).float()).to(dtype)
    model.to(dtype)
    assert torch.equal(layer.input_quantizer(x), expected)
    assert torch.equal(layer.weight_quantizer(layer.weight), weight)


def test_a_float64_network_gives_the_float32_ones_logits(vary):
    model = vary(convert())
    x = images()[0]
    # The levels are equal; rounding of float32 adds up over three layers.
    torch.testing.assert_close(
        copy.deepcopy(model).double()(x.double()).float(), model(x), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_network_is_converted_in_its_dtype(dtype):
    model = convert(body().to(dtype)).eval()
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert {basis.dtype for basis in bases(model).values()} == {torch.float32}
    assert model(images(dtype)[1]).dtype == model.dtype == dtype


def test_a_float64_default_leaves_bases_float32():
    torch.set_default_dtype(torch.float64)
    try:
        model = convert().eval()
        out = model(images(torch.float64)[0])
    finally:
        torch.set_default_dtype(torch.float32)
    assert out.dtype == torch.float64
    assert {basis.dtype for basis in bases(model).values()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_on_a_cpu_runs(dtype):
    model = convert()
    with torch.autocast("cpu", dtype=dtype):
        logits = model.forward_all(images())
    mred(logits, torch.tensor([0, 1, 2, 0]), torch.zeros(2)).total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cast_network_is_calibrated_frozen_packed_and_exported_as_its_float32_copy(
    tmp_path, dtype
):
    model = convert().to(dtype)
    rsquant.calibrate(model, images(dtype)[0])
    model.eval()
    floats = copy.deepcopy(model).float()
    x = images()[0]
    assert torch.equal(freeze(model, 16)(x), freeze(floats, 16)(x))
    for name, network in (("cast", model), ("float", floats)):
        rsquant.pack(network, tmp_path / f"{name}.rsq")
    assert (tmp_path / "cast.rsq").read_bytes() == (tmp_path / "float.rsq").read_bytes()
    assert rsquant.export_onnx(model, tmp_path / "a.onnx", 16, form="codebook").passed
    assert model.dtype == dtype
    rsquant.save(model, tmp_path / "a.safetensors")
    again = rsquant.load(tmp_path / "a.safetensors", into=convert())
    torch.testing.assert_close(again(x), floats(x), rtol=1e-5, atol=1e-5)
