"""Networks at several settings of bits: in one piece, cut down, saved, packed and exported."""

import dataclasses

import numpy as np
import pytest
import torch
from shallow import RESNET10

import rsquant
from rsquant.data.transforms import normalise
from rsquant.errors import ConfigError, ModelError, PackedFileError
from rsquant.nn.parts import parts_of_a_batch
from rsquant.nn.variant import at_variant
from rsquant.packed.file import open_packed
from rsquant.packed.format import read_packed, write_packed
from rsquant.packed.variants import put_together, variants_of
from rsquant.packing.grid import on_grid
from rsquant.settings import Setting, Variant, of_all, row_names

PAIRS = ((4, 4), (2, 2), (1, 2))
TEXTS = ("2/2", "4/4", "1/2")


def images(size, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, size, size, generator=generator)


def made(**kwargs):
    torch.manual_seed(0)
    given = {"resolutions": (48, 32), "num_classes": 5, "width": 8, "bits": TEXTS, **kwargs}
    return rsquant.create(RESNET10, **given)


@pytest.fixture(scope="module")
def trained():
    """After steps that moved bases and the statistics of every row."""
    network = made().train()
    with torch.no_grad():
        for seed in range(3):
            network.forward_all([images(48, seed=seed), images(32, seed=seed)])
    return network.eval()


def test_every_size_has_a_row_at_every_pair_of_all(trained):
    assert trained.spec.bits == PAIRS
    assert (trained.spec.wbits, trained.spec.abits) == (4, 4)
    assert trained.resolutions == (48, 32)
    assert trained.settings == of_all((32, 48), TEXTS)
    assert row_names(trained.settings)[:2] == ["48_w4a4", "32_w4a4"]
    assert Setting(48, bits=(1, 2)) in trained.settings


@pytest.mark.parametrize("size", [48, 40, 32])
@pytest.mark.parametrize("bits", PAIRS)
def test_a_network_cut_down_to_a_setting_computes_the_same(trained, size, bits):
    cut = at_variant(trained, Variant(bits=bits))
    assert cut.spec.bits == () and (cut.spec.wbits, cut.spec.abits) == bits
    x = images(size)
    assert torch.equal(cut(x), trained(x, bits))
    with trained.at(size, bits):
        assert torch.equal(cut(x), trained(x))


def test_settings_differ_and_the_costliest_is_the_default(trained):
    x = images(32)
    found = [trained(x, bits) for bits in PAIRS]
    assert torch.equal(trained(x), found[0])
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])


def test_a_step_of_some_settings_moves_their_rows_alone():
    network = made().train()
    before = {n: b.clone() for n, b in network.named_buffers() if n.endswith("running_mean")}
    outputs = network.forward_all([images(48), images(32)], rows=[0, 4])
    assert len(outputs) == 2
    for name, table in network.named_buffers():
        if name in before:
            moved = (table != before[name]).any(1).tolist()
            assert [row for row, one in enumerate(moved) if one] == [0, 4]


def test_parts_of_a_batch_have_the_gradients_of_the_whole():
    gradients = []
    for parts in (1, 2):
        network = made().train()
        for norm in network.modules():  # which see a part each
            if type(norm).__name__ == "SwitchableBatchNorm2d":
                norm.eval()
        whole = [images(48, 4), images(32, 4)]
        with parts_of_a_batch(network, [0, 3]) as gathering:
            for part in zip(*(x.tensor_split(parts) for x in whole), strict=True):
                gathering.begin_part()
                sum(z.square().sum() for z in network.forward_all(part, [0, 3])).backward()
        gradients.append(network.body.layer2[0].conv1.weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


def test_it_is_saved_and_loaded(trained, tmp_path):
    rsquant.save(trained, tmp_path / "one.safetensors")
    loaded = rsquant.load(tmp_path / "one.safetensors")
    assert loaded.spec == trained.spec
    for bits in PAIRS:
        assert torch.equal(loaded(images(32), bits), trained(images(32), bits))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bits": "4/4"}, "bits: must be a sequence of pairs"),
        ({"bits": ("4/4", "4/4")}, "bits: must be different"),
        ({"bits": ("4/2", "2/4")}, "bits: the costliest .* add 4/4"),
        ({"bits": ("4/4", "32/32")}, "bits: those of several settings must be 1 to 4"),
        ({"bits": ("4/4", "two")}, "bits: each must be bits of weights / bits of activations"),
        ({"quantizer": "lsq"}, "bits: several settings .* which quantizer 'lsq' has not"),
        ({"integer": True}, "bits: .* cannot be combined with integer"),
        ({"layer_bits": {"layer4.*": (4, 4)}}, "bits: .* cannot be combined with layer_bits"),
        ({"resolutions": (32, 32)}, "resolutions: several paths at one size cannot be combined"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(given, message):
    with pytest.raises((ConfigError, ModelError), match=message) as caught:
        made(**given)
    assert "\n" not in str(caught.value)


def test_a_setting_that_is_not_there_is_refused(trained):
    with pytest.raises(ModelError, match="none has width 1 and bits 3/3"):
        trained(images(32), (3, 3))


@pytest.fixture(scope="module")
def packed(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "one.rsq"
    rsquant.pack(trained, path)
    return path


def test_a_file_computes_every_setting_as_the_network_on_its_grid(trained, packed):
    network = on_grid(trained, "coarse").network
    session = rsquant.runtime.load(packed, threads=1, tune=False)
    assert session.bits == PAIRS
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32), np.uint8)
    x = normalise(torch.from_numpy(pixels), network.spec.mean, network.spec.std)
    for bits in PAIRS:
        expected = network(x, bits).detach().numpy()
        # First and last layer are rounded to integers in the file.
        np.testing.assert_allclose(session(pixels, bits=bits), expected, atol=0.05)
        assert np.array_equal(session.at(bits=bits)(pixels), session(pixels, bits=bits))
    assert np.array_equal(session(pixels), session(pixels, bits=(4, 4)))
    with pytest.raises(ModelError, match=r"has no setting of \(3, 3\) bits; it has 4/4, 2/2, 1/2"):
        session(pixels, bits=(3, 3))


def test_planes_of_fewer_bits_are_a_prefix_and_are_the_codes(trained, packed):
    network = on_grid(trained, "coarse").network
    settings = open_packed(packed).settings
    most = settings[Variant(bits=(4, 4))].tensors
    for variant, one in settings.items():
        wbits = variant.bits[0]
        cut = at_variant(network, variant)
        for name, layer in cut.body.named_modules():
            if not hasattr(layer, "weight_quantizer") or layer.weight_quantizer is None:
                continue
            planes = one.tensors[f"{name}.weight"]
            assert np.array_equal(planes, most[f"{name}.weight"][:wbits])
            # Digit k of the file, read bit by bit, is the sign of vector k.
            taps = layer.weight[0].numel()
            bits = np.unpackbits(planes, axis=-1, bitorder="little")[..., :taps]
            codes = sum(bits[k].astype(int) << (wbits - 1 - k) for k in range(wbits))
            expected = layer.weight_quantizer.codes(layer.weight).permute(0, 2, 3, 1).flatten(1)
            assert np.array_equal(codes, expected.numpy())


def test_a_file_of_one_setting_is_as_it_was(tmp_path):
    torch.manual_seed(0)
    plain = rsquant.create(RESNET10, 2, 2, (48, 32), 5, width=8).eval()
    rsquant.pack(plain, tmp_path / "one.rsq")
    metadata = read_packed(tmp_path / "one.rsq")[1]
    assert metadata["version"] < 6 and "bits" not in metadata
    assert rsquant.runtime.load(tmp_path / "one.rsq", threads=1, tune=False).bits == ((2, 2),)


def damage_version(metadata, tensors):
    metadata["version"] = 5


def damage_order(metadata, tensors):
    metadata["bits"].reverse()


def damage_quantizers(metadata, tensors):
    metadata["bits"][0]["quantizers"].pop()


def damage_rows(metadata, tensors):
    name = next(name for name in tensors if name.endswith(".norm"))
    tensors[name] = tensors[name][:, 1:]


def damage_planes(metadata, tensors):
    name = next(name for name in tensors if name.endswith(".basis"))
    tensors[name] = tensors[name][:, :1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_version, "'bits' are known from version 6"),
        (damage_order, "bits: must be different, the costliest first"),
        (damage_quantizers, "bits 2/2: must have .* quantizers, has"),
        (damage_rows, "must have 6 rows"),
        (damage_planes, "without offset"),
    ],
)
def test_a_damaged_file_is_refused(packed, tmp_path, damage, message):
    tensors, metadata = read_packed(packed)
    damage(metadata, tensors)
    write_packed(tmp_path / "bad.rsq", tensors, metadata)
    with pytest.raises(PackedFileError, match=message):
        open_packed(tmp_path / "bad.rsq")


def test_settings_of_other_networks_are_not_put_together(packed):
    one = open_packed(packed)
    parts = {key: (part.plan, dict(part.tensors)) for key, part in one.settings.items()}
    plan, tensors = put_together(parts)
    assert variants_of(plan) == (*parts,)
    name = next(name for name in tensors if name.endswith(".scale"))
    most, two, one = parts
    parts[two][1][name] = parts[two][1][name] * 2
    with pytest.raises(ValueError, match=f"'{name}' at 2/2 bits is not part of the file's"):
        put_together(parts)
    other = dataclasses.replace(parts[one][0], steps=parts[one][0].steps[1:])
    with pytest.raises(ValueError, match="its steps at 1/2 bits"):
        put_together({most: parts[most], one: (other, {})})


@pytest.mark.parametrize("form", ["float", "codebook"])
def test_a_setting_is_exported(trained, tmp_path, form):
    parity = rsquant.export_onnx(trained, tmp_path / "one.onnx", 32, form=form, bits=(2, 2))
    assert parity.passed
