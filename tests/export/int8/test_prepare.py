"""Norms become convolutions where they could be of maps."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from rsquant.export.int8.prepare import norms_to_convolutions


def graph_of_a_norm(shape, node):
    """A node, and a norm of its result."""
    tensors = {"factor": [1.0, 2.0], "offset": [0.0, 1.0], "mean": [0.0, 0.0], "var": [1.0, 4.0]}
    constants = [
        numpy_helper.from_array(np.array(v, np.float32), name) for name, v in tensors.items()
    ]
    nodes = [
        helper.make_node(node, ["x"], ["y"], domain="some.domain" if node == "Unknown" else ""),
        helper.make_node("BatchNormalization", ["y", *tensors], ["z"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("some.domain", 1)]
    graph = helper.make_graph(nodes, "norm", [x], [z], constants)
    return helper.make_model(graph, opset_imports=opsets)


@pytest.mark.parametrize(
    ("shape", "node", "kind"),
    [
        ((1, 2, 3, 3), "Relu", "Conv"),
        ((1, 2), "Relu", "BatchNormalization"),
        ((1, 2, 3), "Relu", "BatchNormalization"),
        # onnx infers nothing of this node's result, which a norm most often has maps of.
        ((1, 2, 3, 3), "Unknown", "Conv"),
    ],
)
def test_only_norms_of_what_is_known_to_be_no_map_stay(shape, node, kind):
    proto = graph_of_a_norm(shape, node)
    norms_to_convolutions(proto)
    assert [one.op_type for one in proto.graph.node if one.op_type != "Constant"] == [node, kind]
