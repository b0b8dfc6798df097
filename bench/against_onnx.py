"""A packed file against int8 ONNX files of the same network at several sizes, on the clock.

    python bench/against_onnx.py NAME.rsq SIZE:INT8.onnx [SIZE:INT8.onnx ...] [--threads 2]

Batch 1, all sizes and engines in one interleaved run, in a new order each round. For files that
`rsquant bench networks` would take long to make anew; that one is otherwise the command to use.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rsquant import runtime
from rsquant.bench.engines.onnxruntime import open_session

_PAUSE = 0.002  # seconds: idle threads of the engine before spin before they sleep
_VISIT = 0.02
_MOST_CALLS = 10


def onnx_call(path: Path, size: int, threads: int) -> Callable[[], object]:
    session = open_session(path, threads)
    name = session.get_inputs()[0].name
    floats = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
    return lambda: session.run(None, {name: floats})


def milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packed", type=Path)
    parser.add_argument("onnx", nargs="+", help="SIZE:FILE")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=25.0)
    arguments = parser.parse_args()
    sessions = {m: runtime.load(arguments.packed, arguments.threads, m) for m in ("full", "low")}
    calls: dict[tuple[int, str], Callable[[], object]] = {}
    for given in arguments.onnx:
        size, _, path = given.partition(":")
        calls[int(size), "onnxruntime"] = onnx_call(Path(path), int(size), arguments.threads)
        pixels = np.random.default_rng(0).integers(0, 256, (1, 3, int(size), int(size)), np.uint8)
        for memory, session in sessions.items():
            calls[int(size), memory] = lambda run=session, x=pixels: run(x)
    times: dict[tuple[int, str], list[float]] = {key: [] for key in calls}
    order, rng = list(calls), random.Random(0)
    end = time.monotonic() + arguments.seconds
    while time.monotonic() < end:
        rng.shuffle(order)
        for key in order:
            time.sleep(_PAUSE)
            calls[key]()
            once = milliseconds(calls[key])
            more = min(_MOST_CALLS, int(_VISIT * 1e3 / once))
            times[key] += [once, *(milliseconds(calls[key]) for _ in range(more))]
    for (size, engine), some in times.items():
        q1, median, q3 = np.percentile(some, (25, 50, 75))
        print(f"{size} {engine}: {median:.2f} ms ({q1:.2f} to {q3:.2f}), least {min(some):.2f}")


if __name__ == "__main__":
    main()
