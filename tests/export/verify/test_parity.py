"""Parity has teeth: everything that is wrong fails, and a flipped code at a threshold does not."""

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from rsquant.errors import ExportError
from rsquant.export.forms import make as make_form
from rsquant.export.verify.parity import check_parity
from rsquant.export.verify.trace import Trace
from rsquant.nn import SwitchableBatchNorm2d
from rsquant.quantizers.lq import LQActivationQuantizer

SIZE = 48


@pytest.fixture(scope="module", params=[(2, 32), (2, 2), (4, 4)], ids=["w2a32", "w2a2", "w4a4"])
def network(request, make):
    return make("resnet10", *request.param)


def write(network, path, size):
    path.write_bytes(make_form(network, size, "float").proto.SerializeToString())


def parity_of(wrong, right, tmp_path, size=SIZE):
    write(wrong, tmp_path / "n.onnx", size)
    return check_parity(right, tmp_path / "n.onnx", SIZE)


def norms(network):
    return [m for m in network.modules() if isinstance(m, SwitchableBatchNorm2d)]


def test_the_right_file_passes(network, tmp_path):
    assert parity_of(network, network, tmp_path).passed


@pytest.mark.parametrize("where", [0, 7, -1])
def test_one_channel_of_one_batchnorm_off_by_a_percent_fails(network, tmp_path, where):
    wrong = copy.deepcopy(network)
    with torch.no_grad():
        norms(wrong)[where].weight[1, 3] *= 1.01
    parity = parity_of(wrong, network, tmp_path)
    assert not parity.passed and parity.failure


def rounding(network, images):
    """Make logits small differences of large sums, where rounding is more than 1e-6 of them."""
    features = []
    handle = network.body.fc.register_forward_pre_hook(lambda _, x: features.append(x[0]))
    with torch.no_grad(), network.at(SIZE):
        network(images)
        handle.remove()
        mean = features[0].mean(0)
        weight = network.body.fc.weight
        network.body.fc.bias.zero_()
        weight -= 0.995 * torch.outer(weight @ mean, mean) / (mean @ mean)
    return network


@pytest.mark.parametrize("off", [1, 1.01])
def test_a_float_network_may_round_as_it_does_itself_and_no_more(make, tmp_path, off):
    images = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    images = images[:1] + 0.01 * images  # much alike, as their features are
    network = rounding(make("resnet18", 2, 32), images)
    wrong = copy.deepcopy(network)
    with torch.no_grad():
        norms(wrong)[7].weight[1, 3] *= off
    write(wrong, tmp_path / "n.onnx", SIZE)
    parity = check_parity(network, tmp_path / "n.onnx", SIZE, images)
    if off == 1:
        assert parity.passed, parity.failure
        assert 1e-5 < parity.max_rel_error < 4e-5  # else this network shows nothing
    else:
        assert not parity.passed


def test_the_batchnorms_of_another_size_fail(network, tmp_path):
    wrong = copy.deepcopy(network)
    with torch.no_grad():
        for norm in norms(wrong):
            norm.running_mean[1] = norm.running_mean[2]
    assert not parity_of(wrong, network, tmp_path).passed


@pytest.mark.parametrize("layer", ["conv1", "layer3.1.conv2", "fc"])
def test_one_changed_weight_fails(make, tmp_path, layer):
    network = make("resnet18", 32, 2)
    wrong = copy.deepcopy(network)
    with torch.no_grad():
        wrong.body.get_submodule(layer).weight.view(-1)[0] += 0.05
    assert not parity_of(wrong, network, tmp_path).passed


def test_a_moved_level_and_a_moved_threshold_fail(make, tmp_path):
    network = make()
    quantizers = [m for m in network.modules() if isinstance(m, LQActivationQuantizer)]
    wrong = copy.deepcopy(network)
    list(m for m in wrong.modules() if isinstance(m, LQActivationQuantizer))[4].basis[0] *= 1.01
    assert not parity_of(wrong, network, tmp_path).passed
    # A threshold alone: in the file, where it is a number of its own.
    write(network, tmp_path / "n.onnx", SIZE)
    model = onnx.load(tmp_path / "n.onnx")
    step = np.float32(quantizers[4].levels().diff()[0] / 2 + quantizers[4].levels()[0])
    scalars = [t for t in model.graph.initializer if t.dims == [] or list(t.dims) == [1]]
    moved = 0
    for node in model.graph.node:
        if node.op_type == "Constant":
            value = node.attribute[0].t
            if value.data_type == 1 and numpy_helper.to_array(value).size == 1:
                scalars.append(value)
    for tensor in scalars:
        if tensor.data_type == 1 and np.isclose(numpy_helper.to_array(tensor), step).all():
            changed = numpy_helper.to_array(tensor) * np.float32(1.005)
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
            moved += 1
    assert moved
    onnx.save(model, tmp_path / "n.onnx")
    parity = check_parity(network, tmp_path / "n.onnx", SIZE)
    assert not parity.passed and "activation levels are wrong" in parity.failure


def test_one_threshold_of_a_codebook_file_off_by_a_thousandth_fails(make, tmp_path):
    # No image needs to come near it: constants are compared bit for bit.
    network, path = make("resnet18", 3, 3), tmp_path / "n.onnx"
    made = make_form(network, SIZE, "codebook")
    path.write_bytes(made.proto.SerializeToString())
    image = torch.zeros(1, 3, SIZE, SIZE)
    assert check_parity(network, path, SIZE, image, made).passed
    greater = [node for node in made.proto.graph.node if node.op_type == "Greater"]
    assert len(greater) == 16 * 7
    stored = {t.name: t for t in made.proto.graph.initializer}
    # Fresh quantizers share their thresholds: this one gets one of its own.
    value = numpy_helper.to_array(stored[greater[50].input[1]])
    moved = numpy_helper.from_array((value * np.float32(1.001)).astype(np.float32), "moved")
    made.proto.graph.initializer.append(moved)
    greater[50].input[1] = "moved"
    path.write_bytes(made.proto.SerializeToString())
    parity = check_parity(network, path, SIZE, image, made)
    assert not parity.passed
    assert parity.failure.startswith("1 constants or activation levels are wrong, first the thresh")


def test_a_file_of_another_network_or_size_is_refused(make, tmp_path):
    with pytest.raises(ExportError, match="the file has 0 quantized activations, fewer"):
        parity_of(make("resnet10", 2, 32), make("resnet10", 2, 2), tmp_path)
    with pytest.raises(ExportError, match="file has 8 quantized activations, the network only 0"):
        parity_of(make("resnet10", 2, 2), make("resnet10", 2, 32), tmp_path)
    with pytest.raises(ExportError, match="onnxruntime does not run the file"):
        parity_of(make(), make(), tmp_path, size=32)
    (tmp_path / "n.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match="onnxruntime does not load the file"):
        check_parity(make(), tmp_path / "n.onnx", SIZE)


def levels_compared(own, x, value):
    """(wrong, near ties) for the levels 0, 1, 2, 3 and a largest input of 4."""
    trace = Trace(np.empty(0))
    own, x, value = (torch.tensor([*v, 4.0]) for v in (own, x, value))
    value[-1] = 3.0
    thresholds = torch.tensor([0.5, 1.5, 2.5])
    trace.compare_levels(own, x, value, torch.arange(4.0), thresholds, "here")
    return trace.wrong, trace.near_ties


def test_a_value_at_a_threshold_may_take_either_level():
    assert levels_compared([1.2], [1.2], [1.0]) == (0, 0)
    # 1e-5 of the largest input is 4e-5.
    assert levels_compared([1.50001], [1.49999], [1.0]) == (0, 1)
    assert levels_compared([1.49999], [1.50001], [2.0]) == (0, 1)
    assert levels_compared([1.50001], [1.50001], [1.0]) == (0, 1)
    assert levels_compared([1.5002], [1.5002], [1.0]) == (1, 1)
    assert levels_compared([0.2], [0.2], [2.0]) == (1, 1)


def test_a_file_of_other_bits_fails(make, tmp_path):
    parity = parity_of(make("resnet10", 4, 4), make("resnet10", 2, 2), tmp_path)
    assert not parity.passed


def test_equal_levels_are_one():
    # Integers of close levels may coincide, at the end or inside.
    for level in ([0.0, 1.0, 1.0, 2.0], [0.0, 1.0, 2.0, 2.0], [0.0, 0.0, 1.0, 2.0]):
        levels, thresholds = torch.tensor(level), torch.tensor([0.5, 1.0, 1.5])
        x = torch.tensor([0.2, 0.7, 1.2, 1.7])
        trace = Trace(np.empty(0))
        trace.compare_levels(x, x, levels, levels, thresholds, "here")
        assert (trace.wrong, trace.near_ties) == (0, 0)
        trace.compare_levels(x, x, levels + torch.tensor([0, 0, 0, -1.0]), levels, thresholds, "")
        assert trace.wrong == 1


def test_a_value_that_is_no_level_is_wrong():
    assert levels_compared([1.2], [1.2], [1.001])[0] == 1
    # Between two levels that rounding allows, and neither of them.
    assert levels_compared([1.5], [1.5], [1.7])[0] == 1


def test_checking_leaves_the_network_as_it_was(make, tmp_path):
    network = make().train()
    network.body.layer1.eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    modes = [m.training for m in network.modules()]
    assert parity_of(network, network, tmp_path).passed
    assert [m.training for m in network.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert not any(m._forward_hooks for m in network.modules())


def test_no_images_is_an_error(make, tmp_path):
    write(make(), tmp_path / "n.onnx", SIZE)
    with pytest.raises(ExportError, match="at least one image"):
        check_parity(make(), tmp_path / "n.onnx", SIZE, torch.empty(0, 3, SIZE, SIZE))
