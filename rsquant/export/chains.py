"""The activation quantizers of a graph: chains of comparisons, as the exporter writes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from rsquant.errors import ExportError
from rsquant.export.graph import QUANTIZED_VALUE


@dataclass(frozen=True)
class Chain:
    """Where(x > thresholds[l], levels[l + 1], ...) for l = 0 .. L - 2.

    Attributes:
        source, output: names of x and of the quantized value.
        nodes: names of the outputs of all its nodes, `output` included.
        thresholds: (L - 1,) float32, ascending. levels: (L,) float32.
    """

    source: str
    output: str
    nodes: frozenset[str]
    thresholds: NDArray[np.float32]
    levels: NDArray[np.float32]


def find_chains(graph: onnx.GraphProto) -> dict[str, Chain]:
    """The quantizers of a graph of `graph.to_onnx`, by output, in the order they run.

    Raises:
        ExportError: a quantized value is made by something else.
    """
    producer = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = node.attribute[0].t
    names = [name for name in producer if name.startswith(QUANTIZED_VALUE)]
    names.sort(key=lambda name: int(name.removeprefix(QUANTIZED_VALUE)))
    return {name: _chain(name, producer, constants) for name in names}


def _chain(
    output: str, producer: dict[str, onnx.NodeProto], constants: dict[str, onnx.TensorProto]
) -> Chain:
    def refused(name: str) -> ExportError:
        made_by = producer[name].op_type if name in producer else "nothing"
        return ExportError(f"{output}: is computed by {made_by}, not by comparisons")

    def value(name: str) -> float:
        if name not in constants:
            raise refused(name)
        return float(numpy_helper.to_array(constants[name]).reshape(()))

    nodes, thresholds, levels = [], [], []
    name, source = output, ""
    while name in producer and producer[name].op_type in ("Where", "Identity"):
        node = producer[name]
        nodes.append(name)
        if node.op_type == "Identity":
            name = node.input[0]
            continue
        above = producer.get(node.input[0])
        if above is None or above.op_type != "Greater" or source not in ("", above.input[0]):
            raise refused(node.input[0])
        source = str(above.input[0])
        nodes.append(str(above.output[0]))
        thresholds.append(value(above.input[1]))
        levels.append(value(node.input[1]))
        name = str(node.input[2])
    if not source:
        raise refused(name)
    levels.append(value(name))
    return Chain(
        source,
        output,
        frozenset(nodes),
        np.array(thresholds[::-1], np.float32),
        np.array(levels[::-1], np.float32),
    )
