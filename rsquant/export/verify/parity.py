"""Parity: does a written ONNX file compute what the network computes?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsquant.errors import ExportError
from rsquant.export.engine import run, session
from rsquant.export.forms import Made
from rsquant.export.verify.bytes import trace_int8
from rsquant.export.verify.floats import trace_float
from rsquant.export.verify.integers import trace_integers
from rsquant.export.verify.trace import BATCH, Trace
from rsquant.nn.modes import evaluation_mode
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.tasks import by_name

# Images of the layer-by-layer comparison, which keeps every activation in memory.
TRACED_IMAGES = 8


@dataclass(frozen=True)
class Parity:
    """How far a file is from its network, over some images.

    Attributes:
        max_abs_error: largest difference of a logit, each side running freely.
        max_rel_error: the same, divided by the largest absolute logit.
        top1_agreement: share of predictions that are the network's, 0 to 1; of classification, of
            images with its top-1 prediction.
        images: how many were compared.
        forced_error: largest relative difference before a quantizer or of a logit, the network
            being given the file's own activation levels (equals max_rel_error where activations
            are float32). Of a file on bytes: beyond half a step, at every place where it rounds,
            the float graph being given the file's own bytes.
        wrong_codes: activation levels of the file that its own inputs do not explain.
        near_ties: activations that took another level than in what they are compared with, lying
            at a threshold.
        file_bytes: size of the file, without one that it shares.
        float_bytes: size of the same graph with float32 weights, 0 where it is not known.
        passed: see `check_parity`.
        failure: why it did not pass, else "".
        outputs: float32, of the network and of the file for all images.
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
    outputs: tuple[Tensor, Tensor] | None = field(default=None, repr=False, compare=False)
    float_bytes: int = 0


@torch.no_grad()
def check_parity(
    model: SwitchableNetwork,
    path: str | Path,
    resolution: int,
    images: Tensor | None = None,
    made: Made | None = None,
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
    are no levels, and the last rule is the whole check; there rounding adds up over the layers, so
    where 1e-5 is not kept, three times the distance of the network from its own logits in float64
    is the limit (at most 4e-5).

    What users see, both sides running freely, is measured over all images and reported; on half of
    the traced images it must also be within the limit of the traced run of the file, so that the
    graph checked is the graph users run.

    A file on bytes is checked in two steps: its float graph beside the network, as above, then its
    bytes beside that float graph, by the same rules; there half a step is rounding, too, and values
    beyond the range of calibration are bounded by it.

    An integer network's file computes the network's integers: every code of the traced images and
    every logit must be equal, bit for bit.

    Args:
        images: (N, 3, R, R) float32, normalised; None generates 8. The first 8 are traced.
        made: what the file was made from; a file on bytes needs it.
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
    traced = images[:TRACED_IMAGES]
    with evaluating(model, resolution):
        expected = np.concatenate([model(x).numpy() for x in images.split(BATCH)])
        got = run_plain(path, images)
        if expected.shape != got.shape:
            raise ExportError(
                f"parity: the file's logits are {got.shape}, the network's are {expected.shape}"
            )
        if made is not None and made.integer is not None:
            trace = trace_integers(model, onnx.load(str(path)), made.integer, traced)
            failure = _failure(trace, got[: len(traced)])
            if not failure and not np.array_equal(expected, got):
                failure = "logits are not the network's, bit for bit"
        elif made is None or made.int8 is None:
            trace = trace_float(model, onnx.load(str(path)), traced)
            failure = _failure(trace, got[: len(traced)])
        else:
            assert made.floats is not None
            floats = onnx.ModelProto()
            floats.CopyFrom(made.floats)
            # Fewer images: what is wrong there is wrong in the bytes as well.
            trace = trace_float(model, floats, traced[:BATCH])
            failure = _failure(trace, trace.logits)
            if not failure:
                trace = trace_int8(onnx.load(str(path)), made.int8, made.floats, traced)
                failure = _failure(trace, got[: len(traced)])
    if not np.isfinite(got).all():
        failure = "logits are not finite"
    error = float(np.abs(expected - got).max())
    outputs = torch.from_numpy(expected), torch.from_numpy(got)
    return Parity(
        max_abs_error=error,
        max_rel_error=error / (float(np.abs(expected).max()) or 1.0),
        top1_agreement=by_name(model.spec.task).agreement(*outputs),
        images=len(images),
        forced_error=trace.error,
        wrong_codes=trace.wrong,
        near_ties=trace.near_ties,
        file_bytes=path.stat().st_size,
        passed=not failure,
        failure=failure,
        outputs=outputs,
        float_bytes=0 if made is None else made.float_bytes,
    )


def _failure(trace: Trace, free: NDArray[np.float32]) -> str:
    if trace.error > trace.limit:
        return (
            f"{trace.error_at} differs by {trace.error:.1e} of its largest value, "
            f"at most {trace.limit:.0e} is rounding"
        )
    if trace.wrong:
        return f"{trace.wrong} constants or activation levels are wrong, first {trace.wrong_at}"
    scale = float(np.abs(trace.logits).max()) or 1.0
    apart = np.median(np.abs(trace.logits - free).max(1)) / scale
    if apart > trace.limit:
        return f"onnxruntime gives other logits ({apart:.1e}) when its activations are read out"
    return ""


@contextmanager
def evaluating(model: SwitchableNetwork, resolution: int) -> Iterator[None]:
    """Evaluation mode, on the CPU, at one resolution, weights quantized once."""
    device = next(model.parameters()).device
    try:
        model.cpu()
        with evaluation_mode(model), model.at(resolution), model.weights_quantized_once():
            yield
    finally:
        model.to(device)


def run_plain(path: Path, images: Tensor) -> NDArray[np.float32]:
    """Logits of a file for all images, as a user runs it."""
    engine = session(path)
    return np.concatenate([run(engine, x.numpy())[0] for x in images.split(BATCH)])
