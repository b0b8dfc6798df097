"""Packed networks of every kind of quantizer that has an integer form."""

import dataclasses
import itertools
from pathlib import Path

import narrow
import numpy as np
import pytest
import third_party
import tiny_network
import torch
from shallow import RESNET10
from torch import nn

import rsquant
from rsquant import quantizers
from rsquant.errors import PackError
from rsquant.packed.file import open_packed
from rsquant.packing.activations import quantizer_spec, without_offset
from rsquant.packing.grid import on_grid
from rsquant.packing.write import lowered_network
from rsquant.quantizers import IntegerForm

UNIFORM = quantizers.kind("uniform")
LQ = quantizers.kind("lq")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """register(name, weights, activations), for one test."""
    monkeypatch.setattr(quantizers.registry, "_KINDS", dict(quantizers.registry._KINDS))
    return quantizers.register


def tiny(vary, name, wbits=2, abits=2, middle=None):
    torch.manual_seed(0)
    body = tiny_network.Tiny(middle)
    return vary(rsquant.convert(body, wbits, abits, tiny_network.SIZES, quantizer=name))


def packed_as_it_was_trained(compare, pixels, model, size=16):
    """Its levels are on every grid already: the packed program has its codes and logits."""
    moved = on_grid(model, "fine")
    assert moved.weights.error == moved.activations.error == moved.weights.merged == 0
    x = torch.randn(2, 3, size, size)
    assert torch.equal(moved.network(x), model(x))
    compare(moved.network, pixels(2, size, size))


@pytest.mark.parametrize("name", ["uniform", "lsq"])
@pytest.mark.parametrize("bits", [(2, 2), (1, 3), (3, 1), (4, 4)])
def test_networks_on_integers_pack_as_they_were_trained(compare, pixels, vary, name, bits):
    if name == "lsq" and bits[0] == 1:
        bits = (2, 4)
    packed_as_it_was_trained(compare, pixels, tiny(vary, name, *bits))


@pytest.mark.parametrize("name", ["uniform", "lsq"])
def test_signed_activations_pack(compare, pixels, vary, name):
    torch.manual_seed(0)
    body = narrow.mobilenet_v2(3, 0.1)
    model = vary(rsquant.convert(body, 2, 2, (32,), quantizer=name))
    assert any(getattr(m, "signed", False) for m in model.modules())
    compare(on_grid(model, "coarse").network, pixels(1, 32, 32))


@pytest.mark.parametrize("name", ["brevitas-default", "brevitas-learned", "brevitas-mse"])
@pytest.mark.parametrize("bits", [(2, 2), (3, 1), (4, 4)])
def test_brevitas_networks_pack_as_they_were_trained(compare, pixels, vary, name, bits):
    pytest.importorskip("brevitas")
    torch.manual_seed(0)
    model = vary(rsquant.create(RESNET10, *bits, (32, 24), 3, width=4, quantizer=name))
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
            RESNET10,
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


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("signed", [False, True])
def test_thresholds_apart_from_levels_pack(compare, pixels, vary, registered, bits, signed):
    registered(
        "edged",
        third_party.AffineWeights,
        lambda bits, _, grid: third_party.EdgedActivations(bits, signed, grid),
    )
    packed_as_it_was_trained(compare, pixels, tiny(vary, "edged", bits, bits))


def test_three_levels_of_two_bits_pack(compare, pixels, vary, registered):
    registered("ternary", third_party.TernaryWeights, UNIFORM.activations)
    packed_as_it_was_trained(compare, pixels, tiny(vary, "ternary"))


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_an_offset_in_a_convolution_with_groups(compare, pixels, vary, registered, groups):
    registered("affine", third_party.AffineWeights, UNIFORM.activations)
    middle = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=groups)
    packed_as_it_was_trained(compare, pixels, tiny(vary, "affine", 2, 2, middle))


def test_activations_without_a_level_of_zero_pack(compare, pixels, vary, registered):
    """Binary networks: the padding is 0 there, too, between the levels."""
    registered("sign", LQ.weights, third_party.SignActivations)
    model = tiny(vary, "sign", 1, 1)
    moved = on_grid(model, "fine").network
    plan = lowered_network(moved, "x.rsq")[0].plan
    assert plan.quantizers[0].levels.tolist() == [-1, 0, 1, 2]
    compare(moved, pixels(2, 16, 16))


@pytest.mark.parametrize(
    "name,version", [("lq", 2), ("uniform", 2), ("ternary", 2), ("lsq", 4), ("affine", 4)]
)
def test_only_files_that_need_it_have_the_new_version(vary, registered, tmp_path, name, version):
    registered("ternary", third_party.TernaryWeights, UNIFORM.activations)
    registered("affine", third_party.AffineWeights, UNIFORM.activations)
    rsquant.pack(tiny(vary, name), tmp_path / "a.rsq")
    packed = open_packed(tmp_path / "a.rsq")
    assert packed.plan.format_version == version
    assert any(tensor.endswith(".offset") for tensor in packed.tensors) == (version == 4)
    assert all(quantizer.own_thresholds is None for quantizer in packed.plan.quantizers)


def formed(basis, offset, patterns=None):
    """A kind of weight quantizer with these integers in every channel."""

    class Formed(third_party.AffineWeights):
        def __init__(self, out_channels, bits, grid=None):
            super().__init__(out_channels, bits, grid)
            self.scale.fill_(0.1)

        def start_from(self, weight):
            pass

        def on_grid(self):
            rows, digits = len(self.scale), torch.arange(2 ** len(basis))
            sums = sum(b * (digits >> k & 1) for k, b in enumerate(basis))
            order = sums.argsort(stable=True) if patterns is None else torch.tensor(patterns)
            return IntegerForm(
                torch.tensor(basis).expand(rows, -1),
                torch.full((rows,), offset),
                self.scale,
                order.expand(rows, -1),
            )

    return Formed


@pytest.mark.parametrize(
    "basis,offset,stored",
    [
        ((2, 4), -3, (1, 2)),  # halved
        ((1, 2), -2, None),
        ((1, -1), 0, (1, -1)),  # odd: twice the levels, half the scale
        ((100, 27), 0, None),
        ((99, -99), 0, None),  # twice the levels would not fit
        ((254,), -127, (127,)),
        ((253,), -127, None),  # more than a byte
    ],
)
def test_every_integer_form_packs(compare, pixels, vary, registered, basis, offset, stored):
    registered("formed", formed(basis, offset), UNIFORM.activations)
    moved = on_grid(tiny(vary, "formed", len(basis)), "fine").network
    packed = lowered_network(moved, "x.rsq")[0]
    if stored is None:
        np.testing.assert_array_equal(packed.tensors["middle.basis"], [basis] * 8)
        np.testing.assert_array_equal(packed.tensors["middle.offset"], [offset] * 8)
    else:
        np.testing.assert_array_equal(packed.tensors["middle.basis"], [stored] * 8)
        assert "middle.offset" not in packed.tensors
    compare(moved, pixels(2, 16, 16))


def test_levels_that_do_not_fit_are_named(vary, registered):
    registered("wide", formed((100, 50), -20), UNIFORM.activations)
    with pytest.raises(
        PackError, match="middle: its weights have integer levels up to 130, at most"
    ):
        rsquant.pack(tiny(vary, "wide"), "x.rsq")


def test_an_integer_form_with_other_levels_is_named(vary, registered):
    class Wrong(third_party.TernaryWeights):
        def on_grid(self):
            form = super().on_grid()
            return IntegerForm(form.basis, form.offset + 1, form.scale, form.patterns)

    registered("wrong", Wrong, UNIFORM.activations)
    message = r"the quantizer 'wrong': on_grid must give its levels, .* it gives 0, .*levels are -"
    with pytest.raises(PackError, match=message):
        rsquant.pack(tiny(vary, "wrong"), "x.rsq")


@pytest.mark.parametrize(
    "change,message",
    [
        (
            lambda form: {"basis": form.basis * 1.0},
            "basis and offset as integers, got torch.float32",
        ),
        (lambda form: {"scale": -form.scale}, "a scale that is not negative"),
        (
            lambda form: {name: getattr(form, name)[0] for name in vars(form)},
            r"levels of shape \(8, 3\), got \(3,\)",
        ),
    ],
)
def test_what_is_wrong_with_an_integer_form_is_named(vary, registered, change, message):
    class Wrong(third_party.TernaryWeights):
        def on_grid(self):
            form = super().on_grid()
            return dataclasses.replace(form, **change(form))

    registered("wrong", Wrong, UNIFORM.activations)
    with pytest.raises(PackError, match=f"the quantizer 'wrong': on_grid must give .*{message}"):
        rsquant.pack(tiny(vary, "wrong"), "x.rsq")


def test_an_integer_form_that_falls_is_named(vary, registered):
    registered("falling", formed((1, 2), -1, (3, 2, 1, 0)), UNIFORM.activations)
    with pytest.raises(PackError, match=r"the quantizer 'falling': on_grid .* lowest first"):
        rsquant.pack(tiny(vary, "falling"), "x.rsq")


@pytest.mark.parametrize("edges", [(0.5, 0.4, 2.5), (0.5, 1.5, float("nan")), (0.5, 1.5)])
def test_thresholds_that_are_none_are_named(vary, registered, edges):
    model = tiny(vary, "uniform")
    quantizer = model.body.middle.input_quantizer
    quantizer.thresholds = lambda: torch.tensor(edges)
    message = (
        "middle.input_quantizer: a quantizer of 4 levels needs 3 ascending thresholds, got 0.5"
    )
    with pytest.raises(PackError, match=message):
        rsquant.pack(model, "x.rsq")


def test_a_padding_in_front_of_a_quantizer_that_moves_zero_is_an_operation(
    vary, registered, compare, pixels
):
    registered("sign", LQ.weights, third_party.SignActivations)
    middle = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(8, 8, 3))
    network = on_grid(tiny(vary, "sign", 1, 1, middle), "coarse").network
    compare(network, pixels(2, 24, 24))
    packed, _ = lowered_network(network, Path("x.rsq"))
    assert "pad" in {step.OP for step in packed.plan.steps}


def sums_of(basis, offset=0):
    return {offset + sum(part) for part in itertools.product(*((0, q) for q in basis))}


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_a_basis_takes_up_any_offset(bits):
    rng = np.random.default_rng(bits)
    for _ in range(200):
        basis, offset = rng.integers(-9, 10, bits).tolist(), int(rng.integers(-12, 13))
        found = without_offset(basis, offset)
        assert sums_of(basis, offset) <= sums_of(found)
        if 0 in sums_of(basis, offset):
            assert len(found) == bits  # by turning digits alone
    assert without_offset((1, 2), 0) == (1, 2)
    assert without_offset((1, 2), -2) == (1, -2)


def test_four_bits_without_zero_are_named():
    class Halves(third_party.EdgedActivations):
        def levels(self):
            return self.step * (2 * torch.arange(16) - 15)

        thresholds = quantizers.Quantizer.thresholds

        def on_grid(self):
            basis, patterns = 2 * 2 ** torch.arange(4), torch.arange(16)
            return IntegerForm(basis, torch.tensor(-15), self.step, patterns)

    with pytest.raises(PackError, match=r"a\.act: its levels -15, -13, .* do not include 0"):
        quantizer_spec("a.act", Halves(4))
