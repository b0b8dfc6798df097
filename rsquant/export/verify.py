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
# Float32 rounding through a network stays near 1e-6 of the largest value; a wrong BatchNorm,
# weight or threshold is off by 1e-3 and more somewhere among all values.
TOLERANCE = 1e-4
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
        forced_error: largest relative difference of a logit, the network being given the file's
            own activation codes (equals max_rel_error where activations are float32).
        wrong_codes: activation codes of the file that rounding cannot explain.
        near_ties: activation codes that differ, but lie at a threshold.
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
    tip values in the layers behind it. Two right implementations of a low-bit network may
    therefore differ visibly in a logit, and no limit on logits tells them from a wrong one. So
    the network is *given* the file's activation codes, layer by layer. Then

    - at each quantizer the network's own input must lie where the file's code says: between that
      code's two thresholds, or within 1e-4 of the layer's largest input of them (a near tie);
    - the logits must agree within 1e-4 of the largest logit.

    Each layer is compared on equal inputs, so errors neither grow nor hide: one changed BatchNorm
    channel, weight or threshold moves thousands of values and cannot pass. With float activations
    there are no codes, and the second rule is the whole check. What users see, both sides running
    freely, is measured over all images and reported; it also must not differ from the traced run
    of the file by more than the same limit on half of the traced images, so that the graph
    checked is the graph that users run.

    Args:
        images: (N, 3, R, R) float32, normalised; None generates 8. The first 8 are traced.
    Raises:
        ExportError: onnxruntime does not load or run the file, or its inputs differ.
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
        forced_error=trace.logit_error,
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
    logit_error: float = 0.0
    wrong: int = 0
    near_ties: int = 0
    first_wrong: str = ""


def _failure(trace: _Trace, free: np.ndarray, finite: bool) -> str:
    if not finite:
        return "logits are not finite"
    if trace.wrong:
        return f"{trace.wrong} activation codes are wrong, the first at {trace.first_wrong}"
    if not trace.logit_error <= TOLERANCE:
        return (
            f"logits differ by {trace.logit_error:.1e} of the largest, at most {TOLERANCE:.0e} "
            "is rounding"
        )
    scale = float(np.abs(trace.logits).max()) or 1.0
    apart = np.median(np.abs(trace.logits - free).max(1)) / scale
    if apart > TOLERANCE:
        return f"onnxruntime gives other logits ({apart:.1e}) when its activations are looked at"
    return ""


def _compare_layers(model: SwitchableNetwork, path: Path, images: Tensor) -> _Trace:
    """Run the network on the file's activation codes, noting every difference."""
    proto = onnx.load(str(path))
    names = _expose_quantized(proto)
    session = _session(proto.SerializeToString())
    trace = _Trace(np.empty((0,)))
    logits, largest, apart = [], 0.0, 0.0
    for batch in images.split(_BATCH):
        first, *levels = _run(session, batch, ["logits", *names])
        with _forced(model, levels, trace):
            own = model(batch).numpy()
        logits.append(first)
        largest = max(largest, float(np.abs(own).max()))
        apart = max(apart, float(np.abs(own - first).max()))
    trace.logits = np.concatenate(logits)
    trace.logit_error = apart / (largest or 1.0)
    return trace


@contextmanager
def _forced(model: SwitchableNetwork, levels: list[np.ndarray], trace: _Trace) -> Iterator[None]:
    """Inside the block, activation quantizers return `levels`, in order, and are compared."""
    given = iter(levels)
    used = 0

    def force(name: str, quantizer: LQActivationQuantizer, x: Tensor) -> Tensor:
        nonlocal used
        used += 1
        value = torch.from_numpy(next(given, np.empty(0, np.float32)))
        if value.shape != x.shape:
            raise ExportError(
                f"parity: the file's activation {used} is {tuple(value.shape)}, the network's "
                f"{name} is {tuple(x.shape)}"
            )
        _compare_codes(name, x, value, quantizer.levels(), trace)
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
    if used != len(levels):
        raise ExportError(f"parity: the file has {len(levels)} quantized activations, not {used}")


def _compare_codes(name: str, x: Tensor, value: Tensor, level: Tensor, trace: _Trace) -> None:
    """Count values whose level in the file is not the one nearest to the network's own input."""
    step = lq_codes.thresholds(level)
    # A value that is none of the levels takes the nearest code, and is then compared as such.
    code = lq_codes.assign(value.reshape(-1), step)
    own = lq_codes.assign(x.reshape(-1), step)
    limit = TOLERANCE * float(x.abs().max())
    off_level = (value.reshape(-1) - level[code]).abs() > TOLERANCE * float(level.abs().max())
    differs = (code != own).nonzero().squeeze(1)
    end = torch.tensor([float("inf")])
    bound = torch.cat([-end, step, end])
    x, code = x.reshape(-1)[differs], code[differs]
    outside = torch.maximum(bound[code] - x, x - bound[code + 1])
    wrong = int((outside > limit).sum()) + int(off_level.sum())
    trace.near_ties += len(differs) - int((outside > limit).sum())
    if wrong and not trace.wrong:
        trace.first_wrong = name.removeprefix("body.")
    trace.wrong += wrong


def _expose_quantized(proto: onnx.ModelProto) -> list[str]:
    """Make the activation quantizers' outputs graph outputs; their names in order."""
    found = [o for node in proto.graph.node for o in node.output if o.startswith(QUANTIZED_VALUE)]
    found.sort(key=lambda name: int(name.removeprefix(QUANTIZED_VALUE)))
    for name in found:
        proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return found


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
