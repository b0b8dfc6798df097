"""Parity: does a written ONNX file compute what the network computes?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from rsquant.errors import ExportError
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.quantizers import LQActivationQuantizer
from rsquant.quantizers import codes as lq_codes

# What the exporter names the output of an activation quantizer, and a number.
QUANTIZED_VALUE = "quantized_"
IMAGES, LOGITS = "images", "logits"
# Of the largest value. Float32 rounding between two quantizers, or through a whole float network,
# measured 2e-6 and less (ResNet-101 at 224); one BatchNorm channel wrong by 1 % moved a logit by
# 4e-5 and more.
TOLERANCE = 1e-5
# Images of the layer-by-layer comparison, which keeps every activation in memory.
TRACED_IMAGES = 8
_BATCH = 4


@dataclass(frozen=True)
class Parity:
    """How far a file is from its network, over some images.

    Attributes:
        max_abs_error: largest difference of a logit, each side running freely.
        max_rel_error: the same, divided by the largest absolute logit.
        top1_agreement: share of the images with the same highest logit, 0 to 1.
        images: how many were compared.
        forced_error: largest relative difference before a quantizer or of a logit, the network
            being given the file's own activation levels (equals max_rel_error where activations
            are float32).
        wrong_codes: activation levels of the file that its own inputs do not explain.
        near_ties: activations that took another level than in the network, lying at a threshold.
        file_bytes: size of the file.
        passed: see `check_parity`.
        failure: why it did not pass, else "".
    """

    max_abs_error: float
    max_rel_error: float
    top1_agreement: float
    images: int
    forced_error: float
    wrong_codes: int
    near_ties: int
    file_bytes: int
    passed: bool
    failure: str = ""


@torch.no_grad()
def check_parity(
    model: SwitchableNetwork,
    path: str | Path,
    resolution: int,
    images: Tensor | None = None,
) -> Parity:
    """Run a file in onnxruntime, with the options a plain user has, and compare.

    Rounding an activation is discontinuous: a convolution that sums in another order differs by
    1e-7, a value that lies at a threshold takes the other level, and that step is large enough to
    tip values in the layers behind it. Two right implementations of a fresh ResNet-50 2/2 differ
    by 11 % of the largest logit, so no limit on logits tells right from wrong. Instead the network
    is *given* the file's activation levels, layer by layer, and then

    - what comes before each quantizer must agree within 1e-5 of that layer's largest value;
    - each level the file took must be the one its own value calls for (a value within 1e-5 of a
      threshold may take either);
    - the logits must agree within 1e-5 of the largest.

    Every layer is compared on equal inputs, so errors neither grow nor hide: a wrong BatchNorm
    channel, weight, level or threshold shows in the layer behind it. With float activations there
    are no levels, and the last rule is the whole check. What users see, both sides running freely,
    is measured over all images and reported; on half of the traced images it must also be within
    the limit of the traced run of the file, so that the graph checked is the graph users run.

    Args:
        images: (N, 3, R, R) float32, normalised; None generates 8. The first 8 are traced.
    Raises:
        ExportError: onnxruntime does not load or run the file, or it is of another network.
    """
    path = Path(path)
    if images is None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(TRACED_IMAGES, 3, resolution, resolution, generator=generator)
    if not len(images):
        raise ExportError("parity: needs at least one image, got none")
    images = images.contiguous().float()
    with _evaluating(model, resolution):
        expected = np.concatenate([model(x).numpy() for x in images.split(_BATCH)])
        got = _run_plain(path, images)
        if expected.shape != got.shape:
            raise ExportError(
                f"parity: the file's logits are {got.shape}, the network's are {expected.shape}"
            )
        traced = images[:TRACED_IMAGES]
        trace = _compare_layers(model, path, traced)
    error = float(np.abs(expected - got).max())
    scale = float(np.abs(expected).max()) or 1.0
    failure = _failure(trace, got[: len(traced)], bool(np.isfinite(got).all()))
    return Parity(
        max_abs_error=error,
        max_rel_error=error / scale,
        top1_agreement=float((expected.argmax(1) == got.argmax(1)).mean()),
        images=len(images),
        forced_error=trace.error,
        wrong_codes=trace.wrong,
        near_ties=trace.near_ties,
        file_bytes=path.stat().st_size,
        passed=not failure,
        failure=failure,
    )


@dataclass
class _Trace:
    """The outcome of the layer-by-layer comparison."""

    logits: np.ndarray
    error: float = 0.0
    error_at: str = ""
    wrong: int = 0
    wrong_at: str = ""
    near_ties: int = 0

    def compare(self, own: Tensor, value: Tensor, where: str) -> None:
        """Note the largest difference, as a share of the largest value; NaN counts as infinite."""
        apart = float((own - value).abs().max()) / (float(own.abs().max()) or 1.0)
        apart = apart if apart == apart else float("inf")
        if apart > self.error:
            self.error, self.error_at = apart, where


def _failure(trace: _Trace, free: np.ndarray, finite: bool) -> str:
    if not finite:
        return "logits are not finite"
    if trace.error > TOLERANCE:
        return (
            f"{trace.error_at} differs by {trace.error:.1e} of its largest value, "
            f"at most {TOLERANCE:.0e} is rounding"
        )
    if trace.wrong:
        return f"{trace.wrong} activation levels are wrong, the first at {trace.wrong_at}"
    scale = float(np.abs(trace.logits).max()) or 1.0
    apart = np.median(np.abs(trace.logits - free).max(1)) / scale
    if apart > TOLERANCE:
        return f"onnxruntime gives other logits ({apart:.1e}) when its activations are looked at"
    return ""


def _compare_layers(model: SwitchableNetwork, path: Path, images: Tensor) -> _Trace:
    """Run the network on the file's activation levels, noting every difference."""
    proto = onnx.load(str(path))
    before, after = _expose_quantizers(proto)
    session = _session(proto.SerializeToString())
    trace = _Trace(np.empty((0,)))
    logits = []
    for batch in images.split(_BATCH):
        # A quantizer may read the images themselves, which are no output.
        names = [LOGITS, *after, *(name for name in before if name != IMAGES)]
        values = dict(zip(names, _run(session, batch, names), strict=True))
        values[IMAGES] = batch.numpy()
        pairs = [(values[a], values[b]) for a, b in zip(before, after, strict=True)]
        with _forced(model, pairs, trace):
            trace.compare(model(batch), torch.from_numpy(values[LOGITS]), "logits")
        logits.append(values[LOGITS])
    trace.logits = np.concatenate(logits)
    return trace


@contextmanager
def _forced(
    model: SwitchableNetwork, pairs: list[tuple[np.ndarray, np.ndarray]], trace: _Trace
) -> Iterator[None]:
    """Inside the block, quantizers return the file's values, in order, and are compared.

    Args:
        pairs: what the file has before and after each quantizer.
    """
    used = 0

    def force(name: str, quantizer: LQActivationQuantizer, own: Tensor) -> Tensor:
        nonlocal used
        if used == len(pairs):
            raise ExportError(
                f"parity: the file has {used} quantized activations, fewer than the network"
            )
        x, value = (torch.from_numpy(v) for v in pairs[used])
        used += 1
        if x.shape != own.shape:
            raise ExportError(
                f"parity: the file's activation {used} is {tuple(x.shape)}, the network's "
                f"{name} is {tuple(own.shape)}"
            )
        where = name.removeprefix("body.")
        trace.compare(own, x, f"the input of {where}")
        _compare_levels(own, x, value, quantizer.levels(), where, trace)
        return value

    handles = [
        module.register_forward_hook(
            lambda module, args, _, name=name: force(name, module, args[0])
        )
        for name, module in model.named_modules()
        if isinstance(module, LQActivationQuantizer)
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


def _compare_levels(
    own: Tensor, x: Tensor, value: Tensor, level: Tensor, where: str, trace: _Trace
) -> None:
    """Count values of the file whose level is not the one their input calls for.

    Args:
        own, x: what the network and the file have before the quantizer.
        value: what the file has after it.
        level: (L,) the network's levels.
    """
    own, x, value = own.reshape(-1), x.reshape(-1), value.reshape(-1)
    limit = TOLERANCE * float(x.abs().max())
    # Between these two lies every level that rounding allows; most often they are one.
    lowest = _nearest(x - limit, level)
    highest = _nearest(x + limit, level)
    slack = TOLERANCE * float(level.abs().max())
    nearest = _nearest(value, level)
    no_level = (value - nearest).abs() > slack
    wrong = int((no_level | (value < lowest - slack) | (value > highest + slack)).sum())
    if wrong and not trace.wrong:
        trace.wrong_at = where
    trace.wrong += wrong
    trace.near_ties += int((_nearest(own, level) != nearest).sum())


def _nearest(x: Tensor, level: Tensor) -> Tensor:
    return level[lq_codes.assign(x, lq_codes.thresholds(level))]


def _expose_quantizers(proto: onnx.ModelProto) -> tuple[list[str], list[str]]:
    """Make what comes before and after each quantizer a graph output; the names, in order."""
    producer = {name: node for node in proto.graph.node for name in node.output}
    after = [name for name in producer if name.startswith(QUANTIZED_VALUE)]
    after.sort(key=lambda name: int(name.removeprefix(QUANTIZED_VALUE)))
    before = [_compared_value(producer, name) for name in after]
    known = {output.name for output in proto.graph.output} | {IMAGES}
    for name in dict.fromkeys([*before, *after]):
        if name not in known:
            proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return before, after


def _compared_value(producer: dict[str, onnx.NodeProto], name: str) -> str:
    """The x of the chain Where(Greater(x, threshold), level, ...) that makes `name`."""
    node = producer[name]
    while node.op_type != "Greater":
        if node.op_type not in ("Where", "Identity"):
            raise ExportError(f"parity: {name} is made by {node.op_type}, not by comparisons")
        node = producer[node.input[0]]
    return str(node.input[0])


@contextmanager
def _evaluating(model: SwitchableNetwork, resolution: int) -> Iterator[None]:
    """Evaluation mode, on the CPU, at one resolution, weights quantized once."""
    training = [m for m in model.modules() if m.training]
    device = next(model.parameters()).device
    try:
        model.cpu().eval()
        with model.at(resolution), model.weights_quantized_once():
            yield
    finally:
        model.to(device)
        for module in training:
            module.training = True


def _run_plain(path: Path, images: Tensor) -> np.ndarray:
    session = _session(str(path))
    return np.concatenate([_run(session, x, None)[0] for x in images.split(_BATCH)])


def _session(model: str | bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # the error below says it
    # As many threads as the network runs on here; it changes the time, not the plan.
    options.intra_op_num_threads = torch.get_num_threads()
    # Its waiting threads would otherwise spin on the cores the network runs on next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base of their own
        raise ExportError(f"parity: onnxruntime does not load the file: {_first(error)}") from error


def _run(session: Any, images: Tensor, names: list[str] | None) -> list[np.ndarray]:
    try:
        return session.run(names, {session.get_inputs()[0].name: images.numpy()})
    except Exception as error:
        raise ExportError(f"parity: onnxruntime does not run the file: {_first(error)}") from error


def _first(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
