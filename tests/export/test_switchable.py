"""One file for all sizes: the BatchNorms it picks, and what it computes with them."""

import narrow
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch.nn import functional

import rsquant
from rsquant.errors import ExportError
from rsquant.export.switchable import LOWER, PICKED, TABLE, UPPER, WEIGHT, to_switchable_onnx
from rsquant.export.verify.parity import check_parity
from rsquant.nn import SwitchableBatchNorm2d
from rsquant.nn.convert import convert
from rsquant.settings import blend, of_sizes, side

# Trained are 64, 48 and 32: each of them, square and not, between two, and outside.
SHAPES = [
    (64, 64),
    (48, 48),
    (32, 32),
    (36, 64),
    (64, 36),
    (16, 64),
    (40, 40),
    (57, 57),
    (45, 47),
    (33, 60),
    (20, 20),
    (17, 31),
    (80, 80),
    (100, 50),
]


def images(height, width, n=2):
    generator = torch.Generator().manual_seed(1000 * height + width)
    return torch.randn(n, 3, height, width, generator=generator)


def session_of(graph, *more):
    """A session on a copy of the graph that also returns `more`."""
    graph = onnx.ModelProto.FromString(graph.SerializeToString())
    graph.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in more)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def assert_rounding(got, expected, what=""):
    """Equal up to the order of float32 sums, and to where between two sizes an image lies.

    A sum of n products in another order differs by about sqrt(n) 2**-24 of its size: 2.1e-6 for the
    1280 that these networks have at most; 121 layers in a row add up as sqrt(121), to 2.3e-5 of the
    largest logit. The blend's weight is off by 2.1e-5 / 16 at most (see rows and weights below),
    which moves a BatchNorm by as much of what the two sizes differ by. (Measured: 1e-6.)
    """
    atol = 2.5e-5 * np.abs(expected).max()
    np.testing.assert_allclose(got, expected, rtol=0, atol=atol, err_msg=what)


def assert_equal_logits(network, graph, shapes, n=2):
    session = session_of(graph)
    for height, width in shapes:
        x = images(height, width, n)
        with torch.no_grad():
            expected = network(x).numpy()
        got = session.run(["logits"], {"images": x.numpy()})[0]
        assert_rounding(got, expected, f"{x.shape}")


@pytest.mark.parametrize("n", [1, 5])
def test_every_size_equals_the_network(make, n):
    network = make("resnet10", 2, 32)
    assert_equal_logits(network, to_switchable_onnx(network), SHAPES, n)


def test_another_sizes_batchnorms_would_be_seen(make):
    network = make("resnet10", 2, 32)
    graph = to_switchable_onnx(network)
    with torch.no_grad():
        network.body.layer2[0].bn1.running_mean[1] *= 1.1
    with pytest.raises(AssertionError):
        assert_equal_logits(network, graph, [(48, 48)])
    assert_equal_logits(network, graph, [(64, 64), (32, 32)])


def converted(vary, name, abits):
    torch.manual_seed(0)
    return vary(convert(narrow.NETWORKS[name](), 2, abits, (64, 48, 32)))


@pytest.mark.parametrize("arch", ["resnet10", "mobilenet_v2"])
def test_quantized_activations_agree_layer_by_layer(make, vary, tmp_path, arch):
    # Logits would not do: a code flipped at a threshold moves them, see check_parity.
    network = make() if arch == "resnet10" else converted(vary, arch, 2)
    path = tmp_path / "n.onnx"
    path.write_bytes(to_switchable_onnx(network).SerializeToString())
    shapes = [(64, 64), (48, 48), (32, 32), (64, 36), (40, 40)]
    for shape in shapes if arch == "resnet10" else shapes[1::3]:
        assert check_parity(network, path, side(*shape), images(*shape)).passed, shape
    # The comparison is of this size's BatchNorms: a pixel more is another network.
    assert not check_parity(network, path, 40, images(41, 41)).passed


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2"])
def test_converted_networks_run_at_every_size(vary, name):
    network = converted(vary, name, 32)
    assert_equal_logits(network, to_switchable_onnx(network), [(48, 48), (36, 64), (57, 40)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mobilenet_v2", "shufflenet_v2_x0_5", "densenet121", "efficientnet_b0"]
)
def test_whole_networks_run_at_every_size(make, name):
    network = make(f"torchvision:{name}", 2, 32)
    assert_equal_logits(network, to_switchable_onnx(network), [(48, 48), (36, 64), (57, 40)])


@pytest.mark.parametrize("row,shape", [(0, (64, 64)), (1, (36, 64)), (2, (32, 32)), (0, (99, 70))])
def test_each_batchnorm_reads_its_own_row_to_the_last_bit(make, row, shape):
    network = make("resnet10", 2, 32)
    graph = to_switchable_onnx(network)
    run = []
    for module in network.modules():
        if isinstance(module, SwitchableBatchNorm2d):
            module.register_forward_hook(lambda norm, *_: run.append(norm))
    with torch.no_grad():
        network(images(*shape))
    nodes = [node for node in graph.graph.node if node.op_type == "BatchNormalization"]
    session = session_of(graph, *(name for node in nodes for name in node.input[1:]))
    values = iter(session.run(None, {"images": images(*shape).numpy()})[1:])
    assert len(nodes) == len(run) == 12
    for norm in run:
        for table in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            np.testing.assert_array_equal(next(values), table[row].detach().numpy())


@pytest.mark.parametrize("sizes", [(224, 192, 160, 128, 96), (129, 100, 33, 32), (64,)])
def test_rows_and_weights_are_those_of_blend(make, sizes):
    graph = to_switchable_onnx(make("resnet10", 2, 32, sizes))
    (table,) = (onnx.numpy_helper.to_array(t) for t in graph.graph.initializer if t.name == TABLE)
    for part in (graph.graph.node, graph.graph.initializer):  # the picking alone
        kept = [one for one in part if one.name.startswith(TABLE)]
        del part[:]
        part.extend(kept)
    del graph.graph.output[:]
    session = session_of(graph, UPPER, LOWER, WEIGHT, PICKED)
    generator = np.random.default_rng(0)
    shapes = [(size, size) for size in range(1, sizes[0] + 40)]
    shapes += [(1, size * size + off) for size in sizes for off in (-1, 0, 1)]
    shapes += [(size // 2, 2 * size) for size in sizes] + [(4 * size, size) for size in sizes]
    shapes += [tuple(map(int, s)) for s in generator.integers(1, 2 * sizes[0], (1000, 2))]
    shapes += [(1, 1), (70_000, 70_000), (2**31, 3)]
    for shape in shapes:
        # No images at all: their height and width are enough.
        given = {"images": np.empty((0, 3, *shape), np.float32)}
        (upper,), (lower,), (weight,), row = session.run(None, given)
        expected = blend(of_sizes(sizes), side(*shape))
        assert (upper, lower) == expected[:2], shape
        # Float32 rounds the area by 2**-24, of which the root keeps half, and the root by 2**-24:
        # at most 224 * 1.5 * 2**-24 = 2.0e-5 pixels. Two rows are at most 4 apart here.
        gap = sizes[upper] - sizes[lower]
        assert weight == expected[2] == 0 if gap == 0 else abs(weight - expected[2]) <= 2.1e-5 / gap
        exact = (1 - expected[2]) * table[upper].astype(np.float64) + expected[2] * table[lower]
        if gap == 0:
            np.testing.assert_array_equal(row, table[upper])
        else:
            np.testing.assert_allclose(row, exact, rtol=0, atol=1e-6 + 8.4e-5 / gap)


def test_the_graph_is_valid_and_says_its_shapes(make):
    graph = to_switchable_onnx(make())
    onnx.checker.check_model(graph, full_check=True)
    onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True, data_prop=True)
    (given,), (made,) = graph.graph.input, graph.graph.output
    shape = given.type.tensor_type.shape.dim
    assert (given.name, made.name) == ("images", "logits")
    assert [d.dim_param or d.dim_value for d in shape] == ["N", 3, "H", "W"]
    names = [t.name for t in graph.graph.initializer]
    assert set(names) <= {name for node in graph.graph.node for name in node.input}
    assert len(names) == len(set(names))
    assert {o.domain for o in graph.opset_import} == {""}
    quantized = [o for node in graph.graph.node for o in node.output if o.startswith("quantized_")]
    assert quantized == [f"quantized_{i}" for i in range(8)]


def test_no_pixel_passes_a_node_that_the_network_does_not_have(make):
    graph = to_switchable_onnx(make("resnet10", 2, 32))
    kinds = [node.op_type for node in graph.graph.node if not node.name.startswith(TABLE)]
    assert set(kinds) == {
        "Conv",
        "BatchNormalization",
        "Relu",
        "Add",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
        "Split",
        "Constant",
    }
    assert kinds.count("Split") == kinds.count("Constant") == 1
    reading = [node.op_type for node in graph.graph.node if "images" in node.input]
    assert reading == ["Shape", "Conv"]
    assert len(graph.graph.node) - len(kinds) == 19


def test_onnx_s_own_interpreter_agrees(make):
    network = make("resnet10", 2, 32)
    x = images(33, 47, 1)
    with torch.no_grad():
        expected = network(x).numpy()
    got = ReferenceEvaluator(to_switchable_onnx(network)).run(None, {"images": x.numpy()})[0]
    assert_rounding(got, expected)


class Small(nn.Module):
    """Two convolutions, one BatchNorm called twice and held under two names, and a head."""

    def __init__(self, head):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.norm = self.same = nn.BatchNorm2d(8)
        self.head, self.fc = head, nn.LazyLinear(5)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = self.same(self.conv(x)).relu()
        return self.fc(self.head(x).flatten(1))


def small(vary, head, sizes=(64, 48, 32)):
    torch.manual_seed(0)
    network = Small(head).eval()
    network(torch.zeros(1, 3, 64, 64))
    return vary(convert(network, 2, 32, sizes))


def test_a_batchnorm_called_twice_is_one(vary):
    network = small(vary, nn.AdaptiveAvgPool2d(1))
    graph = to_switchable_onnx(network)
    first, second = (n for n in graph.graph.node if n.op_type == "BatchNormalization")
    assert first.input[1:] == second.input[1:]
    (table,) = (t for t in graph.graph.initializer if t.name == TABLE)
    assert list(table.dims) == [3, 4 * 8]
    assert_equal_logits(network, graph, SHAPES)


def test_one_trained_size_is_used_everywhere(vary):
    network = small(vary, nn.AdaptiveAvgPool2d(1), (48,))
    assert_equal_logits(network, to_switchable_onnx(network), SHAPES)


class Windows(nn.Module):
    """A mean whose window is as large as the map, as a number."""

    def forward(self, x):
        return functional.avg_pool2d(x, (int(x.shape[2]), int(x.shape[3])))


class SamePadding(nn.Module):
    """TensorFlow's: how much is padded depends on whether the side is even."""

    def forward(self, x):
        odd = int(x.shape[2]) % 2, int(x.shape[3]) % 2
        x = functional.max_pool2d(functional.pad(x, (0, 1 + odd[1], 0, 1 + odd[0])), 3, 2)
        return x.mean((2, 3))


class Reshaping(nn.Module):
    def forward(self, x):
        return x.reshape(-1, 8, int(x.shape[2]) * int(x.shape[3])).mean(2)


@pytest.mark.parametrize(
    "head,message",
    [
        (nn.AdaptiveAvgPool2d(2), "AveragePool /network/body/head/AveragePool depends on the size"),
        (nn.AdaptiveAvgPool2d(7), "MatMul /network/body/head/MatMul depends on the size"),
        (Windows(), "AveragePool /network/body/head/AveragePool depends on the size"),
        (SamePadding(), "[A-Z][a-z]+ /network/body/head/[A-Z][a-z]+ depends on the size"),
        (Reshaping(), "Reshape /network/body/head/Reshape depends on the size"),
    ],
    ids=["adaptive", "adaptive7", "windows", "padding", "reshaping"],
)
def test_a_network_that_depends_on_the_size_is_refused_in_one_line(vary, head, message):
    network = small(vary, head, (64, 32))
    needs = r" of the images \(64 and 33 differ\); leave out `single_file=True`: one file"
    with pytest.raises(ExportError, match=message + needs) as caught:
        to_switchable_onnx(network)
    assert "\n" not in str(caught.value)


class Even(nn.Module):
    """Runs where the map's side is even."""

    def forward(self, x):
        if int(x.shape[2]) % 2:
            raise ValueError("the side must be even")
        return x.mean((2, 3))


def test_a_network_that_only_runs_at_some_sizes_is_exported(vary):
    network = small(vary, Even(), (64, 32))
    assert_equal_logits(network, to_switchable_onnx(network), [(64, 64), (32, 32), (40, 56)])


def test_the_network_stays_as_it_was(make):
    network = make().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    to_switchable_onnx(network)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_fresh_network_whose_batchnorms_are_all_equal(make):
    torch.manual_seed(0)
    network = rsquant.create("resnet10", 2, 32, (64, 32), 5, width=8).eval()
    assert_equal_logits(network, to_switchable_onnx(network), [(64, 64), (49, 40)])
