"""What feeds a quantizer, and what does not; activations, bounds and norms of a graph."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from rsquant.export.int8.walk import Graph

CONV = ("Conv", ["x", "w", "b"], "sums")
CONSTANTS = {
    "w": np.ones((2, 2, 1, 1)),
    "b": np.zeros(2),
    "w2": np.ones((2, 2)),
    "zero": 0.0,
    "one": 1.0,
    "two": 2.0,
    "six": 6.0,
    "gamma": [1.0, -2.0],
    "beta": [0.5, 0.0],
    "mean": [1.0, 3.0],
    "var": [4.0, 1.0],
}


def graph_of(*nodes, outputs=("end",)):
    """A graph on "x"; nodes are (operator, inputs, output) and attributes, if any."""
    made = [
        helper.make_node(op, inputs, [output], **(more[0] if more else {}))
        for op, inputs, output, *more in nodes
    ]
    value = [helper.make_empty_tensor_value_info(name) for name in outputs]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(np.float32(v), k) for k, v in CONSTANTS.items()]
    return Graph(helper.make_graph(made, "g", [given], value, tensors))


def quantizer(source):
    """Three levels 0, 1, 2 with thresholds at 1 and 2, and a reader of them."""
    return (
        ("Greater", [source, "one"], "above1"),
        ("Where", ["above1", "one", "zero"], "low"),
        ("Greater", [source, "two"], "above2"),
        ("Where", ["above2", "two", "low"], "quantized_0"),
        ("Relu", ["quantized_0"], "end"),
    )


def feeder(*nodes, source, outputs=("end",)):
    graph = graph_of(*nodes, *quantizer(source), outputs=outputs)
    (chain,) = graph.chains.values()
    return graph.feeder(chain)


def test_a_convolution_that_a_quantizer_alone_reads_feeds_it():
    found = feeder(CONV, source="sums")
    assert found.node.output[0] == "sums" and found.between == ()
    assert (found.low, found.high) == (-np.inf, np.inf)


def test_a_linear_layer_feeds_a_quantizer():
    gemm = ("Gemm", ["x", "w2", "b"], "sums", {"transB": 1})
    assert feeder(gemm, source="sums").node.op_type == "Gemm"


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"transB": 1, "transA": 1},
        {"transB": 1, "alpha": 0.5},
        {"transB": 1, "beta": 2.0},
    ],
)
def test_a_product_of_another_kind_feeds_none(attributes):
    assert feeder(("Gemm", ["x", "w2", "b"], "sums", attributes), source="sums") is None


def test_activations_and_max_poolings_may_lie_between_and_are_named_as_they_run():
    found = feeder(
        CONV,
        ("Relu", ["sums"], "r"),
        ("MaxPool", ["r"], "p", {"kernel_shape": [2, 2]}),
        ("Clip", ["p", "", "six"], "c"),
        source="c",
    )
    assert found.node.output[0] == "sums"
    assert [node.output[0] for node in found.between] == ["r", "p", "c"]
    assert (found.low, found.high) == (0, 6)


@pytest.mark.parametrize(
    "first,second,bounds",
    [
        (("zero", "six"), ("one", "two"), (1, 2)),
        (("one", "two"), ("zero", "six"), (1, 2)),
        (("zero", "two"), ("one", "six"), (1, 2)),
        # Without a value in common, the one that comes last says which.
        (("zero", "one"), ("two", "six"), (2, 2)),
        (("two", "six"), ("zero", "one"), (1, 1)),
    ],
)
def test_bounds_of_two_activations_are_those_of_both_in_turn(first, second, bounds):
    found = feeder(CONV, ("Clip", ["sums", *first], "c"), ("Clip", ["c", *second], "d"), source="d")
    assert (found.low, found.high) == bounds
    # By its meaning: what comes out of them at either end.
    ends = [
        min(
            max(min(max(v, CONSTANTS[first[0]]), CONSTANTS[first[1]]), CONSTANTS[second[0]]),
            CONSTANTS[second[1]],
        )
        for v in (-np.inf, np.inf)
    ]
    assert ends == list(bounds)


def test_a_convolution_that_something_else_reads_too_feeds_none():
    other = ("Sigmoid", ["sums"], "other")
    assert feeder(CONV, other, source="sums", outputs=("end", "other")) is None


def test_a_convolution_read_twice_before_its_activation_feeds_none():
    other = ("Sigmoid", ["sums"], "other")
    relu = ("Relu", ["sums"], "r")
    assert feeder(CONV, relu, source="r") is not None
    assert feeder(CONV, relu, other, source="r", outputs=("end", "other")) is None


def test_an_activation_that_something_else_reads_too_ends_the_search():
    relu, other = ("Relu", ["sums"], "r"), ("Sigmoid", ["r"], "other")
    assert feeder(CONV, relu, other, source="r", outputs=("end", "other")) is None


@pytest.mark.parametrize("output", ["sums", "r"])
def test_values_that_are_outputs_of_the_graph_stay_what_they_are(output):
    relu = ("Relu", ["sums"], "r")
    assert feeder(CONV, relu, source="r", outputs=("end", output)) is None


def test_bounds_that_are_computed_are_not_known():
    computed = ("Abs", ["six"], "top")
    assert feeder(CONV, computed, ("Clip", ["sums", "zero", "top"], "c"), source="c") is None


@pytest.mark.parametrize("between", ["Sigmoid", "GlobalAveragePool", "Neg"])
def test_other_operators_between_end_the_search(between):
    assert feeder(CONV, (between, ["sums"], "y"), source="y") is None


def test_a_sum_feeds_none_and_neither_does_the_image():
    assert feeder(CONV, ("Add", ["sums", "x"], "y"), source="y") is None
    assert feeder(("Relu", ["x"], "r"), source="r") is None
    assert feeder(source="x") is None


def test_weights_or_a_bias_that_are_computed_are_none():
    computed = ("Abs", ["w"], "w_computed")
    assert feeder(computed, ("Conv", ["x", "w_computed"], "sums"), source="sums") is None
    computed = ("Abs", ["b"], "b_computed")
    assert feeder(computed, ("Conv", ["x", "w", "b_computed"], "sums"), source="sums") is None


@pytest.mark.parametrize(
    "node,bounds",
    [
        (("Relu", ["sums"], "end"), (0, np.inf)),
        (("Clip", ["sums", "zero", "six"], "end"), (0, 6)),
        (("Clip", ["sums", "", "six"], "end"), (-np.inf, 6)),
        (("Clip", ["sums"], "end"), (-np.inf, np.inf)),
    ],
)
def test_the_activation_behind_a_convolution_is_found_with_its_bounds(node, bounds):
    graph = graph_of(CONV, node)
    conv, activation = graph.graph.node
    assert graph.activation_behind(conv) == activation
    assert graph.bounds(activation) == bounds


@pytest.mark.parametrize(
    "node",
    [
        ("Sigmoid", ["sums"], "end"),
        # Bytes of a range hold zero, which this one does not.
        ("Clip", ["sums", "one", "six"], "end"),
        ("Clip", ["sums", "x"], "end"),
    ],
)
def test_what_does_not_bound_around_zero_is_no_activation_behind(node):
    graph = graph_of(CONV, node)
    assert graph.activation_behind(graph.graph.node[0]) is None


def test_an_activation_is_behind_only_if_nothing_else_reads_the_sum():
    nodes = [CONV, ("Relu", ["sums"], "end"), ("Sigmoid", ["sums"], "other")]
    graph = graph_of(*nodes, outputs=("end", "other"))
    assert graph.activation_behind(graph.graph.node[0]) is None
    graph = graph_of(*nodes[:2], outputs=("end", "sums"))
    assert graph.activation_behind(graph.graph.node[0]) is None
    graph = graph_of(CONV, outputs=("sums",))
    assert graph.activation_behind(graph.graph.node[0]) is None


def test_a_norm_of_constants_is_a_factor_and_an_offset():
    names = ["gamma", "beta", "mean", "var"]
    graph = graph_of(("BatchNormalization", ["x", *names], "end", {"epsilon": 0.0}))
    factor, offset = graph.norm(graph.graph.node[0])
    # gamma / sqrt(var), beta - mean * factor
    assert factor.tolist() == [0.5, -2.0] and offset.tolist() == [0.0, 6.0]


def test_a_norm_takes_its_epsilon_and_by_default_that_of_onnx():
    for given, epsilon in (({"epsilon": 0.5}, 0.5), ({}, 1e-5)):
        names = ["gamma", "beta", "mean", "var"]
        graph = graph_of(("BatchNormalization", ["x", *names], "end", given))
        factor, _ = graph.norm(graph.graph.node[0])
        assert factor.tolist() == [1 / np.sqrt(4 + epsilon), -2 / np.sqrt(1 + epsilon)]


def test_other_nodes_and_computed_norms_are_none():
    names = ["beta", "mean", "var"]
    graph = graph_of(
        ("Abs", ["gamma"], "computed"),
        ("BatchNormalization", ["x", "computed", *names], "y"),
        ("Add", ["y", "one"], "end"),
    )
    assert [graph.norm(node) for node in graph.graph.node] == [None, None, None]
