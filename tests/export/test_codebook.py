"""Low-bit weights as codes and tables: decoded to the very bits of the float weights."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from rsquant.errors import ExportError
from rsquant.export.codebook import pack_codes, store_as_codes
from rsquant.export.codes import LayerCodes, find_weights, layer_codes
from rsquant.export.graph import to_onnx
from rsquant.nn.freeze import fold_batchnorms, freeze

SIZES = [1, 3, 4, 5, 7, 8, 9, 63, 64, 65]
# Of weights: convolutions (also depthwise) and linear layers, whose sizes straddle bytes and words.
SHAPES = [(1, 1), (5, 13), (3, 65), (1, 1, 1, 1), (3, 5, 3, 3), (65, 1, 3, 3), (4, 63, 1, 1)]

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_width = pytest.mark.parametrize("bits", [1, 2, 3, 4], ids=lambda bits: f"{bits} bits")
both_forms = pytest.mark.parametrize("compat", [False, True], ids=["codes", "compat"])


def random_codes(shape, bits, seed=0):
    return np.random.default_rng(seed).integers(0, 2**bits, shape).astype(np.uint8)


# Packing.


@pytest.mark.parametrize(("width", "kind"), [(2, TensorProto.UINT2), (4, TensorProto.UINT4)])
@pytest.mark.parametrize("count", SIZES)
def test_onnx_unpacks_what_was_packed(count, width, kind):
    codes = random_codes(count, width)
    raw = pack_codes(codes, width).tobytes()
    tensor = TensorProto(data_type=kind, dims=[count], raw_data=raw)
    assert np.array_equal(numpy_helper.to_array(tensor).astype(np.uint8), codes)


@pytest.mark.parametrize(("width", "kind"), [(2, TensorProto.UINT2), (4, TensorProto.UINT4)])
@pytest.mark.parametrize("count", SIZES)
def test_codes_are_packed_as_onnx_packs_them(count, width, kind):
    codes = random_codes(count, width)
    tensor = numpy_helper.from_array(codes.astype(helper.tensor_dtype_to_np_dtype(kind)))
    assert tensor.data_type == kind and tensor.raw_data == pack_codes(codes, width).tobytes()


@pytest.mark.parametrize("count", SIZES)
def test_single_bits_are_packed_as_numpy_packs_them(count):
    codes = random_codes(count, 1)
    assert np.array_equal(pack_codes(codes, 1), np.packbits(codes, bitorder="little"))


@every_shape
def test_codes_of_any_shape_are_packed_in_the_order_of_memory(shape):
    codes = random_codes(shape, 2)
    assert np.array_equal(pack_codes(codes, 2), pack_codes(codes.reshape(-1), 2))


def test_no_codes_are_no_bytes():
    assert pack_codes(np.empty(0, np.uint8), 2).size == 0


# Tables.


def test_a_table_has_the_value_of_every_code():
    codes = np.array([[0, 1, 3], [2, 2, 0]], np.uint8)
    weight = np.array([[-3, -1, 3], [0.5, 0.5, -1]], np.float32)
    table = LayerCodes("conv", 2, codes).table(weight)
    assert table.dtype == np.float32
    # A code that no weight takes has the value 0.
    assert table.tolist() == [[-3, -1, 0, 3], [-1, 0, 0.5, 0]]


@pytest.mark.parametrize("shape", [(5, 13), (3, 5, 3, 3)], ids=str)
def test_a_table_refuses_weights_that_are_more_values_than_codes(shape):
    codes = LayerCodes("layer1.0.conv2", 2, random_codes(shape, 2))
    weight = codes.codes.astype(np.float32)
    codes.table(weight)
    weight[-1].flat[-1] = np.nextafter(weight[-1].flat[-1], np.float32(9))
    with pytest.raises(
        ExportError, match=r"layer1\.0\.conv2: its weights are not 4 values per output channel"
    ):
        codes.table(weight)


# Decoding.


def layer_graph(weight, name="network.conv.weight"):
    """(graph of one convolution or linear layer with a bias, an input for it)."""
    outputs, inputs, *kernel = weight.shape
    shape = ["N", inputs, *kernel]
    tensors = [
        numpy_helper.from_array(weight, name),
        numpy_helper.from_array(np.arange(outputs, dtype=np.float32), "bias"),
    ]
    operands = ["images", name, "bias"]
    node = (
        helper.make_node("Conv", operands, ["logits"])
        if kernel
        else helper.make_node("Gemm", operands, ["logits"], transB=1)
    )
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        tensors,
    )
    images = np.random.default_rng(1).standard_normal((2, *shape[1:])).astype(np.float32)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model), images


def coded(shape, bits, compat, seed=0):
    """(graph with codes, graph with float weights, weights, codes, input) of a random layer."""
    codes = random_codes(shape, bits, seed)
    table = np.random.default_rng(seed + 1).standard_normal((shape[0], 2**bits))
    weight = np.take_along_axis(
        table.astype(np.float32), codes.reshape(shape[0], -1), axis=1
    ).reshape(shape)
    floats, images = layer_graph(weight)
    proto = onnx.ModelProto()
    proto.CopyFrom(floats)
    store_as_codes(proto, [LayerCodes("conv", bits, codes)], compat)
    return proto, floats, weight, codes, images


def exposing(proto, names):
    """The same graph with these values as further outputs."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(proto)
    exposed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return exposed


def in_onnxruntime(proto, images, names):
    engine = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return engine.run(names, {"images": images})


def same_bits(a, b):
    return a.dtype == b.dtype == np.float32 and np.array_equal(a.view(np.uint32), b.view(np.uint32))


@both_forms
@every_width
@every_shape
def test_onnxruntime_decodes_the_weights_to_the_same_bits(shape, bits, compat):
    proto, _, weight, _, images = coded(shape, bits, compat)
    proto = exposing(proto, ["network.conv.weight"])
    (found,) = in_onnxruntime(proto, images, ["network.conv.weight"])
    assert same_bits(found, weight)


@both_forms
@every_width
@every_shape
def test_the_reference_implementation_decodes_the_weights_to_the_same_bits(shape, bits, compat):
    proto, _, weight, _, images = coded(shape, bits, compat)
    evaluator = ReferenceEvaluator(exposing(proto, ["network.conv.weight"]))
    (found,) = evaluator.run(["network.conv.weight"], {"images": images})
    assert same_bits(found, weight)


@both_forms
@every_width
@every_shape
def test_a_layer_computes_the_same_bits_with_codes(shape, bits, compat):
    proto, floats, _, _, images = coded(shape, bits, compat)
    (found,), (expected,) = (in_onnxruntime(p, images, ["logits"]) for p in (proto, floats))
    assert same_bits(found, expected)


@both_forms
@every_width
@every_shape
def test_the_checker_accepts_the_graph(shape, bits, compat):
    onnx.checker.check_model(coded(shape, bits, compat)[0], full_check=True)


@both_forms
def test_a_channel_that_takes_few_of_its_codes_is_decoded(compat):
    codes = np.array([[3, 3, 3], [0, 0, 0], [2, 0, 2]], np.uint8)
    weight = np.float32([[7, 7, 7], [-1, -1, -1], [0.5, -0.5, 0.5]])
    proto, images = layer_graph(weight)
    store_as_codes(proto, [LayerCodes("conv", 2, codes)], compat)
    proto = exposing(proto, ["network.conv.weight"])
    assert same_bits(in_onnxruntime(proto, images, ["network.conv.weight"])[0], weight)


# What is in the file.


def tensors_of(proto):
    return {tensor.name: tensor for tensor in proto.graph.initializer}


@every_width
@every_shape
def test_codes_take_two_or_four_bits_each(shape, bits):
    proto, _, _, codes, _ = coded(shape, bits, compat=False)
    tensor = tensors_of(proto)["network.conv.weight/codes"]
    # There is no 1-bit type, and none of 3.
    kind, per_byte = {1: ("UINT2", 4), 2: ("UINT2", 4), 3: ("UINT4", 2), 4: ("UINT4", 2)}[bits]
    assert tensor.data_type == TensorProto.DataType.Value(kind)
    assert len(tensor.raw_data) == -(-codes.size // per_byte)
    assert tuple(tensor.dims) == shape
    assert np.array_equal(numpy_helper.to_array(tensor).astype(np.uint8), codes)


@every_width
@every_shape
def test_compat_codes_are_bytes_that_hold_whole_codes(shape, bits):
    proto, _, _, codes, _ = coded(shape, bits, compat=True)
    tensor = tensors_of(proto)["network.conv.weight/codes/bytes"]
    per_byte = {1: 8, 2: 4, 3: 2, 4: 2}[bits]
    assert tensor.data_type == TensorProto.UINT8
    assert len(tensor.raw_data) == -(-codes.size // per_byte)


@both_forms
@every_width
def test_the_float_weights_are_gone(bits, compat):
    proto, *_ = coded((5, 64, 3, 3), bits, compat)
    assert "network.conv.weight" not in tensors_of(proto)
    floats = [t for t in proto.graph.initializer if t.data_type == TensorProto.FLOAT]
    # The table, and the bias.
    assert sorted(int(np.prod(t.dims)) for t in floats) == sorted([5 * 2**bits, 5])


@pytest.mark.parametrize(
    ("bits", "compat", "opset", "ir_version"),
    [
        (1, False, 25, 13),
        (2, False, 25, 13),
        (3, False, 21, 10),
        (4, False, 21, 10),
        (1, True, 21, 10),
        (2, True, 21, 10),
        (3, True, 21, 10),
        (4, True, 21, 10),
    ],
)
def test_the_file_asks_for_no_newer_engine_than_it_needs(bits, compat, opset, ir_version):
    proto, *_ = coded((3, 5), bits, compat)
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    assert versions == {"": opset} and not proto.functions
    assert proto.ir_version == ir_version


@pytest.mark.parametrize("bits", [2, 4])
def test_an_older_opset_would_not_have_the_type(bits):
    proto, *_ = coded((3, 5), bits, compat=False)
    proto.opset_import[0].version -= 1
    with pytest.raises(onnx.shape_inference.InferenceError, match="has unsupported type"):
        onnx.checker.check_model(proto, full_check=True)


def test_layers_of_several_widths_take_the_newest_version_that_one_needs():
    narrow, wide = random_codes((3, 5), 2), random_codes((7, 3), 4)
    proto, _ = layer_graph(narrow.astype(np.float32), "network.a.weight")
    proto.graph.initializer.append(
        numpy_helper.from_array(wide.astype(np.float32), "network.b.weight")
    )
    store_as_codes(proto, [LayerCodes("b", 4, wide), LayerCodes("a", 2, narrow)], compat=False)
    assert proto.opset_import[0].version == 25 and proto.ir_version == 13
    kinds = {t.data_type for t in proto.graph.initializer if t.name.endswith("/codes")}
    assert kinds == {TensorProto.UINT2, TensorProto.UINT4}


@pytest.mark.parametrize("body", ["", "body."])
@pytest.mark.parametrize("end", ["weight", "1.weight"])
def test_weights_are_found_wherever_the_exporter_puts_them(body, end):
    name, codes = f"network.{body}conv.{end}", random_codes((3, 5), 2)
    proto, _ = layer_graph(codes.astype(np.float32), name)
    found = find_weights(proto.graph, [LayerCodes("conv", 2, codes)])
    assert list(found) == [name] and np.array_equal(found[name][1], codes)


@both_forms
@pytest.mark.parametrize("shape", [(3, 5), (5, 3, 1, 1)], ids=["another name", "another shape"])
def test_a_layer_whose_weights_are_not_in_the_graph_is_named(shape, compat):
    layer = LayerCodes("layer1.0.conv2", 2, random_codes((3, 5), 2))
    # The exporter gives such names to what it has computed.
    name = "onnx::MatMul_7" if shape == (3, 5) else "network.layer1.0.conv2.weight"
    proto, _ = layer_graph(np.zeros(shape, np.float32), name)
    before = proto.SerializeToString()
    with pytest.raises(
        ExportError, match=r"layer1\.0\.conv2: its weights have another form in the graph"
    ):
        store_as_codes(proto, [layer], compat)
    assert proto.SerializeToString() == before


def test_a_layer_that_never_runs_is_left_out():
    layers = [LayerCodes(name, 2, random_codes((3, 5), 2)) for name in ("used", "unused")]
    proto, _ = layer_graph(layers[0].codes.astype(np.float32), "network.used.weight")
    assert list(find_weights(proto.graph, layers)) == ["network.used.weight"]


# Networks.


@pytest.fixture(params=[2, 3], ids=lambda bits: f"{bits} bits")
def network(request, make):
    return make("resnet10", request.param, 2, (48, 32))


def test_codes_are_the_rank_of_each_quantized_weight(network):
    layers = layer_codes(network)
    assert [c.layer for c in layers] == [
        name
        for name, m in network.body.named_modules()
        if getattr(m, "weight_quantizer", None) is not None
    ]
    for found in layers:
        layer = network.body.get_submodule(found.layer)
        basis, pattern = layer.weight_quantizer.basis, layer.weight_quantizer.pattern
        levels = np.sort((basis.unsqueeze(1) * pattern).sum(-1).numpy(), axis=1)
        with torch.no_grad():
            weight = layer.quantized_weight().numpy().reshape(len(levels), -1)
        codes = found.codes.reshape(len(levels), -1)
        assert found.bits == layer.weight_quantizer.bits and found.codes.dtype == np.uint8
        assert np.array_equal(np.take_along_axis(levels, codes, 1), weight)


@both_forms
def test_every_layer_of_a_network_is_decoded_to_the_bits_of_its_float_graph(network, compat):
    floats = to_onnx(fold_batchnorms(freeze(network, 32)).module, 32)
    proto = onnx.ModelProto()
    proto.CopyFrom(floats)
    layers = layer_codes(network)
    store_as_codes(proto, layers, compat)
    onnx.checker.check_model(proto, full_check=True)
    weights = {t.name: numpy_helper.to_array(t) for t in floats.graph.initializer}
    names = [name for name in weights if name not in tensors_of(proto)]
    assert len(names) == len(layers) == 11
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    found = in_onnxruntime(exposing(proto, names), images, names)
    assert all(same_bits(f, weights[n]) for n, f in zip(names, found, strict=True))


@both_forms
def test_codes_are_the_same_at_every_resolution_and_tables_are_not(network, compat):
    end = "/codes/bytes" if compat else "/codes"
    codes, tables = [], []
    for size in network.resolutions:
        proto = to_onnx(fold_batchnorms(freeze(network, size)).module, size)
        store_as_codes(proto, layer_codes(network), compat)
        raw = {name: t.raw_data for name, t in tensors_of(proto).items()}
        codes.append({n: r for n, r in raw.items() if n.endswith(end)})
        tables.append({n: r for n, r in raw.items() if n.endswith("/table")})
    assert len(codes[0]) == len(layer_codes(network)) and codes[0] == codes[1]
    assert tables[0].keys() == tables[1].keys() and tables[0] != tables[1]
