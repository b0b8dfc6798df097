"""Adding nodes and constants to a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


class Editor:
    """Collects nodes in the order in which they run, and constants of their own names.

    Args:
        graph: whose constants are extended at once; its nodes are left alone.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.constants = {tensor.name for tensor in graph.initializer}

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node with one output, which names it too; returns the output."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        """Add an initializer, unless there is one of that name; returns its name."""
        if name not in self.constants:
            self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
            self.constants.add(name)
        return name


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and constants that no output needs."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed.update(node.input)
    nodes, constants = kept[::-1], [t for t in graph.initializer if t.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
