"""A float graph beside its network, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import torch
from torch import Tensor

from rsquant.errors import ExportError
from rsquant.export.chains import Chain, find_chains
from rsquant.export.engine import run, session
from rsquant.export.graph import IMAGES, LOGITS
from rsquant.export.verify.trace import BATCH, TOLERANCE, Trace, distance, expose
from rsquant.nn.freeze import freeze
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.quantizers import ActivationQuantizer

# One BatchNorm channel that is wrong by 1 % moves a logit by this and more.
MOST_ROUNDING = 4e-5


def trace_float(model: SwitchableNetwork, proto: onnx.ModelProto, images: Tensor) -> Trace:
    """Run the network on the graph's activation levels, noting every difference.

    Args:
        model: in evaluation mode, at the graph's resolution.
        proto: gets further outputs.
        images: (N, 3, R, R) float32, normalised.
    """
    chains = find_chains(proto.graph).values()
    before, after = [c.source for c in chains], [c.output for c in chains]
    expose(proto, [*before, *after])
    engine = session(proto.SerializeToString())
    trace = Trace(np.empty((0,)))
    logits = []
    for batch in images.split(BATCH):
        # A quantizer may read the images themselves, which are no output.
        names = [LOGITS, *after, *(name for name in before if name != IMAGES)]
        values = dict(zip(names, run(engine, batch.numpy(), names), strict=True))
        values[IMAGES] = batch.numpy()
        pairs = [(values[a], values[b]) for a, b in zip(before, after, strict=True)]
        with _forced(model, list(chains), pairs, trace):
            own = model(batch)
            trace.compare(own, torch.from_numpy(values[LOGITS]), "logits")
        if not chains:
            trace.limit = max(trace.limit, _rounding(model, batch, own, trace))
        logits.append(values[LOGITS])
    trace.logits = np.concatenate(logits)
    return trace


def _rounding(model: SwitchableNetwork, batch: Tensor, own: Tensor, trace: Trace) -> float:
    """What two right float32 implementations of a float network may be apart, for these images.

    Without quantizers, rounding adds up from the first layer to the last, and how much that is
    depends on the network. So where more than TOLERANCE lies between the two, the network is run in
    float64 as well. A file whose rounding is up to twice the network's own is right; it is then at
    most three times that from the network.

    Args:
        own: (N, classes) float32, the network's logits of `batch`.
    """
    if trace.error <= TOLERANCE:
        return 0.0
    exact = freeze(model, batch.shape[-1]).double()
    try:
        truth = exact(batch.double())
    except RuntimeError:  # a network that makes float32 values of its own
        return 0.0
    # Beyond this it is no rounding: `freeze` and the network would be two different networks.
    return min(3 * distance(own.double(), truth), MOST_ROUNDING)


@contextmanager
def _forced(
    model: SwitchableNetwork,
    chains: list[Chain],
    pairs: list[tuple[np.ndarray, np.ndarray]],
    trace: Trace,
) -> Iterator[None]:
    """Inside the block, quantizers return the file's values, in order, and are compared.

    Args:
        chains: the quantizers of the file.
        pairs: what the file has before and after each.
    """
    used = 0

    def force(name: str, quantizer: ActivationQuantizer, own: Tensor) -> Tensor:
        nonlocal used
        if used == len(pairs):
            raise ExportError(
                f"parity: the file has {used} quantized activations, fewer than the network"
            )
        chain = chains[used]
        x, value = (torch.from_numpy(v) for v in pairs[used])
        used += 1
        if x.shape != own.shape:
            raise ExportError(
                f"parity: the file's activation {used} is {tuple(x.shape)}, the network's "
                f"{name} is {tuple(own.shape)}"
            )
        where = name.removeprefix("body.")
        trace.compare(own, x, f"the input of {where}")
        level = quantizer.levels().cpu()
        trace.compare_constants(chain.levels, level, f"the levels of {where}")
        threshold = quantizer.thresholds().cpu()
        trace.compare_constants(chain.thresholds, threshold, f"the thresholds of {where}")
        trace.compare_levels(own, x, value, level, threshold, where)
        return value

    handles = [
        module.register_forward_hook(
            lambda module, args, _, name=name: force(name, module, args[0])
        )
        for name, module in model.named_modules()
        if isinstance(module, ActivationQuantizer)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if used < len(pairs):
        raise ExportError(
            f"parity: the file has {len(pairs)} quantized activations, the network only {used}"
        )
