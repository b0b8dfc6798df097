"""What is connected to what in a graph."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from rsquant.export.chains import Chain, find_chains
from rsquant.export.norms import factor_and_offset

ACTIVATIONS = ("Relu", "Clip")
WEIGHTED = ("Conv", "Gemm")


@dataclass(frozen=True)
class Feeder:
    """The convolution that alone feeds a quantizer, and what lies between.

    Attributes:
        node: Conv or Gemm.
        between: nodes from there to the quantizer: activations and max-poolings.
        low, high: the bounds that activations put on the sum.
    """

    node: onnx.NodeProto
    between: tuple[onnx.NodeProto, ...]
    low: float
    high: float


class Graph:
    """Producers, consumers and constants of a graph of `graph.to_onnx`."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.outputs = {output.name for output in graph.output}
        self.producer = {name: node for node in graph.node for name in node.output}
        self.consumers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.consumers[name].append(node)
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t
        self.chains = find_chains(graph)

    def constant(self, name: str) -> NDArray[Any] | None:
        """The value of a constant; None for what is none."""
        found = self._constants.get(name)
        return None if found is None else numpy_helper.to_array(found)

    def weights(self, node: onnx.NodeProto) -> NDArray[np.float32] | None:
        """The weights (O, ...) of a Conv, or of a Gemm that multiplies by (O, I); else None.

        None as well where weights or bias are no constants.
        """
        if node.op_type not in WEIGHTED:
            return None
        if node.op_type == "Gemm":
            given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            plain = given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0
            if not plain or given.get("transA", 0) or not given.get("transB", 0):
                return None
        if len(node.input) > 2 and node.input[2] and self.constant(node.input[2]) is None:
            return None
        return self.constant(node.input[1])

    def norm(self, node: onnx.NodeProto) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Factor and offset (C,) of a BatchNormalization of constants; None for anything else."""
        found = [self.constant(name) for name in node.input[1:]]
        values = [value for value in found if value is not None]
        if node.op_type != "BatchNormalization" or len(values) < len(found):
            return None
        return factor_and_offset(node, values)

    def bias(self, node: onnx.NodeProto) -> NDArray[np.float32] | None:
        """The bias (O,) of a Conv or Gemm, None for none."""
        if len(node.input) < 3 or not node.input[2]:
            return None
        return self.constant(node.input[2])

    def only_consumer(self, name: str) -> onnx.NodeProto | None:
        """The node that alone reads a value that is no output of the graph."""
        readers = self.consumers[name]
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def bounds(self, node: onnx.NodeProto) -> tuple[float, float] | None:
        """What a Relu or a Clip with constant bounds keeps between; else None."""
        if node.op_type == "Relu":
            return 0.0, np.inf
        if node.op_type != "Clip":
            return None
        low, high = -np.inf, np.inf
        for at, name in enumerate(node.input[1:3]):
            value = self.constant(name) if name else None
            if name and value is None:
                return None
            if value is not None:
                low, high = (float(value), high) if at == 0 else (low, float(value))
        return low, high

    def activation_behind(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The activation that alone reads a node's result, if it bounds around zero."""
        reader = self.only_consumer(node.output[0])
        bounds = None if reader is None else self.bounds(reader)
        return reader if bounds is not None and bounds[0] <= 0 <= bounds[1] else None

    def feeder(self, chain: Chain) -> Feeder | None:
        """The convolution that feeds a quantizer and nothing else, if it is one."""
        name = chain.source
        between: list[onnx.NodeProto] = []
        low, high = -np.inf, np.inf
        if any(node.output[0] not in chain.nodes for node in self.consumers[name]):
            return None
        while name in self.producer and name not in self.outputs:
            node = self.producer[name]
            if between and self.only_consumer(name) is None:
                return None
            if self.weights(node) is not None:
                return Feeder(node, tuple(reversed(between)), low, high)
            if node.op_type in ACTIVATIONS:
                bounds = self.bounds(node)
                if bounds is None:
                    return None
                # What comes later bounds last.
                low, high = max(min(bounds[0], high), low), min(max(bounds[1], low), high)
            elif node.op_type != "MaxPool":
                return None
            between.append(node)
            name = node.input[0]
        return None
