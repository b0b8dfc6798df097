"""The file of an integer network beside the network, code for code."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor, nn

from rsquant.export.engine import run, session
from rsquant.export.graph import LOGITS
from rsquant.export.integer import IntegerGraph
from rsquant.export.verify.trace import BATCH, Trace, expose
from rsquant.nn.integer.exact import codes_of
from rsquant.nn.integer.resize import IntegerResize
from rsquant.nn.switchable import SwitchableNetwork


def trace_integers(
    model: SwitchableNetwork, proto: onnx.ModelProto, made: IntegerGraph, images: Tensor
) -> Trace:
    """Run both, and count the codes of every layer, and the logits, that are not equal.

    Args:
        model: in evaluation, at the size of the file.
        proto: as it was written, which gets further outputs.
        images: (N, 3, R, R) float32, normalised.
    """
    body: Any = model.body
    found: dict[str, NDArray[np.float32]] = {}

    def note(name: str) -> Any:
        def hook(module: Any, _: Any, output: Tensor) -> None:
            found[name] = codes_of(output, _value_of(module), model.active.rows).numpy()

        return hook

    trace = Trace(np.empty((0,)))
    # What only moves values (a pooling of maxima, dropout) rounds nothing.
    modules: dict[str, nn.Module] = {name: body.get_submodule(name) for name in made.values}
    names = [name for name, module in modules.items() if _value_of(module) is not None]
    values = [made.values[name] for name in names]
    expose(proto, [value.name for value in values])
    engine = session(proto.SerializeToString())
    hooks = [modules[name].register_forward_hook(note(name)) for name in names]
    logits = []
    try:
        for batch in images.split(BATCH):
            own = model(batch).numpy()
            outputs = [LOGITS, *(value.name for value in values)]
            got, *codes = run(engine, batch.numpy(), outputs)
            for name, value, one in zip(names, values, codes, strict=True):
                integers = (one.astype(np.int32) - value.zero) * round(value.scale)
                trace.count(integers != found[name], name)
            trace.count(got != own, "logits")
            logits.append(got)
    finally:
        for hook in hooks:
            hook.remove()
    trace.logits = np.concatenate(logits)
    return trace


def _value_of(module: Any) -> Any:
    """What a layer rounds to; None of other modules."""
    # A resized map has the scale of what it reads.
    return module.source if isinstance(module, IntegerResize) else getattr(module, "out", None)
