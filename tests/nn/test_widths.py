"""Networks at several widths: against networks of those widths, saved, packed and exported."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from shallow import RESNET10, RESNET14

import rsquant
from rsquant import quantizers
from rsquant.data.transforms import normalise
from rsquant.errors import ConfigError, ModelError, PackedFileError
from rsquant.evaluate.complexity import madds
from rsquant.models.factory import build
from rsquant.nn.freeze import freeze
from rsquant.nn.variant import at_variant
from rsquant.packed.file import open_packed
from rsquant.packed.format import read_packed, write_packed
from rsquant.packing.grid import on_grid
from rsquant.quantizers.lq import LQWeightQuantizer
from rsquant.report.layers import layer_lines, layer_rows
from rsquant.report.packed import lines, report
from rsquant.settings import Setting, Variant, row_names

WIDTHS = (1.0, 0.75, 0.5)


def images(size, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, size, size, generator=generator)


def made(arch=RESNET10, **kwargs):
    torch.manual_seed(0)
    given = {"resolutions": (48, 32), "num_classes": 5, "widths": WIDTHS, **kwargs}
    return rsquant.create(arch, **{"width": 16, **given} if arch.startswith("resnet") else given)


def after_steps(network):
    network.train()
    with torch.no_grad():
        for seed in range(2):
            network.forward_all([images(size, seed=seed) for size in network.resolutions])
    return network.eval()


def sliced(whole, network, rows):
    """The state of a narrower network, cut by the shapes of another one's alone."""
    state = {}
    for name, own in network.state_dict().items():
        tensor = whole[name]
        if tensor.ndim == 2 and len(tensor) > len(own) == len(rows):
            tensor = tensor[rows]
        state[name] = tensor[tuple(slice(0, n) for n in own.shape)]
    return state


@pytest.fixture(scope="module")
def trained():
    """After steps that moved bases and the statistics of every row."""
    return after_steps(made())


def test_every_size_has_a_row_at_every_width(trained):
    assert trained.spec.widths == WIDTHS and trained.resolutions == (48, 32)
    assert trained.settings[0] == Setting(48) and trained.settings[-1] == Setting(32, 0.5)
    assert row_names(trained.settings)[:2] == ["48_x1", "48_x0_75"]
    assert trained.variants == tuple(map(Variant, WIDTHS))


KINDS = [
    (RESNET10, {}),
    (RESNET10, {"wbits": 32, "abits": 32}),
    (RESNET10, {"wbits": 2, "abits": 32}),
    (RESNET10, {"block": "preact-bare", "quantizer": "lsq"}),
    (RESNET10, {"quantizer": "uniform", "grid": "coarse"}),
    (RESNET14, {"width": 8}),
    ("mobilenet_v2_x0_5", {"resolutions": (32,), "widths": (1.0, 0.7), "wbits": 4, "abits": 4}),
]


@pytest.mark.parametrize(("arch", "given"), KINDS, ids=str)
def test_a_width_computes_what_a_network_of_that_width_does(arch, given):
    network = after_steps(made(arch, **given))
    whole = network.state_dict()
    for variant in network.variants:
        spec = dataclasses.replace(network.spec, widths=(), **network.forms[variant.width])
        plain = build(spec).eval()
        rows = [i for i, one in enumerate(network.settings) if one.variant == variant]
        plain.load_state_dict(sliced(whole, plain, rows))
        cut = at_variant(network, variant)
        assert cut.spec == plain.spec
        for size in network.resolutions:
            expected = plain(images(size))
            # Products of a part of a matrix may be added in another order.
            torch.testing.assert_close(network(images(size), width=variant.width), expected)
            torch.testing.assert_close(cut(images(size)), expected)
            frozen = freeze(network, size, variant=variant)(images(size))
            torch.testing.assert_close(frozen, expected, rtol=1e-4, atol=1e-4)
            assert madds(network, size, variant) == madds(plain, size)


def test_bits_and_widths_go_together():
    network = after_steps(made(bits=("4/4", "2/2")))
    assert len(network.settings) == 12
    for variant in network.variants:
        cut = at_variant(network, variant)
        expected = network(images(32), variant.bits, variant.width)
        torch.testing.assert_close(cut(images(32)), expected)
        with network.at(32, variant.bits, variant.width):
            assert torch.equal(network(images(32)), expected)


def test_the_gradient_of_a_narrow_setting_is_that_of_its_part():
    network = made().train()
    row = network.settings.index(Setting(32, 0.5))
    network.forward_all([images(48), images(32)], rows=[row])[0].square().sum().backward()
    plain = build(dataclasses.replace(network.spec, widths=(), **network.forms[0.5]))
    shapes = {name: p.shape for name, p in plain.named_parameters()}
    for name, parameter in network.named_parameters():
        gradient, shape = parameter.grad.clone(), shapes[name]
        if gradient.shape[0] == len(network.settings) and parameter.ndim == 2:
            assert gradient[row].any() and not gradient[row, shape[1] :].any()
            gradient[row] = 0
        else:
            part = tuple(slice(0, n) for n in shape)
            assert gradient[part].any()
            gradient[part] = 0
        assert not gradient.any(), name


def test_the_basis_is_moved_once_by_all_weights_of_its_layer():
    whole, narrow = made().train(), made().train()
    rows = [whole.settings.index(Setting(32, 0.5))]
    for network, chosen in ((whole, None), (narrow, rows)):
        with torch.no_grad():
            network.forward_all([images(48), images(32)], rows=chosen)
    layers = dict(narrow.body.named_modules())
    for name, layer in whole.body.named_modules():
        if getattr(layer, "weight_quantizer", None) is not None:
            basis = layers[name].weight_quantizer.basis
            assert torch.equal(layer.weight_quantizer.basis, basis)


def test_it_is_saved_and_loaded(trained, tmp_path):
    rsquant.save(trained, tmp_path / "one.safetensors")
    loaded = rsquant.load(tmp_path / "one.safetensors")
    assert loaded.spec == trained.spec
    for width in WIDTHS:
        assert torch.equal(loaded(images(32), width=width), trained(images(32), width=width))
    cut = at_variant(trained, Variant(0.5))
    rsquant.save(cut, tmp_path / "narrow.safetensors")
    assert torch.equal(rsquant.load(tmp_path / "narrow.safetensors")(images(32)), cut(images(32)))


def test_a_new_classifier_has_all_classes_at_every_width(trained):
    network = copy.deepcopy(trained)
    network.reset_classifier(7)
    assert [network(images(32), width=width).shape for width in WIDTHS] == [(3, 7)] * 3


@pytest.mark.parametrize(
    ("arch", "given", "message"),
    [
        (RESNET10, {"widths": "1,0.5"}, "widths: must be a sequence of shares"),
        (RESNET10, {"widths": (1, "half")}, "widths: must be numbers"),
        (RESNET10, {"widths": (1, 1.5)}, "widths: must be above 0 to 1, got 1, 1.5"),
        (RESNET10, {"widths": (1, 0)}, "widths: must be above 0 to 1, got 1, 0"),
        (RESNET10, {"widths": (1, 0.5, 0.5)}, "widths: must be different, got 1, 0.5, 0.5"),
        (RESNET10, {"widths": (1, 0.5, 0.4999999995)}, "widths: must be different"),
        (RESNET10, {"widths": (0.5, 1)}, "widths: must descend from 1, .* got 0.5, 1"),
        (RESNET10, {"widths": (0.5,)}, "widths: must descend from 1"),
        (RESNET10, {"width": 2}, "1 and 0.75 are the same channels"),
        (RESNET10, {"weight_norm": "std"}, "layer1.0.conv1 cannot be slimmed: its quantizer 'lq' "),
        (RESNET10, {"integer": True}, "widths: several cannot be combined with integer"),
        (RESNET10, {"resolutions": (32, 32)}, "several paths .* settings of widths"),
        ("mobilenet_v2", {"widths": (1, 0.25)}, r"features.1 cannot be slimmed: its residual is"),
        ("mobilenet_v2", {"widths": (1, 0.0333)}, "more than three digits"),
        ("torchvision:resnet18", {}, "torchvision:resnet18 is a network of fixed channels"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arch, given, message):
    with pytest.raises((ConfigError, ModelError), match=message) as caught:
        made(arch, **given)
    assert "\n" not in str(caught.value)


class OwnLevels(LQWeightQuantizer):
    """Its values depend on all channels in layers with many of them."""

    def forward(self, weight):
        values = super().forward(weight)
        return values if len(weight) < 128 else values - values.mean()


def test_every_shape_of_layer_is_looked_at_for_levels_of_its_part(monkeypatch):
    monkeypatch.setattr(quantizers.registry, "_KINDS", dict(quantizers.registry._KINDS))
    quantizers.register(
        "own",
        lambda channels, bits, grid: OwnLevels(channels, bits, channels, grid),
        quantizers.kind("lq").activations,
    )
    with pytest.raises(ConfigError, match=r"widths: layer4.* cannot be slimmed: its quantizer 'o"):
        made(quantizer="own")
    assert made(quantizer="own", width=8).spec.quantizer == "own"


def test_a_width_that_is_not_there_is_refused(trained):
    with pytest.raises(ModelError, match=r"none has width 0.6; there are width 1, width 0.75"):
        trained(images(32), width=0.6)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A network of widths and bits on its grid, its file, and that of all channels alone."""
    network = after_steps(made(bits=("4/4", "2/2")))
    folder = tmp_path_factory.mktemp("packed")
    rsquant.pack(network, folder / "both.rsq")
    alone = made(bits=("4/4", "2/2"), widths=())
    rsquant.pack(alone, folder / "alone.rsq")
    return on_grid(network, "coarse").network, folder


def test_a_file_computes_every_setting_as_the_network_on_its_grid(both):
    network, folder = both
    session = rsquant.runtime.load(folder / "both.rsq", threads=1, tune=False)
    assert session.widths == WIDTHS and session.bits == ((4, 4), (2, 2))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32), np.uint8)
    x = normalise(torch.from_numpy(pixels), network.spec.mean, network.spec.std)
    for one in network.variants:
        expected = network(x, one.bits, one.width).detach().numpy()
        got = session(pixels, bits=one.bits, width=one.width)
        # First and last layer are rounded to integers in the file.
        np.testing.assert_allclose(got, expected, atol=0.05)
        assert np.array_equal(session.at(bits=one.bits, width=one.width)(pixels), got)
    assert np.array_equal(session(pixels), session(pixels, bits=(4, 4), width=1.0))
    with pytest.raises(ModelError, match=r"has no width 0.6; it has 1, 0.75, 0.5"):
        session(pixels, width=0.6)


def test_a_session_of_one_setting_says_which_it_is(both):
    session = rsquant.runtime.load(both[1] / "both.rsq", threads=1, tune=False)
    narrow = session.at(width=0.5, bits=(2, 2))
    assert (narrow.widths, narrow.bits) == ((0.5,), ((2, 2),))
    assert "W2A2 (width 0.5)" in repr(narrow)
    pixels = np.zeros((1, 3, 32, 32), np.uint8)
    assert np.array_equal(narrow(pixels, width=0.5), narrow(pixels))
    with pytest.raises(ModelError, match=r"has no width 1.0; it has 0.5"):
        narrow(pixels, width=1.0)


def test_tensors_of_a_width_are_those_of_a_file_of_that_width_alone(both, tmp_path):
    network, folder = both
    packed = open_packed(folder / "both.rsq")
    for variant in network.variants:
        rsquant.pack(at_variant(network, variant), tmp_path / f"{variant}.rsq".replace("/", ""))
        alone = open_packed(tmp_path / f"{variant}.rsq".replace("/", ""))
        part = packed.settings[variant]
        assert part.plan.steps == alone.plan.steps
        assert part.plan.quantizers == alone.plan.quantizers
        last = f"{part.plan.steps[-1].name}."
        for name, tensor in alone.tensors.items():
            if not name.startswith(last):
                assert np.array_equal(part.tensors[name], tensor), name
        # The classifier is rounded once, by the largest weight of all channels: half a step.
        step = part.tensors[f"{last}scale"] + alone.tensors[f"{last}scale"]
        weights = [
            one.tensors[f"{last}weight"] * one.tensors[f"{last}scale"][:, None]
            for one in (part, alone)
        ]
        assert (np.abs(weights[0] - weights[1]) <= 0.5001 * step[:, None]).all()


def test_widths_add_tables_to_a_file_and_no_weights(both):
    _, folder = both
    tensors, metadata = read_packed(folder / "both.rsq")
    alone, _ = read_packed(folder / "alone.rsq")
    assert metadata["version"] == 7
    added = tensors.keys() - alone.keys()
    assert added and all(name.endswith(".norm") for name in added)
    for name in alone:
        assert tensors[name].shape == alone[name].shape
    shapes = {width: tensors[f"{width:g}/bn1.norm"].shape for width in WIDTHS[1:]}
    assert shapes == {0.75: (4, 4, 12), 0.5: (4, 4, 8)}


def test_info_tells_every_setting_and_counts_every_byte(both):
    network, folder = both
    told = report(open_packed(folder / "both.rsq"))
    assert sum(part.bytes for part in told.parts) == (folder / "both.rsq").stat().st_size
    tensors, _ = read_packed(folder / "both.rsq")
    tables = sum(array.nbytes for name, array in tensors.items() if name.endswith(".norm"))
    assert sum(setting.table_bytes for setting in told.settings) == tables
    channels = {"4/4": 128, "x0.75 4/4": 96, "x0.5 2/2": 64}
    assert channels.items() <= {one.name: one.channels for one in told.settings}.items()
    assert any(line.split()[:2] == ["x0.5", "2/2"] for line in lines(told))
    rows = {row.name: row for row in layer_rows(network)}
    assert rows["fc"].widths == {"1": (5, 128), "0.75": (5, 96), "0.5": (5, 64)}
    assert "x0.5" in layer_lines(network)[1]


def damage_version(metadata, tensors):
    metadata["version"] = 6


def damage_order(metadata, tensors):
    metadata["widths"].reverse()


def damage_whole(metadata, tensors):
    metadata["widths"][0]["width"] = 1.0


def damage_step(metadata, tensors):
    metadata["widths"][0]["channels"]["nowhere"] = {"in_channels": 1}


def damage_count(metadata, tensors):
    metadata["widths"][0]["channels"]["conv1"]["out_channels"] = 17


def damage_field(metadata, tensors):
    metadata["widths"][0]["channels"]["conv1"] = {"stride": 1}


def damage_groups(metadata, tensors):
    metadata["widths"][0]["channels"]["layer1.0.conv1"]["groups"] = 5


def damage_chain(metadata, tensors):
    metadata["widths"][0]["channels"]["conv1"]["out_channels"] = 11


def damage_table(metadata, tensors):
    del tensors["0.5/bn1.norm"]


def damage_surplus(metadata, tensors):
    tensors["0.25/bn1.norm"] = tensors["0.5/bn1.norm"]


def damage_weight(metadata, tensors):
    tensors["0.5/conv1.weight"] = tensors["0.5/bn1.norm"]


def damage_alike(metadata, tensors):
    metadata["widths"].append({**metadata["widths"][1], "width": 0.4999999995})


def damage_other_step(metadata, tensors):
    step = next(s["name"] for s in metadata["steps"] if s["op"] not in ("conv", "linear"))
    metadata["widths"][0]["channels"][step] = {"groups": 1}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_version, "'widths' are known from version 7"),
        (damage_order, "'widths' must be below 1 and descend"),
        (damage_whole, "'widths' must be below 1 and descend"),
        (damage_step, "width 0.75: there is no step 'nowhere'"),
        (damage_count, "width 0.75, step 'conv1': out_channels must be 1 to 16, got 17"),
        (damage_field, "width 0.75, step 'conv1': stride must be a number of its channels"),
        (damage_groups, "width 0.75, step 'layer1.0.conv1': groups must be 1 to 1, got 5"),
        (damage_chain, r"must be .* is float32 \(4, 2, 12\)|reads 11 channels"),
        (damage_table, "there is no tensor '0.5/bn1.norm'"),
        (damage_surplus, "tensor '0.25/bn1.norm' belongs to no step"),
        (damage_weight, "tensor '0.5/conv1.weight' belongs to no step"),
        (damage_alike, "'widths' must differ in their first six digits"),
        (damage_other_step, "groups must be a number of its channels"),
    ],
)
def test_a_damaged_file_is_refused(both, tmp_path, damage, message):
    tensors, metadata = read_packed(both[1] / "both.rsq")
    damage(metadata, tensors)
    write_packed(tmp_path / "bad.rsq", tensors, metadata)
    with pytest.raises(PackedFileError, match=message):
        open_packed(tmp_path / "bad.rsq")


@pytest.mark.parametrize("form", ["float", "codebook"])
def test_a_width_is_exported(trained, tmp_path, form):
    parity = rsquant.export_onnx(trained, tmp_path / "one.onnx", 32, form=form, width=0.5)
    assert parity.passed
