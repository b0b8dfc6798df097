"""The C library beside Python's session, and from the start of a process to its first logits.

    make c
    python bench/c_library.py NET.rsq --sizes 224,96

One thread, random pixels. Calls of the two take turns in one process, in either order, and must
give the same bits. A first call is of a process of its own: its library is loaded, the file in the
system's cache, kernels chosen before. RSQUANT_ISA picks the instruction set.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "shared"))

import c_library  # noqa: E402

Pixels = NDArray[np.uint8]


def pixels_of(size: int) -> Pixels:
    """One image."""
    return np.random.default_rng(0).integers(0, 256, (1, 3, size, size), dtype=np.uint8)


def milliseconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def first(folder: Path, model: Path, size: int, low: bool) -> tuple[float, float]:
    """Milliseconds until the session is open, and until it has given logits."""
    library, pixels = c_library.Library(folder), pixels_of(size)
    start = time.perf_counter()
    session = library.open(model, tune=1, low_memory=low)
    opened = time.perf_counter()
    session(pixels)
    return 1e3 * (opened - start), 1e3 * (time.perf_counter() - start)


def in_turn(folder: Path, model: Path, size: int, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of calls of both, by name."""
    from rsquant.runtime import load

    pixels = pixels_of(size)
    sessions = {"C": c_library.Library(folder).open(model, tune=1), "Python": load(model, 1)}
    if not np.array_equal(*(session(pixels) for session in sessions.values())):
        raise SystemExit(f"{model}: the C library and Python's session differ at {size} pixels")
    times: dict[str, list[float]] = {name: [] for name in sessions}
    names, end = list(sessions), time.perf_counter() + seconds
    while time.perf_counter() < end:
        names.reverse()
        for name in names:
            times[name].append(milliseconds(lambda of=sessions[name]: of(pixels)))  # type: ignore[misc]
    return times


def shown(times: list[float]) -> str:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(times, n=4)
    return f"{median:.2f} ({low:.2f} to {high:.2f}) ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--library", type=Path, default=ROOT / "build" / "c", help="its folder")
    parser.add_argument("--sizes", default="224,96")
    parser.add_argument("--seconds", type=float, default=3.0, help="of calls, for each size")
    parser.add_argument("--processes", type=int, default=9, help="for each first call")
    parser.add_argument("--first", nargs=2, metavar=("SIZE", "LOW"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.first:
        size, low = map(int, given.first)
        print(*first(given.library, given.model, size, bool(low)))
        return
    for size in map(int, given.sizes.split(",")):
        times = in_turn(given.library, given.model, size, given.seconds)
        ratio = statistics.median(times["C"]) / statistics.median(times["Python"])
        print(f"{size}: C {shown(times['C'])}, Python {shown(times['Python'])}, {ratio:.3f}")
        for low in (0, 1):
            command = [sys.executable, "-P", __file__, str(given.model)]
            command += ["--library", str(given.library), "--first", str(size), str(low)]
            runs = [
                [float(part) for part in subprocess.check_output(command, text=True).split()]
                for _ in range(given.processes)
            ]
            opened, both = (list(column) for column in zip(*runs, strict=True))
            memory = ", low_memory" if low else ""
            print(f"{size}{memory}: open {shown(opened)}, to the first logits {shown(both)}")


if __name__ == "__main__":
    main()
