"""Activation quantizers are found in a graph, whatever stands around them."""

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from rsquant.errors import ExportError
from rsquant.export.chains import find_chains
from rsquant.export.engine import run, session
from rsquant.export.graph import to_onnx
from rsquant.nn.freeze import fold_batchnorms, freeze
from rsquant.quantizers.lq import LQActivationQuantizer

SIZE = 32


def quantizers_as_they_run(network):
    """Every activation quantizer of a network, in the order in which a forward meets them."""
    met, hooks = [], []
    for module in network.modules():
        if isinstance(module, LQActivationQuantizer):
            hooks.append(module.register_forward_hook(lambda m, _, __: met.append(m)))
    with torch.no_grad():
        network(torch.zeros(1, 3, SIZE, SIZE))
    for hook in hooks:
        hook.remove()
    return met


@pytest.fixture(scope="module", params=[1, 2, 4], ids=lambda bits: f"{bits} bits")
def network(request, make):
    """A network whose quantizers all differ, one of them with levels on both sides of zero."""
    network = make("resnet18", 2, request.param, (SIZE,))
    for i, quantizer in enumerate(quantizers_as_they_run(network)):
        quantizer.basis *= 1 + i / 16
    quantizer.basis[0] *= -1
    return network


@pytest.fixture(scope="module")
def proto(network):
    return to_onnx(fold_batchnorms(freeze(network, SIZE)).module, SIZE)


def test_the_quantizers_of_a_network_are_found_in_the_order_they_run(network, proto):
    chains = find_chains(proto.graph)
    expected = quantizers_as_they_run(network)
    assert list(chains) == [f"quantized_{i}" for i in range(len(expected))]
    assert len(expected) > 10  # 10 comes after 9, not after 1
    for chain, quantizer in zip(chains.values(), expected, strict=True):
        levels = quantizer.levels().numpy()
        assert np.array_equal(chain.levels, levels)
        assert np.array_equal(chain.thresholds, np.float32(0.5) * (levels[:-1] + levels[1:]))
        assert chain.levels.dtype == chain.thresholds.dtype == np.float32


def test_a_chain_names_what_it_reads_and_gives(proto):
    chains = find_chains(proto.graph)
    proto = copy.deepcopy(proto)
    names = [n for chain in chains.values() for n in (chain.source, chain.output)]
    for name in dict.fromkeys(names):
        proto.graph.output.append(helper.make_empty_tensor_value_info(name))
    images = np.random.default_rng(0).standard_normal((2, 3, SIZE, SIZE)).astype(np.float32)
    values = dict(zip(names, run(session(proto.SerializeToString()), images, names), strict=True))
    for chain in chains.values():
        x = values[chain.source]
        taken = (x[..., None] > chain.thresholds).sum(-1)
        assert np.array_equal(values[chain.output], chain.levels[taken])


def test_a_chain_has_all_its_comparisons_and_nothing_else(proto):
    graph = proto.graph
    operators = {node.output[0]: node.op_type for node in graph.node}
    chains = find_chains(graph)
    for chain in chains.values():
        kinds = sorted(operators[name] for name in chain.nodes)
        steps = len(chain.thresholds)
        assert kinds == ["Greater"] * steps + ["Where"] * steps
    in_chains = set().union(*(chain.nodes for chain in chains.values()))
    left = {kind for name, kind in operators.items() if name not in in_chains}
    assert not left & {"Greater", "Where"}


def test_quantizers_of_equal_levels_are_told_apart(make):
    # The exporter shares their constants.
    chains = find_chains(to_onnx(freeze(make("resnet10", 2, 2, (SIZE,)), SIZE), SIZE).graph)
    nodes = [name for chain in chains.values() for name in chain.nodes]
    assert len(chains) == 8 and len(nodes) == len(set(nodes)) == 8 * 6


def test_a_network_without_quantizers_has_none(make):
    assert find_chains(to_onnx(freeze(make("resnet10", 2, 32, (SIZE,)), SIZE), SIZE).graph) == {}


def chain_by_hand(*nodes):
    """x -> quantized_0 through nodes (operator, inputs, output), beside the scalars 0, 1 and 2."""
    scalars = [numpy_helper.from_array(np.float32(i), str(i)) for i in range(3)]
    made = [helper.make_node(op, inputs.split(), [output]) for op, inputs, output in nodes]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])
    y = helper.make_tensor_value_info("quantized_0", TensorProto.FLOAT, ["N"])
    graph = helper.make_graph(made, "by hand", [x], [y], scalars)
    onnx.checker.check_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), full_check=True
    )
    return graph


def test_a_chain_may_run_through_identities():
    graph = chain_by_hand(
        ("Greater", "x 1", "above"),
        ("Identity", "0", "low"),
        ("Where", "above 2 low", "level"),
        ("Identity", "level", "quantized_0"),
    )
    chain = find_chains(graph)["quantized_0"]
    assert chain.source == "x" and chain.nodes == {"above", "low", "level", "quantized_0"}
    assert chain.thresholds.tolist() == [1.0] and chain.levels.tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    ("nodes", "made_by"),
    [
        pytest.param([("Relu", "x", "quantized_0")], "Relu", id="no comparison"),
        pytest.param([("Identity", "x", "quantized_0")], "nothing", id="the input itself"),
        pytest.param(
            [("Less", "x 1", "below"), ("Where", "below 0 2", "quantized_0")],
            "Less",
            id="another comparison",
        ),
        pytest.param(
            [
                ("Greater", "x 1", "above"),
                ("Relu", "x", "positive"),
                ("Where", "above 2 positive", "quantized_0"),
            ],
            "Relu",
            id="a lowest level that is no constant",
        ),
        pytest.param(
            [
                ("Relu", "x", "y"),
                ("Greater", "x 0", "above_0"),
                ("Where", "above_0 1 0", "one"),
                ("Greater", "y 1", "above_1"),
                ("Where", "above_1 2 one", "quantized_0"),
            ],
            "Greater",
            id="comparisons of two values",
        ),
        pytest.param(
            [
                ("Relu", "x", "y"),
                ("Greater", "x y", "above"),
                ("Where", "above 2 0", "quantized_0"),
            ],
            "Relu",
            id="a threshold that is no constant",
        ),
        pytest.param(
            [
                ("Relu", "x", "y"),
                ("Greater", "x 1", "above"),
                ("Where", "above y 0", "quantized_0"),
            ],
            "Relu",
            id="a highest level that is no constant",
        ),
    ],
)
def test_a_quantized_value_that_is_made_by_something_else_is_refused(nodes, made_by):
    with pytest.raises(
        ExportError, match=f"quantized_0: is computed by {made_by}, not by comparisons"
    ):
        find_chains(chain_by_hand(*nodes))


# Integer levels.
