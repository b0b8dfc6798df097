"""Adding nodes and constants to a graph, and dropping those that nothing needs."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rsquant.export.edit import Editor, drop_unused


def graph_of(nodes, outputs, constants=()):
    """A graph that reads "x"; nodes are (operator, inputs, outputs)."""

    def value(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])

    made = [helper.make_node(op, inputs, outputs) for op, inputs, outputs in nodes]
    tensors = [numpy_helper.from_array(np.float32([1]), name) for name in constants]
    return helper.make_graph(made, "g", [value("x")], [value(o) for o in outputs], tensors)


def names(graph):
    return [list(node.output) for node in graph.node], [t.name for t in graph.initializer]


def test_nodes_that_no_output_needs_go_with_their_constants():
    graph = graph_of(
        [
            ("Add", ["x", "a"], ["y"]),
            ("Add", ["y", "b"], ["dead"]),
            ("Relu", ["dead"], ["deader"]),
            ("Relu", ["y"], ["z"]),
        ],
        ["z"],
        ["a", "b", "c"],
    )
    drop_unused(graph)
    assert names(graph) == ([["y"], ["z"]], ["a"])
    onnx.checker.check_graph(graph)


def test_a_constant_that_two_nodes_read_stays_for_the_one_that_is_needed():
    graph = graph_of([("Add", ["x", "a"], ["dead"]), ("Mul", ["x", "a"], ["z"])], ["z"], ["a"])
    drop_unused(graph)
    assert names(graph) == ([["z"]], ["a"])


def test_a_node_with_several_results_stays_for_one_of_them():
    graph = graph_of([("Split", ["x"], ["p", "q"]), ("Relu", ["q"], ["z"])], ["z"])
    drop_unused(graph)
    assert names(graph) == ([["p", "q"], ["z"]], [])


def test_values_inside_that_are_outputs_too_are_needed():
    graph = graph_of([("Relu", ["x"], ["y"]), ("Relu", ["y"], ["z"])], ["y"])
    drop_unused(graph)
    assert names(graph)[0] == [["y"]]
    graph = graph_of([("Relu", ["x"], ["y"]), ("Relu", ["y"], ["z"])], ["z", "y"])
    drop_unused(graph)
    assert names(graph)[0] == [["y"], ["z"]]


def test_a_graph_whose_every_part_is_needed_stays_as_it_is():
    graph = graph_of([("Add", ["x", "a"], ["y"]), ("Add", ["y", "a"], ["z"])], ["z"], ["a"])
    before = graph.SerializeToString(deterministic=True)
    drop_unused(graph)
    assert graph.SerializeToString(deterministic=True) == before


def test_an_editor_collects_nodes_and_leaves_those_of_the_graph_alone():
    graph = graph_of([("Relu", ["x"], ["z"])], ["z"])
    editor = Editor(graph)
    assert editor.node("Clip", ["x", "", "top"], "y") == "y"
    assert editor.node("Cast", ["y"], "w", to=TensorProto.UINT8) == "w"
    assert names(graph)[0] == [["z"]]
    assert [(n.op_type, n.name, list(n.output)) for n in editor.nodes] == [
        ("Clip", "y", ["y"]),
        ("Cast", "w", ["w"]),
    ]
    assert helper.get_attribute_value(editor.nodes[1].attribute[0]) == TensorProto.UINT8


def test_an_editor_adds_a_constant_of_one_name_once():
    graph = graph_of([("Relu", ["x"], ["z"])], ["z"], ["a"])
    editor = Editor(graph)
    assert editor.constant("a", np.float32([2])) == "a"  # is there already
    assert editor.constant("two", np.uint8(2)) == editor.constant("two", np.uint8(2)) == "two"
    assert [t.name for t in graph.initializer] == ["a", "two"]
    assert numpy_helper.to_array(graph.initializer[0]).tolist() == [1]
    stored = numpy_helper.to_array(graph.initializer[1])
    assert (stored.dtype, stored.shape, int(stored)) == (np.uint8, (), 2)
