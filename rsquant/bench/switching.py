"""What another size at each call costs: one packed session, and networks of single sizes.

A packed session serves all sizes. Networks of single sizes can all be held in memory, or be opened
from their file (which is in the system's cache) whenever the size changes.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from rsquant.bench.engines.base import CpuCase, CpuRun
from rsquant.bench.engines.choice import check_engines, cpu_engines, unfitting
from rsquant.bench.networks import CALIBRATION_IMAGES, PACKED, check_settings, default_threads
from rsquant.bench.rows import SwitchRow
from rsquant.bench.subject import Subject
from rsquant.bench.timing import MIN_ROUNDS, Call, seconds
from rsquant.errors import ConfigError
from rsquant.evaluate.images import validation_images
from rsquant.nn.sizes import check_smallest

ENGINES = ("packed", "ort_float32", "ort_int8")
# How an engine holds its sizes.
SESSION, LIVE, RELOAD = "one session", "all open", "reload"

# Runs one batch at a size, after what it takes to get to that size.
At = Callable[[int], object]


class Reloaded:
    """One network at a time: another size is opened from its file first.

    Args:
        open_at: size -> opens its file; returns what runs one batch.
    """

    def __init__(self, open_at: Mapping[int, Callable[[], Call]]) -> None:
        self._open_at = open_at
        self._size: int | None = None
        self._call: Call = lambda: None

    def __call__(self, size: int) -> object:
        if size != self._size:
            self._call = lambda: None  # the network before is closed first
            self._call, self._size = self._open_at[size](), size
        return self._call()


def bench_switching(
    subject: Subject,
    resolutions: Sequence[int] | None = None,
    threads: Sequence[int] | None = None,
    batch: int = 1,
    engines: Sequence[str] | None = None,
    budget: float = 40.0,
    step: Callable[[str, float], None] = lambda *_: None,
) -> list[SwitchRow]:
    """Time calls that follow one at another size, and calls that follow one at the same size.

    Args: as `bench.networks.bench`; engines None means ENGINES, as far as they fit.
    Returns:
        A row per engine, way to hold sizes, size and number of threads.
    Raises:
        ConfigError: fewer than two sizes, an engine that has no file.
    """
    network, spec = subject.network, subject.network.spec
    refused = unfitting(network, cpu_engines())
    names = tuple(dict.fromkeys(engines or [name for name in ENGINES if name not in refused]))
    counts = tuple(dict.fromkeys(threads or default_threads()))
    check_settings(names, counts, batch)
    check_engines(names, cpu_engines(), refused)
    if "torch" in names:
        raise ConfigError("engines: torch runs no file that could be loaded again; leave it out")
    sizes = tuple(dict.fromkeys(resolutions or network.resolutions))
    if len(sizes) < 2:
        raise ConfigError(f"resolutions: switching needs two or more, got {sizes}")
    check_smallest(sizes, network.stride, spec.arch)
    before = torch.get_num_threads()
    try:
        with tempfile.TemporaryDirectory(prefix="rsquant-bench-") as folder:
            step("images", 0.0)
            images = validation_images(spec, sizes, CALIBRATION_IMAGES, subject.checkpoint)
            torch.set_num_threads(max(counts))
            first = CpuCase(network, sizes[0], batch, Path(folder), images=images.at[sizes[0]])
            runs: dict[str, dict[int, CpuRun]] = {name: {} for name in names}
            for name in names:
                for i, size in enumerate(sizes):
                    done = (names.index(name) + i / len(sizes)) / len(names)
                    step(f"preparing {name} at {size}", 0.5 * done)
                    case = replace(first, resolution=size, images=images.at[size])
                    runs[name][size] = cpu_engines()[name](case)
            ways = {
                (name, way, count): at
                for name in names
                for count in counts
                for way, at in _ways(name, runs[name], count).items()
            }
            times = alternated(
                ways, sizes, budget, progress=lambda done: step("timing", 0.5 + 0.5 * done)
            )
            files = {name: {r.file for r in of.values() if r.file} for name, of in runs.items()}
            held = {name: sum(f.stat().st_size for f in found) for name, found in files.items()}
    finally:
        torch.set_num_threads(before)
    return [
        _row(
            switched,
            stayed,
            engine=name,
            way=way,
            arch=spec.arch,
            wbits=spec.wbits,
            abits=spec.abits,
            resolution=size,
            batch=batch,
            threads=count,
            file_bytes=held[name],
        )
        for ((name, way, count), size), (switched, stayed) in times.items()
    ]


def alternated(
    ways: Mapping[tuple[str, str, int], At],
    sizes: Sequence[int],
    budget: float,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _: None,
    timer: Callable[[Call], float] = seconds,
) -> dict[tuple[tuple[str, str, int], int], tuple[list[float], list[float]]]:
    """Seconds of two calls at each size, of which the first follows a call at another size.

    All ways are visited in every round, in a new order, until the budget is spent. A visit begins
    with an untimed call, and its sizes have a new order each time.

    Args:
        timer: seconds of a call.
    Returns:
        (way, size) -> seconds of first calls, and of second ones.
    """
    found: dict[tuple[tuple[str, str, int], int], tuple[list[float], list[float]]] = {
        (way, size): ([], []) for way in ways for size in sizes
    }
    order, rng = list(ways), random.Random(seed)
    start, rounds = time.perf_counter(), 0
    while True:
        rng.shuffle(order)
        for way in order:
            at, visit = ways[way], rng.sample(sizes, len(sizes))
            at(visit[-1])
            for size in visit:
                for seen in found[way, size]:
                    seen.append(timer(partial(at, size)))
        rounds += 1
        spent = time.perf_counter() - start
        progress(min(1.0, spent / max(budget, 1e-9), rounds / MIN_ROUNDS))
        if rounds >= MIN_ROUNDS and spent * (rounds + 1) / rounds > budget:
            break
    progress(1.0)
    return found


def _ways(name: str, runs: Mapping[int, CpuRun], threads: int) -> dict[str, At]:
    live = {size: run.load(threads) for size, run in runs.items()}

    def at(size: int) -> object:
        return live[size]()

    if name in PACKED.values():  # every load of it is the same session
        return {SESSION: at}
    opening = {size: partial(run.load, threads) for size, run in runs.items()}
    return {LIVE: at, RELOAD: Reloaded(opening)}


def _row(switched: list[float], stayed: list[float], **more: object) -> SwitchRow:
    after, same = np.array(switched) * 1e3, np.array(stayed) * 1e3
    q1, median, q3 = np.percentile(same, [25, 50, 75])
    switch_q1, switch, switch_q3 = np.percentile(after, [25, 50, 75])
    values = {
        "median_ms": median,
        "q1_ms": q1,
        "q3_ms": q3,
        "switched_ms": switch,
        "switched_q1_ms": switch_q1,
        "switched_q3_ms": switch_q3,
        "switch_ms": np.median(after - same),
    }
    rounded = {name: round(float(value), 4) for name, value in values.items()}
    return SwitchRow(**rounded, samples=len(same), **more)  # type: ignore[arg-type]
