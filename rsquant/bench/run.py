"""What `rsquant bench` does: a network, all engines, all sizes, one interleaved run."""

from __future__ import annotations

import difflib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsquant.bench.engines import ENGINES, Call, Case, Prepared, fitting
from rsquant.bench.latency import interleaved
from rsquant.bench.memory import peak_rss
from rsquant.bench.subject import Subject
from rsquant.bench.switching import switch_ms
from rsquant.errors import ConfigError
from rsquant.evaluate.images import validation_images
from rsquant.nn.convert import check_smallest
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.processors import processors
from rsquant.runtime import Memory, Session

REFERENCE = "ort_float32"
CALIBRATION_IMAGES = 16
# The engine of each way to hold a packed network in memory.
PACKED: dict[Memory, str] = {"full": "packed", "low": "packed_low"}


def check_settings(engines: Sequence[str], threads: Sequence[int], batch: int) -> None:
    """Raise ConfigError for an unknown engine, or no or impossible threads."""
    for name in engines:
        if name not in ENGINES:
            close = difflib.get_close_matches(name, ENGINES, n=1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise ConfigError(f"engines: unknown '{name}'; {hint}known: {', '.join(ENGINES)}")
    if not engines or not threads or min(threads) < 1 or max(threads) > processors():
        raise ConfigError(
            f"threads: must be 1 to {processors()} (the processors of this process), "
            f"got {tuple(threads)}"
        )
    if batch < 1:
        raise ConfigError(f"batch: must be 1 or more, got {batch}")


def default_threads() -> tuple[int, ...]:
    """1 and 2, as far as there are cores."""
    return tuple(t for t in (1, 2) if t <= processors())


def bench(
    subject: Subject,
    resolutions: Sequence[int] | None = None,
    threads: Sequence[int] | None = None,
    batch: int = 1,
    engines: Sequence[str] | None = None,
    seconds: float = 40.0,
    step: Callable[[str, float], None] = lambda *_: None,
) -> list[dict[str, Any]]:
    """Time every engine at every resolution with every number of threads.

    Args:
        resolutions: sizes in pixels; None means those of the network.
        threads: numbers of threads; None means 1 and 2.
        batch: images per call.
        engines: names from ENGINES; None means all.
        seconds: budget of the timing; preparing files takes its own time.
        step: called with what is being done and the share of all done, 0 to 1.
    Returns:
        A row per setup: engine, arch, wbits, abits, resolution, batch, threads, median_ms, q1_ms,
        q3_ms, samples, speedup (against ort_float32 in the same setting, None without it),
        file_bytes, peak_rss_bytes and load_ms (None for an engine that runs no file; see `memory`;
        the best of three loads of a file in the cache, on one thread, until the largest size can
        be run), switch_ms (packed networks;
        see `switching`).
    """
    network, spec = subject.network, subject.network.spec
    names = tuple(dict.fromkeys(engines or fitting(spec)))
    counts = tuple(dict.fromkeys(threads or default_threads()))
    check_settings(names, counts, batch)
    sizes = tuple(dict.fromkeys(resolutions or network.resolutions))
    check_smallest(sizes, network.stride, spec.arch)
    torch_threads = torch.get_num_threads()
    try:
        with tempfile.TemporaryDirectory(prefix="rsquant-bench-") as folder:
            step("images", 0.0)
            images = validation_images(spec, sizes, CALIBRATION_IMAGES, subject.checkpoint)
            torch.set_num_threads(max(counts))
            prepared: dict[tuple[str, int], Prepared] = {}
            memory: dict[tuple[str, int], int | None] = {}
            loading: dict[tuple[str, int], float | None] = {}
            sessions: dict[tuple[Memory, int], Session] = {}
            for size in sizes:
                case = Case(network, size, images.at[size], batch, Path(folder), sessions)
                for name in names:
                    step(
                        f"preparing {name} at {size}",
                        0.5 * len(prepared) / (len(sizes) * len(names)),
                    )
                    ready = prepared[name, size] = ENGINES[name](case)
                    memory[name, size] = _memory(name, ready, size, batch, counts[0])
                    loading[name, size] = _load_ms(ready)
            setups: dict[tuple[str, int, int], Call] = {
                (name, size, count): ready.load(count)
                for (name, size), ready in prepared.items()
                for count in counts
            }
            measured = interleaved(
                setups, seconds, progress=lambda done: step("timing", 0.5 + 0.5 * done)
            )
            switching = _switching(network, images.at, sessions)
            bytes_of = {k: p.file.stat().st_size if p.file else None for k, p in prepared.items()}
    finally:
        torch.set_num_threads(torch_threads)
    rows = []
    for (name, size, count), spread in measured.items():
        reference = measured.get((REFERENCE, size, count))
        rows.append(
            {
                "engine": name,
                "arch": spec.arch,
                "wbits": spec.wbits,
                "abits": spec.abits,
                "resolution": size,
                "batch": batch,
                "threads": count,
                "median_ms": round(spread.median, 4),
                "q1_ms": round(spread.q1, 4),
                "q3_ms": round(spread.q3, 4),
                "samples": spread.samples,
                "speedup": round(reference.median / spread.median, 3) if reference else None,
                "file_bytes": bytes_of[name, size],
                "peak_rss_bytes": memory[name, size],
                "load_ms": loading[name, size],
                "switch_ms": switching.get((name, size, count)),
            }
        )
    return rows


def _memory(name: str, ready: Prepared, size: int, batch: int, threads: int) -> int | None:
    if ready.file is None:
        return None
    return peak_rss(ready.file, size, batch, threads, "low" if name == PACKED["low"] else "full")


def _load_ms(ready: Prepared) -> float | None:
    if ready.open is None:
        return None
    times = []
    for _ in range(3):
        start = time.perf_counter()
        ready.open()
        times.append(time.perf_counter() - start)
    return round(min(times) * 1e3, 2)


def _switching(
    network: SwitchableNetwork,
    images: Mapping[int, Tensor],
    sessions: Mapping[tuple[Memory, int], Session],
) -> dict[tuple[str, int, int], float]:
    """switch_ms of every packed session, by engine, size and threads."""
    one = {size: Case(network, size, x, 1, Path()).pixels() for size, x in images.items()}
    return {
        (PACKED[memory], size, threads): round(ms, 3)
        for (memory, threads), session in sessions.items()
        for size, ms in switch_ms(session, one).items()
    }
