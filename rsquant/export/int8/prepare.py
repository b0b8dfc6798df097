"""A float graph made ready to be put on bytes, and which of its values need a range."""

from __future__ import annotations

import numpy as np
import onnx

from rsquant.export.edit import Editor
from rsquant.export.int8.walk import WEIGHTED, Graph

# Operators that round their result to bytes where all they read is bytes.
ROUNDING = ("Add", "Concat", "GlobalAveragePool", "AveragePool")


def rounded_values(proto: onnx.GraphProto) -> list[str]:
    """The values whose ranges are needed: what may be rounded, but for what feeds a quantizer."""
    graph = Graph(proto)
    # Their thresholds say how they are rounded.
    apart = {name for chain in graph.chains.values() for name in chain.nodes}
    for chain in graph.chains.values():
        feeder = graph.feeder(chain)
        if feeder is not None:
            apart.update(node.output[0] for node in (feeder.node, *feeder.between))
    found = []
    for node in proto.node:
        if node.op_type in WEIGHTED:
            found.append(str(node.input[0]))
        if node.op_type in (*WEIGHTED, *ROUNDING):
            activation = graph.activation_behind(node)
            found.append(str((activation or node).output[0]))
    return [name for name in dict.fromkeys(found) if name not in apart]


def norms_to_convolutions(proto: onnx.ModelProto) -> None:
    """Make every BatchNormalization of maps a convolution of single channels by a single pixel.

    Such norms (after a sum, before a quantizer) then round as convolutions do: what would be four
    passes (to float32, layout, norm, to bytes) is one on bytes.
    """
    graph = proto.graph
    no_maps = _no_maps(proto)
    found = Graph(graph)
    editor = Editor(graph)
    for node in graph.node:
        norm = found.norm(node)
        if norm is None or node.input[0] in no_maps:
            editor.nodes.append(node)
            continue
        factor, offset = norm
        name = node.output[0]
        names = [
            editor.constant(f"{name}/factor", factor.astype(np.float32).reshape(-1, 1, 1, 1)),
            editor.constant(f"{name}/offset", offset.astype(np.float32)),
        ]
        editor.node("Conv", [node.input[0], *names], name, group=len(factor), kernel_shape=[1, 1])
    nodes = list(editor.nodes)
    del graph.node[:]
    graph.node.extend(nodes)


def _no_maps(proto: onnx.ModelProto) -> set[str]:
    """Names of the values that are known to be other than (N, C, H, W); some ranks are unknown."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    types = {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info)}
    return {
        name for name, one in types.items() if one.HasField("shape") and len(one.shape.dim) != 4
    }
