"""Processor time of a packed file and of an int8 ONNX file of the same network, interleaved.

    RSQUANT_ISA=avx2 python bench/without_avx512.py python bench/thread_time.py NAME.rsq INT8.onnx

One thread, batch 1, a size that the ONNX file has. Times are the thread's own processor time, so
that other programs on the machine count as little as they can; `rsquant bench` has time on the
clock.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from rsquant import runtime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packed", type=Path)
    parser.add_argument("onnx", type=Path)
    parser.add_argument("--seconds", type=float, default=8.0)
    arguments = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(arguments.onnx), options, providers=["CPUExecutionProvider"]
    )
    image = session.get_inputs()[0]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1, 3, *image.shape[2:]), np.uint8)
    floats = rng.standard_normal(pixels.shape, np.float32)
    full = runtime.load(arguments.packed, 1, "full")
    low = runtime.load(arguments.packed, 1, "low")
    calls: dict[str, Callable[[], object]] = {
        "onnxruntime": lambda: session.run(None, {image.name: floats}),
        "packed, full": lambda: full(pixels),
        "packed, low": lambda: low(pixels),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.monotonic() + arguments.seconds
    while time.monotonic() < end:
        for name, call in calls.items():
            start = time.thread_time()
            call()
            times[name].append(1e3 * (time.thread_time() - start))
    for name, some in times.items():
        q1, median, q3 = np.percentile(some, (25, 50, 75))
        print(f"{name}: {median:.2f} ms ({q1:.2f} to {q3:.2f}), least {min(some):.2f}")


if __name__ == "__main__":
    main()
