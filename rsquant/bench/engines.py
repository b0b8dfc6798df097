"""The engines that are timed. Each turns one resolution of a network into something to call.

An engine is a function of a Case, listed in ENGINES under its name; a new one is one decorated
function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_static,
)
from torch import Tensor

from rsquant import runtime
from rsquant.export.forms import CODEBOOK, INT8, make
from rsquant.export.graph import to_onnx
from rsquant.export.quiet import quiet
from rsquant.nn.freeze import fold_batchnorms, freeze
from rsquant.nn.switchable import ModelSpec, SwitchableNetwork
from rsquant.packing.write import pack
from rsquant.runtime import Memory, Session

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
        sessions: packed networks in memory, by memory and threads; one serves all sizes, as it
            would in an application.
    """

    network: SwitchableNetwork
    resolution: int
    images: Tensor
    batch: int
    folder: Path
    sessions: dict[tuple[Memory, int], Session] = field(default_factory=dict)

    def inputs(self) -> Tensor:
        """(batch, 3, R, R), contiguous."""
        repeats = -(-self.batch // len(self.images))
        return self.images.repeat(repeats, 1, 1, 1)[: self.batch].contiguous()

    def pixels(self) -> NDArray[np.uint8]:
        """The images of `inputs` as 8-bit pixels."""
        spec = self.network.spec
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (spec.mean, spec.std))
        pixels = ((self.inputs() * std + mean) * 255).round().clamp(0, 255)
        return pixels.to(torch.uint8).numpy()

    def packed_file(self) -> Path:
        """The packed network, all sizes in one file, written when first asked for."""
        path = self.folder / "packed.rsq"
        if not path.exists():
            pack(self.network, path)
        return path

    def float_file(self) -> Path:
        """The ONNX file of the same architecture in float32, written when first asked for."""
        path = self.folder / f"float_{self.resolution}.onnx"
        if not path.exists():
            frozen = freeze(self.network, self.resolution, activation=False)
            proto = to_onnx(fold_batchnorms(frozen).module, self.resolution)
            path.write_bytes(proto.SerializeToString())
        return path


@dataclass(frozen=True)
class Prepared:
    """An engine ready for one resolution.

    Attributes:
        load: number of threads -> a call that runs one batch.
        file: the file it runs, None for engines without one.
        open: opens the file once more, for one thread, to be timed.
    """

    load: Callable[[int], Call]
    file: Path | None = None
    open: Callable[[], object] | None = None


# These store weights as codes.
_OF_CODES = ("ort_codebook", "ort_codes_int8")

Engine = Callable[[Case], Prepared]
ENGINES: dict[str, Engine] = {}


def fitting(spec: ModelSpec, packs: bool = True) -> tuple[str, ...]:
    """The engines that can run a network: codes need low-bit weights, packed files both sides.

    Args:
        packs: see `subject.packs`.
    """
    return tuple(
        name
        for name in ENGINES
        if not (name.startswith("packed") and not (packs and spec.low_bit))
        and not (name in _OF_CODES and not spec.low_bit_weights)
    )


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
            str(prepared),
            str(path),
            _Calibration(case.images),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
    return _ort(case, path)


@engine("packed")
def _packed(case: Case) -> Prepared:
    """The packed network in `rsquant.runtime`, fastest kernels; takes uint8 pixels."""
    return _runtime(case, "full")


@engine("packed_low")
def _packed_low(case: Case) -> Prepared:
    """The packed network in little memory: kernels run on the weights as the file holds them."""
    return _runtime(case, "low")


def _runtime(case: Case, memory: Memory) -> Prepared:
    path = case.packed_file()
    pixels = case.pixels()
    runtime.load(path, 1, memory)  # times the kernels, where this machine has not yet

    def call(threads: int) -> Call:
        session = case.sessions.get((memory, threads))
        if session is None:
            session = case.sessions[memory, threads] = runtime.load(path, threads, memory)
        return lambda: session(pixels)

    return Prepared(call, path, lambda: runtime.load(path, 1, memory))


@engine("ort_codebook")
def _ort_codebook(case: Case) -> Prepared:
    """onnxruntime on `rsquant export --form codebook`: codes decoded on loading, float32."""
    return _ort(case, _exported(case, CODEBOOK))


@engine("ort_codes_int8")
def _ort_codes_int8(case: Case) -> Prepared:
    """onnxruntime on `rsquant export --form int8`: codes decoded on loading to int8."""
    return _ort(case, _exported(case, INT8))


def _exported(case: Case, form: str) -> Path:
    path = case.folder / f"export_{form}_{case.resolution}.onnx"
    made = make(case.network, case.resolution, form, calibration=case.images)
    path.write_bytes(made.proto.SerializeToString())
    return path


def _ort(case: Case, path: Path) -> Prepared:
    images = case.inputs().numpy()

    def load(threads: int) -> Call:
        session = ort_session(path, threads)
        name = session.get_inputs()[0].name
        return lambda: session.run(None, {name: images})

    return Prepared(load, path, lambda: ort_session(path, 1))


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
