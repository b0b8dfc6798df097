"""onnxruntime: the same architecture in float32 and in its own int8, and our exported files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_static,
)
from torch import Tensor

from rsquant.bench.engines.base import CpuCase, CpuRun, codes_of_floats, cpu_engine, low_bit_weights
from rsquant.bench.timing import Call
from rsquant.export.forms import CODEBOOK, INT8, make
from rsquant.export.graph import to_onnx
from rsquant.export.quiet import quiet
from rsquant.nn.freeze import fold_batchnorms, freeze

REFERENCE = "ort_float32"


@cpu_engine(REFERENCE)
def float32(case: CpuCase) -> CpuRun:
    """onnxruntime on the same architecture in float32."""
    return _run(case, float_file(case))


@cpu_engine("ort_int8")
def int8(case: CpuCase) -> CpuRun:
    """onnxruntime's own static int8 of the same architecture: QDQ, a scale per output channel."""
    source = float_file(case)
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
    return _run(case, path)


@cpu_engine("ort_codebook", codes_of_floats)
def codebook(case: CpuCase) -> CpuRun:
    """onnxruntime on `rsquant export --form codebook`: codes decoded on loading, float32."""
    return _run(case, _exported(case, CODEBOOK))


@cpu_engine("ort_codes_int8", low_bit_weights)
def codes_int8(case: CpuCase) -> CpuRun:
    """onnxruntime on `rsquant export --form int8`: codes decoded on loading to int8."""
    return _run(case, _exported(case, INT8))


def float_file(case: CpuCase) -> Path:
    """The ONNX file of the same architecture in float32, written when first asked for."""
    path = case.folder / f"float_{case.resolution}.onnx"
    if not path.exists():
        frozen = freeze(case.network, case.resolution, activation=False)
        proto = to_onnx(fold_batchnorms(frozen).module, case.resolution)
        path.write_bytes(proto.SerializeToString())
    return path


def open_session(path: Path, threads: int) -> Any:
    """An onnxruntime session with default options, but for its threads.

    There are as many as asked for, and they spin within a call as they do by default, but not
    behind it: they would go on for about a second, on the processors of whatever is timed next.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _exported(case: CpuCase, form: str) -> Path:
    path = case.folder / f"export_{form}_{case.resolution}.onnx"
    made = make(case.network, case.resolution, form, calibration=case.images)
    path.write_bytes(made.proto.SerializeToString())
    return path


def _run(case: CpuCase, path: Path) -> CpuRun:
    images = case.inputs().numpy()

    def load(threads: int) -> Call:
        session = open_session(path, threads)
        name = session.get_inputs()[0].name
        return lambda: session.run(None, {name: images})

    return CpuRun(load, path, lambda: open_session(path, 1))


class _Calibration(CalibrationDataReader):
    """One image at a time, as onnxruntime's calibration asks for them."""

    def __init__(self, images: Tensor) -> None:
        self._images = iter(images.contiguous().split(1))

    def get_next(self) -> dict[str, Any] | None:
        image = next(self._images, None)
        return None if image is None else {"images": image.numpy()}
