"""Layers whose weight torch computes are refused with the call that ends it, or packed right."""

import copy

import pytest
import torch
from tiny_network import SIZES, Tiny, batches, converted
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import rsquant
from rsquant import runtime
from rsquant.data.transforms import normalise
from rsquant.errors import ExportError, ModelError, PackError
from rsquant.nn.freeze import freeze
from rsquant.nn.reparametrized import bake_parametrizations
from rsquant.packing.grid import on_grid


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def doubled(layer, name="weight"):
    parametrize.register_parametrization(layer, name, Doubled())
    return layer


def conv(*more, **named):
    return nn.Conv2d(8, 8, 3, *more, padding=1, **named)


REMOVE = r"call torch\.nn\.utils\.{} on the layer before"
OLD = {
    "weight_norm": (weight_norm, "weight", r"remove_weight_norm\(layer, 'weight'\)"),
    "spectral_norm": (spectral_norm, "weight", r"remove_spectral_norm\(layer, 'weight'\)"),
    "pruning": (
        lambda m: prune.l1_unstructured(m, "weight", 0.5),
        "weight",
        r"prune\.remove\(layer, 'weight'\)",
    ),
    "pruning of several": (
        lambda m: prune.random_unstructured(prune.identity(m, "bias"), "bias", 0.5),
        "bias",
        r"prune\.remove\(layer, 'bias'\)",
    ),
}
NEW = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "Doubled": doubled,
}


@pytest.mark.parametrize("kind", OLD)
@pytest.mark.parametrize("keep", [None, ["middle"]])
def test_the_old_forms_are_refused_with_the_call_that_removes_them(kind, keep):
    put, parameter, removal = OLD[kind]
    line = f"^middle: its {parameter} is computed by {kind.split()[0]}; {REMOVE.format(removal)}"
    with pytest.raises(ModelError, match=line + r" rsquant\.convert$"):
        converted(put(conv()), keep=keep)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(8, 8),
        nn.BatchNorm2d(8),
        nn.ConvTranspose2d(8, 8, 3),
        nn.Sequential(conv()),
    ],
)
def test_so_are_they_on_layers_of_any_kind(layer):
    prune.l1_unstructured(layer[0] if isinstance(layer, nn.Sequential) else layer, "weight", 0.5)
    with pytest.raises(ModelError, match=r"^middle(\.0)?: its weight is computed by pruning; call"):
        converted(layer)


def test_one_line_says_how_many_layers_there_are():
    layers = nn.Sequential(weight_norm(conv()), prune.identity(conv(), "weight"), conv())
    line = r"^middle\.0: its weight \(and those of 1 more layer\) is"
    with pytest.raises(ModelError, match=line):
        converted(layers)


def test_what_the_line_says_to_call_is_enough():
    layer = prune.l1_unstructured(conv(), "weight", 0.5)
    prune.remove(layer, "weight")
    other = nn.utils.remove_weight_norm(weight_norm(conv()))
    third = parametrize.remove_parametrizations(parametrizations.weight_norm(conv()), "weight")
    model = converted(nn.Sequential(layer, other, third))
    assert model.conversion.quantized == ("middle.0", "middle.1", "middle.2")


@pytest.mark.parametrize("kind", NEW)
def test_a_parametrized_layer_is_refused_where_it_would_be_replaced(kind):
    call = REMOVE.format(r"parametrize\.remove_parametrizations\(layer, 'weight'\)")
    line = f"^middle: its weight is computed by the parametrization {kind}; {call} rsquant.convert"
    with pytest.raises(ModelError, match=f"{line}, or name it in keep to leave it in float32$"):
        converted(NEW[kind](conv()))
    assert converted(NEW[kind](conv()), keep=["middle"]).conversion.kept
    with pytest.raises(ModelError, match=r"^bn: its bias is .*'bias'\) on the layer before \S+$"):
        converted(norm=doubled(nn.BatchNorm2d(8), "bias"))


@pytest.mark.parametrize("kind", NEW)
def test_a_kept_parametrized_layer_is_frozen_and_exported_as_it_computes(kind, tmp_path):
    torch.manual_seed(0)
    model = converted(NEW[kind](conv()), keep=["stem", "middle", "fc"]).eval()
    x = batches()[0]
    with torch.no_grad():
        # Rounding of float32 in three layers.
        torch.testing.assert_close(freeze(model, 16)(x), model(x), rtol=0, atol=1e-5)
        assert rsquant.export_onnx(model, tmp_path / "a.onnx", 16, form="float").passed
        assert parametrize.is_parametrized(model.body.middle)
        model(x)


@pytest.mark.parametrize("where", ["stem", "middle", "fc"])
def test_a_layer_parametrized_after_the_conversion_packs_as_it_computes(where, tmp_path):
    torch.manual_seed(0)
    model = converted().eval()
    doubled(getattr(model.body, where))
    made = on_grid(model, "coarse").network
    plain = converted().eval()
    plain.load_state_dict(
        {
            name.replace("parametrizations.weight.original", "weight"): value
            for name, value in model.state_dict().items()
        }
    )
    with torch.no_grad():
        getattr(plain.body, where).weight.mul_(2)
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(
            made(normalise(pixels)), on_grid(plain, "coarse").network(normalise(pixels))
        )
    rsquant.pack(model, tmp_path / "a.rsq")
    rsquant.pack(plain, tmp_path / "b.rsq")
    assert (tmp_path / "a.rsq").read_bytes() == (tmp_path / "b.rsq").read_bytes()
    assert runtime.load(tmp_path / "a.rsq", threads=1, tune=False)(pixels.numpy()).shape == (2, 3)


def test_baking_a_copy_leaves_the_original_parametrized():
    layer = doubled(conv())
    value = layer.weight.detach().clone()
    other = copy.deepcopy(layer)
    bake_parametrizations(other)
    assert type(other) is nn.Conv2d and torch.equal(other.weight, value)
    assert torch.equal(layer.weight, value) and parametrize.is_parametrized(layer)


@pytest.mark.parametrize("where", ["stem", "middle"])
@pytest.mark.parametrize("kind", OLD)
def test_hooks_that_came_after_the_conversion_are_refused_where_weights_are_read(
    kind, where, tmp_path
):
    put, parameter, removal = OLD[kind]
    line = f"^{where}: its {parameter} is computed by .*{removal} on the layer before"
    model = converted()
    put(getattr(model.body, where))
    model(batches()[0])
    with pytest.raises(ModelError, match=line):
        freeze(model, 16)
    with pytest.raises(PackError, match=line):
        rsquant.pack(model, tmp_path / "a.rsq")
    with pytest.raises((ModelError, ExportError), match=line):
        rsquant.export_onnx(model, tmp_path / "a.onnx", 16)
    if where == "middle":
        # The weights held for all sizes would be those before the hook's next run.
        with pytest.raises(ModelError, match=line):
            model.forward_all(batches())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["weight_norm", "pruning"])
def test_a_head_with_a_hook_is_given_no_other_classes(kind):
    put, parameter, removal = OLD[kind]
    model = converted()
    put(model.body.fc)
    line = f"^fc: its {parameter} is computed by {kind}; .*{removal} .* before reset_classifier"
    with pytest.raises(ModelError, match=line):
        model.reset_classifier(5)


def test_a_network_with_a_hook_is_saved_and_loads_into_its_like(tmp_path):
    def make():
        model = converted()
        weight_norm(model.body.middle)
        return model.eval()

    model, x = make(), batches()[0]
    rsquant.save(model, tmp_path / "a.safetensors")
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(rsquant.load(tmp_path / "a.safetensors", into=make())(x), expected)


def test_a_weight_computed_in_another_way_is_refused():
    layer = conv()
    layer.extra = nn.Parameter(torch.ones(1))
    with pytest.raises(ModelError, match="middle: its weight is computed from extra, which"):
        rsquant.convert(Tiny(layer), 2, 2, SIZES)
