"""The engines that are timed. Each turns one resolution of a network into something to call.

An engine is a function of a Case, listed in ENGINES under its name; a new one is one decorated
function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_static,
)
from torch import Tensor

from rsquant.export.onnx import write
from rsquant.export.quiet import quiet
from rsquant.nn.freeze import fold_batchnorms, freeze
from rsquant.nn.switchable import SwitchableNetwork

Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """What an engine is given.

    Attributes:
        network: in evaluation mode, on the CPU.
        resolution: side of the images in pixels.
        images: (M, 3, R, R) float32, normalised: to calibrate on, and to run.
        batch: images per call.
        folder: where files may be put; lives as long as the benchmark.
    """

    network: SwitchableNetwork
    resolution: int
    images: Tensor
    batch: int
    folder: Path

    def inputs(self) -> Tensor:
        """(batch, 3, R, R), contiguous."""
        repeats = -(-self.batch // len(self.images))
        return self.images.repeat(repeats, 1, 1, 1)[: self.batch].contiguous()

    def float_file(self) -> Path:
        """The ONNX file of the same architecture in float32, written when first asked for."""
        path = self.folder / f"float_{self.resolution}.onnx"
        if not path.exists():
            write(self.network, path, self.resolution, activation=False)
        return path


@dataclass(frozen=True)
class Prepared:
    """An engine ready for one resolution.

    Attributes:
        load: number of threads -> a call that runs one batch.
        file: the ONNX file it runs, None for engines without one.
    """

    load: Callable[[int], Call]
    file: Path | None = None


Engine = Callable[[Case], Prepared]
ENGINES: dict[str, Engine] = {}


def engine(name: str) -> Callable[[Engine], Engine]:
    """Register an engine under the name that `--engines` and the tables use."""

    def register(function: Engine) -> Engine:
        ENGINES[name] = function
        return function

    return register


@engine("torch")
def _torch(case: Case) -> Prepared:
    """PyTorch on the same architecture in float32: BatchNorms folded, channels_last."""
    frozen = fold_batchnorms(freeze(case.network, case.resolution, activation=False)).module
    frozen = frozen.to(memory_format=torch.channels_last)
    images = case.inputs().contiguous(memory_format=torch.channels_last)

    def load(threads: int) -> Call:
        def call() -> object:
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            with torch.inference_mode():
                return frozen(images)

        return call

    return Prepared(load)


@engine("ort_float32")
def _ort_float32(case: Case) -> Prepared:
    """onnxruntime on the same architecture in float32."""
    return _ort(case, case.float_file())


@engine("ort_int8")
def _ort_int8(case: Case) -> Prepared:
    """onnxruntime's own static int8 of the same architecture: QDQ, a scale per output channel."""
    source = case.float_file()
    prepared = case.folder / f"prepared_{case.resolution}.onnx"
    path = case.folder / f"int8_{case.resolution}.onnx"
    with quiet():
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(path), _Calibration(case.images), quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True,
        )  # fmt: skip
    return _ort(case, path)


@engine("ort_export")
def _ort_export(case: Case) -> Prepared:
    """onnxruntime on what `rsquant export` writes: levels in float32, activations quantized."""
    path = case.folder / f"export_{case.resolution}.onnx"
    write(case.network, path, case.resolution)
    return _ort(case, path)


def _ort(case: Case, path: Path) -> Prepared:
    images = case.inputs().numpy()

    def load(threads: int) -> Call:
        session = ort_session(path, threads)
        name = session.get_inputs()[0].name
        return lambda: session.run(None, {name: images})

    return Prepared(load, path)


def ort_session(path: Path, threads: int) -> Any:
    """An onnxruntime session with default options, but for the number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class _Calibration(CalibrationDataReader):
    """One image at a time, as onnxruntime's calibration asks for them."""

    def __init__(self, images: Tensor) -> None:
        self._images = iter(images.contiguous().split(1))

    def get_next(self) -> dict[str, Any] | None:
        image = next(self._images, None)
        return None if image is None else {"images": image.numpy()}
