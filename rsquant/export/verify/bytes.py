"""A graph on bytes beside the float graph it was made from, layer by layer."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor

from rsquant.export.edit import drop_unused
from rsquant.export.engine import run, session
from rsquant.export.graph import IMAGES, LOGITS
from rsquant.export.int8.points import Int8Graph, Point
from rsquant.export.int8.walk import Graph
from rsquant.export.verify.trace import BATCH, Trace, expose

# Integers of at most 127 stand for levels: half a step is 0.4 % of the largest and less.
_ROUNDING = 0.005
# Weights are as near as if the largest of a channel were at least this many steps.
_COARSEST = 63.5
_FORCED = "/forced"


def trace_int8(
    proto: onnx.ModelProto, made: Int8Graph, floats: onnx.ModelProto, images: Tensor
) -> Trace:
    """Run both, the float graph on the values that the other one's bytes stand for.

    Every sum between two places of rounding is compared on equal inputs, as integers against
    float32. A byte must be within half a step of what the float graph has there; a level must be
    the one its input calls for.

    Args:
        proto: as it was written, which gets further outputs.
        made: with the reference, whose weights are those that the integers stand for.
        floats: the float graph with the network's own weights, which those must be near.
        images: (N, 3, R, R) float32, normalised.
    """
    trace = Trace(np.empty((0,)))
    _compare_constants(proto, made, floats, trace)
    names = [point.bytes.name for point in made.points]
    expose(proto, names)
    engine = session(proto.SerializeToString())
    cut, sources = _cut(made)
    reference = session(cut.SerializeToString())
    logits = []
    for batch in images.split(BATCH):
        outputs = [LOGITS, *names]
        found = dict(zip(outputs, run(engine, batch.numpy(), outputs), strict=True))
        values = {p.value: _value(p, found[p.bytes.name]) for p in made.points}
        feeds = {f"{name}{_FORCED}": value for name, value in values.items()}
        wanted = [LOGITS, *sources]
        known = {i.name for i in reference.get_inputs()}
        given = {k: v for k, v in feeds.items() if k in known}
        own = dict(zip(wanted, run(reference, batch.numpy(), wanted, given), strict=True))
        own[IMAGES] = batch.numpy()
        for point in made.points:
            x = (values if point.of_bytes else own)[point.source]
            _compare_point(point, torch.from_numpy(x), torch.from_numpy(values[point.value]), trace)
        trace.compare(torch.from_numpy(own[LOGITS]), torch.from_numpy(found[LOGITS]), "logits")
        logits.append(found[LOGITS])
    trace.logits = np.concatenate(logits)
    return trace


def _value(point: Point, found: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What bytes stand for, as DequantizeLinear computes it."""
    integers = found.astype(np.int32) - point.bytes.zero
    return integers.astype(np.float32) * np.float32(point.bytes.scale)


def _compare_point(point: Point, own: Tensor, value: Tensor, trace: Trace) -> None:
    where = point.source.strip("/").replace("network/", "", 1)
    if point.levels is None or point.thresholds is None:
        step = point.bytes.scale
        low, high = ((v - point.bytes.zero) * step for v in (0, 255))
        beyond = ((own.clamp(low, high) - value).abs() - step / 2).clamp_min(0)
        trace.compare(own, own + beyond, where)
        return
    level = torch.tensor(point.levels.integers, dtype=torch.float32) * point.levels.scale
    threshold = torch.from_numpy(point.thresholds).float()
    trace.compare_levels(own, own, value, level, threshold, where)


def _cut(made: Int8Graph) -> tuple[onnx.ModelProto, list[str]]:
    """The reference with an input where the other graph rounds, and what it has there itself."""
    cut = onnx.ModelProto()
    cut.CopyFrom(made.reference)
    forced = {point.value for point in made.points}
    read = set()
    for node in cut.graph.node:
        for i, name in enumerate(node.input):
            if name in forced:
                node.input[i] = f"{name}{_FORCED}"
                read.add(node.input[i])
    for name in sorted(read):
        cut.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    sources = [p.source for p in made.points if not p.of_bytes]
    sources = [name for name in dict.fromkeys(sources) if name != IMAGES]
    expose(cut, sources)
    del cut.graph.value_info[:]
    return cut, sources


def _compare_constants(
    proto: onnx.ModelProto, made: Int8Graph, floats: onnx.ModelProto, trace: Trace
) -> None:
    """What the file decodes must be the network's own weights, biases and levels, up to rounding.

    And it must be what the reference computes with.
    """
    own = Graph(floats.graph)
    decoded = _decoded(proto, list(made.rounded))
    for name, rounded in made.rounded.items():
        where = name.strip("/").replace("network/", "", 1)
        weight, bias = _own(own, own.producer[name])
        found = decoded[f"{name}/weight"]
        other = np.abs(found - rounded.weight.reshape(found.shape)) > 1e-6 * np.abs(found)
        trace.count(other, f"the weights of {where}")
        # A bias of zeros is left out.
        shifted = decoded.get(f"{name}/bias", np.zeros(1))
        other = np.abs(shifted - rounded.shift - rounded.bias) > 1e-6 * np.abs(shifted) + 1e-30
        trace.count(other, f"the bias of {where}")
        rows, near = (w.reshape(len(w), -1) for w in (weight, found))
        off = np.abs(near - rows) > 0.501 * rounded.weight_step[:, None]
        trace.count(off, f"the weights of {where}")
        size = np.abs(rows).max(1)
        # Weights far below their bias are coarse to let it fit.
        coarse = np.abs(near - rows).max(1) > 0.505 * size / _COARSEST
        trace.count(coarse & (rounded.steps < 2**29), f"the scales of {where}")
        off = np.abs(rounded.bias - bias) > 0.501 * rounded.bias_step + 1e-6 * np.abs(bias)
        trace.count(off, f"the bias of {where}")
    for point in made.points:
        if point.chain is not None and point.levels is not None and point.thresholds is not None:
            span = float(np.ptp(point.chain.levels)) or 1.0
            levels = np.array(point.levels.integers) * point.levels.scale
            off = np.abs(levels - point.chain.levels) > _ROUNDING * span
            trace.count(off, f"the levels of {point.value}")
            off = np.abs(point.thresholds - point.chain.thresholds) > _ROUNDING * span
            trace.count(off, f"the thresholds of {point.value}")


def _decoded(proto: onnx.ModelProto, names: list[str]) -> dict[str, NDArray[np.float32]]:
    """Weights and biases of convolutions as the file's own nodes decode them."""
    cut = onnx.ModelProto()
    cut.CopyFrom(proto)
    made = {output for node in cut.graph.node for output in node.output}
    wanted = [f"{name}/{what}" for name in names for what in ("weight", "bias")]
    wanted = [name for name in wanted if name in made]
    del cut.graph.output[:], cut.graph.input[:], cut.graph.value_info[:]
    expose(cut, wanted)
    drop_unused(cut.graph)
    if not wanted:
        return {}
    return dict(zip(wanted, session(cut.SerializeToString()).run(wanted, {}), strict=True))


def _own(graph: Graph, node: onnx.NodeProto) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The network's weight and bias of a convolution, or of a norm as one of single channels."""
    norm = graph.norm(node)
    if norm is not None:
        return norm
    weight, bias = graph.weights(node), graph.bias(node)
    assert weight is not None
    return weight.astype(np.float64), np.zeros(len(weight)) if bias is None else bias.astype(float)
