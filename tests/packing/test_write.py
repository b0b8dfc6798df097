"""A packed network computes what torch computes with the same levels."""

import copy
import importlib

import narrow
import numpy as np
import pytest
import torch
from low_memory import without_layouts
from shallow import RESNET10, RESNET14
from torch import nn

import rsquant
from rsquant import runtime
from rsquant.errors import ConfigError, PackedFileError, PackError, RsquantError
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.packed import program as packed_program
from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed
from rsquant.packing.grid import on_grid
from rsquant.packing.write import pack
from rsquant.quantizers.grid import snapped
from rsquant.quantizers.lq import LQActivationQuantizer, LQWeightQuantizer
from rsquant.runtime.cpu import session

SIZES = (64, 48, 32)


def create(arch=RESNET10, wbits=2, abits=2, grid="none", width=8, sizes=SIZES, **more):
    torch.manual_seed(0)
    if not arch.startswith("torchvision:"):
        more["width"] = width
    return rsquant.create(arch, wbits, abits, sizes, 5, grid=grid, **more)


def converted():
    torch.manual_seed(0)
    return rsquant.convert(narrow.mobilenet_v2(), 2, 2, SIZES)


@pytest.mark.parametrize(
    "make",
    [
        create,
        lambda: create(RESNET14),
        lambda: create(block="post", stem="imagenet"),
        converted,
    ],
    ids=["basic", "bottleneck", "post-activation", "mobilenet_v2"],
)
def test_every_code_is_the_one_torch_gives(compare, pixels, signed_norms, make):
    network = on_grid(signed_norms(make()), "coarse").network
    compared, _, logits = compare(network, pixels(2, 48, 48))
    assert compared > 10_000
    assert np.ptp(logits) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch",
    [
        "torchvision:resnet18",
        "torchvision:resnet50",
        "torchvision:mobilenet_v2",
        "torchvision:resnext50_32x4d",
        "torchvision:regnet_x_400mf",
        "resnet101",
    ],
)
def test_every_code_is_the_one_torch_gives_in_large_networks(compare, pixels, signed_norms, arch):
    network = on_grid(signed_norms(create(arch)), "coarse").network
    compare(network, pixels(1, 64, 64))


@pytest.mark.parametrize(
    ("wbits", "abits"), [(1, 1), (2, 2), (3, 3), (4, 4), (1, 4), (4, 1), (2, 3), (3, 2)]
)
def test_all_bit_widths_pack(compare, pixels, signed_norms, wbits, abits):
    network = signed_norms(create(wbits=wbits, abits=abits))
    compare(on_grid(network, "coarse").network, pixels(1, 32, 32))


@pytest.mark.parametrize("grid", ["coarse", "fine"])
@pytest.mark.parametrize("trained", [True, False])
def test_both_grids_pack_trained_on_or_not(compare, pixels, signed_norms, grid, trained):
    network = signed_norms(create(grid=grid if trained else "none"))
    # Bases as training leaves them: unsorted, some negative, all on no grid.
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, (LQActivationQuantizer, LQWeightQuantizer)):
            noise = torch.randn(module.basis.shape, generator=generator)
            module.basis *= 1 + 0.4 * noise
    made = on_grid(network, grid)
    assert made.snapped is not trained
    assert (made.weights.error > 0) is not trained
    assert made.network.spec.grid == grid
    compare(made.network, pixels(1, 48, 48))


def test_a_basis_of_zeros_packs(compare, pixels, signed_norms):
    network = signed_norms(create())
    network.body.layer1[0].act2[2].basis.zero_()
    network.body.layer2[0].conv1.weight_quantizer.basis.zero_()
    compare(on_grid(network, "coarse").network, pixels(1, 48, 48))


def dead_activations(network):
    for module in network.modules():
        if isinstance(module, LQActivationQuantizer):
            module.basis.zero_()


def dead_weight_bases(network):
    for module in network.modules():
        if isinstance(module, LQWeightQuantizer):
            module.basis.zero_()


def denormal_scales(network):
    for module in network.modules():
        if isinstance(module, (LQActivationQuantizer, LQWeightQuantizer)):
            module.basis.mul_(1e-42)


def dead_channels(network):
    for module in network.modules():
        if isinstance(module, LQWeightQuantizer):
            module.basis[::2] = 0
        if isinstance(module, SwitchableBatchNorm2d):
            module.weight[:, 1::3] = 0
            module.running_var[:, 2::3] = 0


def dead_ends(network):
    network.body.conv1.weight.zero_()
    network.body.fc.weight.zero_()


@pytest.mark.parametrize(
    "damage", [dead_activations, dead_weight_bases, denormal_scales, dead_channels, dead_ends]
)
def test_what_is_dead_in_a_network_packs_and_runs(tmp_path, signed_norms, damage):
    network = signed_norms(create())
    with torch.no_grad():
        damage(network)
    path = pack(network, tmp_path / "x.rsq").path
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 48, 48), dtype=np.uint8)
    expected = packed_program.run(build_program(open_packed(path), 48, 48), pixels)
    for memory in ("full", "low"):
        with without_layouts():
            got = runtime.load(path, 1, memory, tune=False)(pixels)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("geometry: 1 or more"),
        PackedFileError("x: is no network"),
        IndexError("0"),
    ],
)
def test_a_file_that_does_not_load_never_gets_its_name(tmp_path, monkeypatch, error):
    network = create()
    smallest, bind_size = min(network.resolutions), session.bind

    def bind(isa, workspace, program, weights):
        if program.height == smallest:
            raise error
        return bind_size(isa, workspace, program, weights)

    path = tmp_path / "x.rsq"
    path.write_bytes(b"old")
    monkeypatch.setattr(session, "bind", bind)
    with pytest.raises(PackError, match=r"cannot be loaded, and was removed: .*a bug in rsquant"):
        pack(network, path, exist_ok=True)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x.rsq", b"old")]


def test_packing_needs_no_kernels(tmp_path, monkeypatch):
    monkeypatch.setenv("RSQUANT_ISA", "mmx")
    assert pack(create(), tmp_path / "x.rsq").path.is_file()


@pytest.mark.parametrize("height,width", [(40, 40), (33, 70), (100, 90), (31, 16)])
def test_sizes_between_and_beyond_the_trained_ones_blend_as_the_network_does(
    compare, pixels, vary, height, width
):
    compare(on_grid(vary(create()), "coarse").network, pixels(1, height, width))


@pytest.mark.parametrize("size", SIZES)
def test_each_resolution_has_its_own_batchnorms(compare, pixels, vary, size):
    compare(on_grid(vary(create()), "coarse").network, pixels(1, size, size))


def test_levels_on_both_sides_of_zero_are_padded_with_zero(compare, pixels, signed_norms):
    network = signed_norms(create())
    for module in network.modules():
        if isinstance(module, LQActivationQuantizer):
            module.basis[:-1] *= -1
    network = on_grid(network, "coarse").network
    assert compare(network, pixels(1, 48, 48))[0] > 10_000


def test_the_network_is_not_changed(tmp_path, vary):
    network = vary(create())
    before = copy.deepcopy(network.state_dict())
    pack(network, tmp_path / "x.rsq")
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert network.body.layer1[0].act1.grid is None
    assert network.spec.grid == "none"


def test_weights_take_the_level_that_training_on_the_grid_gives():
    network = create()
    conv = on_grid(network, "coarse").network.body.layer1[0].conv1
    trained = create(grid="coarse").eval().body.layer1[0].conv1
    assert torch.equal(conv.quantized_weight(), trained.quantized_weight())
    basis = conv.weight_quantizer.basis
    assert torch.equal(snapped(basis, 14, True), snapped(basis, conv.weight_quantizer.grid, True))


def test_the_result_says_what_is_in_the_file(tmp_path, vary):
    network = vary(create())
    result = pack(network, tmp_path / "x.rsq")
    assert result.file_bytes == (tmp_path / "x.rsq").stat().st_size
    parts = result.weight_bytes + result.end_bytes + result.table_bytes
    assert 0 < result.file_bytes - parts < 60_000
    norms = sum(m.weight.numel() for m in network.modules() if hasattr(m, "running_var"))
    assert result.table_bytes == 4 * 4 * norms
    assert result.snapped
    spec = open_packed(result.path).plan.network
    assert (spec.arch, spec.resolutions, spec.num_classes) == (RESNET10, SIZES, 5)
    assert (spec.grid, spec.stride) == ("coarse", network.stride)


def test_a_resnet50_of_five_sizes_has_at_most_12_mb(tmp_path):
    network = rsquant.create("resnet50", 2, 2)
    assert pack(network, tmp_path / "x.rsq").file_bytes <= 12e6
    packed = open_packed(tmp_path / "x.rsq")
    one, other = (build_program(packed, size, size) for size in (224, 96))
    for a, b in zip(one.steps, other.steps, strict=True):
        planes = getattr(a, "planes", None)
        if planes is not None:
            assert planes is b.planes or np.shares_memory(planes, b.planes)
            assert not planes.flags.owndata


def test_files_are_not_replaced_unless_asked(tmp_path):
    network = create()
    path = tmp_path / "x.rsq"
    rsquant.pack(network, path)
    before = path.read_bytes()
    with pytest.raises(RsquantError, match="exists already"):
        rsquant.pack(network, path)
    rsquant.pack(network, path, exist_ok=True)
    assert path.read_bytes() == before


def test_what_has_no_integers_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "x.rsq"
    with pytest.raises(PackError, match=r"activations are float32 \(abits 32\).* `abits` 1"):
        pack(create(abits=32), path)
    with pytest.raises(PackError, match=r"weights are float32 \(wbits 32\).* `wbits` 1"):
        pack(create(wbits=32), path)
    with pytest.raises(ConfigError, match="grid: must be coarse or fine"):
        pack(create(), path, grid="none")
    network = create()
    network.body.layer1[0].conv1.weight_quantizer.basis[0] = torch.nan
    with pytest.raises(PackError, match=r"layer1\.0\.conv1.*basis has NaN values"):
        pack(network, path)
    network = create()
    with torch.no_grad():
        network.body.bn1.bias[0, 0] = torch.inf
    with pytest.raises(PackError, match=r"resnet10: body\.bn1\.bias has infinite values"):
        pack(network, path)
    network = create()
    with torch.no_grad():
        network.body.fc.weight[0, 0] = torch.nan
    with pytest.raises(PackError, match=r"body\.fc\.weight has NaN values; pack a checkpoint from"):
        pack(network, path)
    assert not path.exists()


def test_a_name_of_another_kind_of_file_is_refused_at_once(tmp_path):
    with pytest.raises(RsquantError, match=r"rsquant export .* writes ONNX files; name this file"):
        pack(None, tmp_path / "x.onnx")


def test_the_public_name_is_a_function():
    assert callable(rsquant.pack)
    importlib.import_module("rsquant.packing.write")
    assert callable(rsquant.pack)
    assert isinstance(rsquant.packing, type(rsquant))


def test_biases_and_quantized_ends_pack(compare, pixels, signed_norms):
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 9, 3, 1, "same"),
        nn.BatchNorm2d(9),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(9, 7),
        nn.ReLU(),
        nn.Linear(7, 4),
    )
    network = signed_norms(rsquant.convert(body, 2, 2, (32, 24), keep=("0",)))
    compare(on_grid(network, "coarse").network, pixels(3, 24, 24))
