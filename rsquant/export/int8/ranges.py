"""Calibration: which values occur in a graph, over some images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from torch import Tensor

from rsquant.export.engine import run, session

Ranges = dict[str, tuple[float, float]]

_BATCH = 2


def value_ranges(proto: onnx.ModelProto, names: Sequence[str], images: Tensor) -> Ranges:
    """Smallest and largest value of each tensor, in onnxruntime.

    Args:
        proto: in float32. It is not changed.
        names: of float tensors in it, its input included.
        images: (N, 3, R, R) float32, normalised, one or more.
    """
    exposed = onnx.ModelProto()
    exposed.CopyFrom(proto)
    known = {value.name for value in (*exposed.graph.output, *exposed.graph.input)}
    made = {name for node in exposed.graph.node for name in node.output}
    wanted = [name for name in names if name in made]
    for name in wanted:
        if name not in known:
            exposed.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    engine = session(exposed.SerializeToString())
    found: Ranges = {}
    for batch in images.split(_BATCH):
        values = dict(zip(wanted, run(engine, batch.numpy(), wanted), strict=True))
        for name in names:
            value = values.get(name, batch.numpy())
            low, high = found.get(name, (np.inf, -np.inf))
            found[name] = (min(low, float(value.min())), max(high, float(value.max())))
    return found
