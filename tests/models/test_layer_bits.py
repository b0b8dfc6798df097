"""Networks whose layers have bits and quantizers of their own, wherever they go."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from shallow import RESNET10, RESNET14
from small_runs import CONFIG, Silent, train
from tiny_network import Tiny, batches
from torch import nn

import rsquant
from rsquant import runs, runtime
from rsquant.bench.engines.choice import cpu_engines, unfitting
from rsquant.errors import CheckpointError, ConfigError, PackError
from rsquant.evaluate.complexity import madds
from rsquant.models.tensor_file import write_tensors
from rsquant.nn.freeze import ActivationLevels, freeze
from rsquant.packed.file import open_packed
from rsquant.packing.obstacle import obstacle
from rsquant.quantizers import ActivationQuantizer, Quantizer
from rsquant.report.layers import layer_lines, layer_rows
from rsquant.train import training

pytestmark = pytest.mark.usefixtures("one_start")

SIZES = (32, 24)
BITS = {"layer4.*": (4, 4), "layer2.*": (None, 3), "layer1.0.conv2": (1, 1)}
KINDS = {"layer3.*": "uniform"}


def create(arch=RESNET10, bits=2, layer_bits=BITS, layer_quantizer=None, **options):
    torch.manual_seed(0)
    return rsquant.create(
        arch,
        bits,
        bits,
        SIZES,
        3,
        width=4,
        layer_bits=layer_bits,
        layer_quantizer=layer_quantizer,
        **options,
    )


@pytest.fixture(scope="module")
def mixed():
    """A step after its start, in evaluation mode."""
    model = create(layer_quantizer=KINDS, grid="coarse").train()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(8, 3, size, size, generator=generator) for size in SIZES]
    sum(z.logsumexp(1).mean() - z[:, 0].mean() for z in model.forward_all(images)).backward()
    optimizer.step()
    return model.eval()


def bits_of(model):
    return {row.name: (row.wbits, row.abits, row.quantizer) for row in layer_rows(model)}


def test_layers_have_the_bits_and_quantizers_of_their_patterns(mixed):
    found = bits_of(mixed)
    assert found["conv1"] == found["fc"] == (32, 32, "")
    assert found["layer1.0.conv1"] == (2, 2, "lq")
    assert found["layer1.0.conv2"] == (1, 1, "lq")
    assert found["layer2.0.conv1"] == found["layer2.0.shortcut.0"] == (2, 3, "lq")
    assert found["layer3.0.conv2"] == (2, 2, "uniform")
    assert found["layer4.0.conv1"] == found["layer4.0.conv2"] == (4, 4, "lq")


def test_they_quantize_to_that_many_levels(mixed):
    layers = dict(mixed.body.named_modules())
    weight = layers["layer1.0.conv2"].quantized_weight()
    assert {len(row.unique()) for row in weight} == {2}
    weight = layers["layer4.0.conv2"].quantized_weight()
    assert 4 < max(len(row.unique()) for row in weight) <= 16
    quantizer = layers["layer1.1.2"]  # read by layer2
    assert len(quantizer(torch.linspace(0, 9, 500)).unique()) == 8


@pytest.mark.parametrize("arch", [RESNET10, RESNET14])
@pytest.mark.parametrize("block", ["preact", "preact-bare"])
def test_every_quantized_convolution_reads_as_many_bits_as_it_has(arch, block):
    model = create(arch, layer_bits={"layer[24].*": (3, 3)}, block=block)
    inputs = model.body.input_quantizers
    modules = dict(model.body.named_modules())
    seen = {}

    def note(quantizer, args, output):
        # A view of what it gives is what the layers read.
        seen[output.data_ptr()] = quantizer.bits

    def compare(name):
        def hook(layer, args):
            if name in inputs:
                assert seen[args[0].data_ptr()] == modules[inputs[name]].bits
                assert modules[inputs[name]].bits == layer.weight_quantizer.bits
                checked.append(name)

        return hook

    checked = []
    for name, module in modules.items():
        if isinstance(module, ActivationQuantizer):
            module.register_forward_hook(note)
        elif isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(compare(name))
    with torch.no_grad():
        model.eval()(torch.randn(2, 3, 32, 32))
    assert sorted(checked) == sorted(inputs) and len(checked) >= 8


def test_activations_in_float32_leave_their_quantizer_out():
    model = create(layer_bits={"layer3.*": (2, 32)})
    assert isinstance(model.body.get_submodule("layer2.1.2"), nn.Identity)
    assert bits_of(model)["layer3.0.shortcut.0"] == (2, 32, "lq")


def test_a_float_network_may_have_low_bit_layers():
    model = create(bits=32, layer_bits={"layer3.*": (2, 2)})
    found = bits_of(model)
    assert found["layer3.0.conv1"] == (2, 2, "lq") and found["layer2.0.conv1"] == (32, 32, "")
    assert model.spec.block == "post" and model.spec.low_bit
    assert not create(bits=32, layer_bits=None).spec.low_bit


@pytest.mark.parametrize("arch", [RESNET10, RESNET14])
def test_two_readers_of_one_quantizer_that_differ_are_named(arch):
    with pytest.raises(ConfigError, match=r"layer2\.0\.conv1 and layer2\.0\.shortcut\.0 share"):
        create(arch, layer_bits={"*.shortcut.*": (2, 4)}, layer_quantizer=None)
    model = create(arch, layer_bits={"layer3.1.2": "/4"})
    assert bits_of(model)["layer4.0.conv1"][1] == bits_of(model)["layer4.0.shortcut.0"][1] == 4


def test_checkpoints_bring_it_back(mixed, tmp_path):
    path = tmp_path / "a.safetensors"
    rsquant.save(mixed, path)
    again = rsquant.load(path)
    assert again.spec == mixed.spec and bits_of(again) == bits_of(mixed)
    x = torch.randn(2, 3, 28, 28)
    assert torch.equal(again(x), mixed(x))
    with pytest.raises(CheckpointError, match=r"layer1.0.act2.2 has bits 1, .* given 2"):
        rsquant.load(path, into=create(layer_bits=None, grid="coarse"))


def rewritten(path, change):
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
    (metadata,) = metadata.values()
    change(metadata["model"])
    write_tensors(path, tensors, metadata)


@pytest.mark.parametrize(
    "field,value,message",
    [
        ("layer_bits", [{"pattern": "a", "wbits": 9, "abits": 2}], "layer_bits 0: bits must be"),
        ("layer_bits", [{"pattern": "a", "wbits": None, "abits": None}], "bits must be 1 to 4"),
        ("layer_bits", {"a": "4/4"}, "'layer_bits' must be a list"),
        ("layer_bits", [{"pattern": "zz", "wbits": 4, "abits": 4}], "'zz' matches no layer"),
        ("layer_quantizer", [{"pattern": "*", "quantizer": "unifrom"}], "did you mean 'uniform'"),
        ("layer_quantizer", [{"pattern": "*"}], "layer_quantizer 0: lacks 'quantizer'|quantizer"),
        ("quantizer", "unifrom", "did you mean 'uniform'"),
    ],
)
def test_a_checkpoint_with_other_patterns_is_refused_by_name(
    mixed, tmp_path, field, value, message
):
    path = tmp_path / "a.safetensors"
    rsquant.save(mixed, path)
    rewritten(path, lambda model: model.update({field: value}))
    with pytest.raises(CheckpointError, match=message):
        rsquant.load(path)


def test_a_checkpoint_of_before_patterns_reads(tmp_path):
    path = tmp_path / "a.safetensors"
    rsquant.save(create(layer_bits=None), path)
    rewritten(path, lambda model: [model.pop(name) for name in ("layer_bits", "layer_quantizer")])
    assert rsquant.load(path).spec.layer_bits == ()


def test_a_packed_file_has_the_bits_of_each_layer(mixed, tmp_path):
    path = tmp_path / "a.rsq"
    rsquant.pack(mixed, path)
    packed = open_packed(path)
    assert sorted({q.bits for q in packed.plan.quantizers}) == [1, 2, 3, 4]
    # That it computes the same is tests/packing's to say.
    net = runtime.load(path, threads=1, tune=False)
    assert np.isfinite(net(np.zeros((1, 3, 32, 32), np.uint8))).all()


def test_float_weights_inside_are_refused_by_layer(tmp_path):
    model = create(layer_bits={"layer3.0.conv1": (32, 2)}).eval()
    with pytest.raises(PackError, match=r"layer3\.0\.conv1: has float32 weights in the middle"):
        rsquant.pack(model, tmp_path / "a.rsq")


def test_float_activations_inside_pack(tmp_path):
    model = create(layer_bits={"layer3.0.conv2": (2, 32)}).eval()
    rsquant.pack(model, tmp_path / "a.rsq")
    assert runtime.load(tmp_path / "a.rsq", threads=1, tune=False)(
        np.zeros((1, 3, 32, 32), np.uint8)
    ).shape == (1, 3)


@pytest.mark.parametrize("form", ["codebook", "int8", "float"])
@pytest.mark.parametrize("compat", [False, True])
def test_every_onnx_form_passes_its_parity(mixed, form, compat, tmp_path):
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    parity = rsquant.export_onnx(
        mixed, tmp_path / "a.onnx", resolution=32, images=images, form=form, compat=compat
    )
    assert parity.passed and parity.wrong_codes == 0


def test_the_float_peer_has_no_quantizer_and_the_frozen_network_has_them(mixed):
    peer = freeze(mixed, 32, activation=False)
    assert not any(isinstance(m, (Quantizer, ActivationLevels)) for m in peer.modules())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(freeze(mixed, 32)(x), mixed(x), rtol=1e-5, atol=1e-6)


def test_multiply_adds_do_not_depend_on_bits(mixed):
    assert madds(mixed, 32) == madds(create(layer_bits=None), 32)


def test_the_list_of_layers_has_sizes_and_the_quantizers_they_read(mixed):
    rows = {row.name: row for row in layer_rows(mixed)}
    assert rows["layer4.0.conv2"].weight_bytes == 32 * 32 * 9 * 4 // 8
    assert rows["conv1"].weight_bytes == 4 * 3 * 9 * 4
    assert rows["layer2.0.shortcut.0"].input_quantizer == "layer1.1.2"
    lines = layer_lines(mixed)
    assert "layer4.*=4/4, layer2.*=/3" in lines[0]
    assert len(lines) == len(rows) + 3


@pytest.mark.usefixtures("default_signals")
def test_training_resumes_to_the_same_bits(tmp_path):
    model = dataclasses.replace(
        CONFIG.model, layer_bits={"layer4.*": "4/4"}, layer_quantizer={"layer2.*": "lsq"}
    )
    config = dataclasses.replace(
        CONFIG, model=model, train=dataclasses.replace(CONFIG.train, epochs=1)
    )
    train(tmp_path, "whole", config=config)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "cut", stop_after=3, config=config)
    training.resume(tmp_path / "cut", Silent(), lambda line: None)
    whole, cut = (rsquant.load(tmp_path / n / runs.LAST).state_dict() for n in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


@pytest.mark.parametrize(
    "layer_bits,expected",
    [(BITS, True), ({"fc": "32/32"}, True), ({"layer3.*": "32/2"}, False)],
)
def test_a_benchmark_leaves_packed_engines_out_where_weights_inside_are_float(layer_bits, expected):
    network = create(layer_bits=layer_bits)
    assert (obstacle(network) == "") == expected
    refused = unfitting(network, cpu_engines())
    assert ("packed" not in refused) == expected and "ort_codebook" not in refused


def test_a_new_classifier_keeps_the_bits_it_had():
    model = convert(keep=["stem"], layer_bits={"fc": (4, 3)})
    model.reset_classifier(5)
    assert bits_of(model)["fc"] == (4, 3, "lq")


def test_a_layer_under_two_names_is_matched_by_its_first():
    network = Tiny()
    network.again = network.middle
    model = rsquant.convert(network, 2, 2, (16, 12), layer_bits={"middle": (4, 4)})
    assert bits_of(model)["middle"] == (4, 4, "lq") and model.body.again is model.body.middle
    with pytest.raises(ConfigError, match="'again' matches no layer"):
        rsquant.convert(network, 2, 2, (16, 12), layer_bits={"again": (4, 4)})


def convert(**options):
    torch.manual_seed(0)
    return rsquant.convert(Tiny(), 2, 2, (16, 12), **options)


def test_a_converted_network_takes_patterns_and_reports_them():
    model = convert(layer_bits={"middle": (4, 3)}, layer_quantizer={"mid*": "lsq"})
    assert bits_of(model)["middle"] == (4, 3, "lsq")
    assert model.conversion.others == {"middle": "W4A3 lsq"}
    assert "middle (W4A3 lsq)" in model.conversion.summary()
    sum(z.sum() for z in model.train().forward_all(batches())).backward()
    assert model.body.middle.weight.grad.any()


def test_a_layer_that_a_pattern_leaves_in_float32_is_kept():
    model = rsquant.convert(Tiny(), 2, 2, (16, 12), keep=["stem"], layer_bits={"fc": (32, 32)})
    assert bits_of(model)["fc"] == (32, 32, "") and bits_of(model)["middle"] == (2, 2, "lq")
    assert model.conversion.kept == {"stem": "named in keep", "fc": "32 bits"}


def test_a_kept_layer_is_no_pattern_s_to_quantize():
    with pytest.raises(ConfigError, match=r"'fc=4/4' matches only .* \(fc: head\)"):
        convert(layer_bits={"fc": (4, 4)})
    model = convert(keep=["stem"], layer_bits={"fc": (4, 4)})
    assert bits_of(model)["fc"] == (4, 4, "lq")


def test_a_converted_checkpoint_loads_into_the_same_network_only(tmp_path):
    path = tmp_path / "a.safetensors"
    rsquant.save(convert(layer_bits={"middle": (4, 3)}), path)
    again = rsquant.load(path, into=convert(layer_bits={"mid*": (4, 3)}))
    assert again.spec.layer_bits[0].pattern == "middle"
    with pytest.raises(CheckpointError, match=r"middle\.weight_quantizer has bits 4, .* given 2"):
        rsquant.load(path, into=convert())


def test_torchvision_s_networks_take_patterns():
    model = rsquant.create(
        "torchvision:shufflenet_v2_x0_5", 2, 2, (64,), 3, layer_bits={"stage4.*": "4/4"}
    )
    found = bits_of(model)
    assert found["stage4.0.branch1.0"][:2] == (4, 4) and found["stage3.0.branch1.0"][:2] == (2, 2)


def test_files_of_mixed_networks_have_names_of_their_own(mixed):
    assert mixed.spec.file_stem == f"{RESNET10}_w2a2_mixed"
    plain = dataclasses.replace(mixed.spec, layer_bits=(), layer_quantizer=())
    assert plain.file_stem == f"{RESNET10}_w2a2"
