"""What `rsquant bench` does: a network, all engines, all sizes, one interleaved run on the CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from rsquant.bench.engines.base import CpuCase, CpuRun
from rsquant.bench.engines.choice import check_engines, cpu_engines, unfitting
from rsquant.bench.engines.onnxruntime import REFERENCE
from rsquant.bench.engines.packed import sessions
from rsquant.bench.memory import peak_rss
from rsquant.bench.rows import NetworkRow
from rsquant.bench.subject import Subject
from rsquant.bench.timing import Setup, Times, host_clock, interleaved, load_ms, seconds, switch_ms
from rsquant.errors import ConfigError
from rsquant.evaluate.images import validation_images
from rsquant.nn.sizes import check_smallest
from rsquant.nn.switchable import ModelSpec
from rsquant.processors import processors
from rsquant.runtime import Memory, Session
from rsquant.settings import Variant

CALIBRATION_IMAGES = 16
# Which network of several widths and bits, an engine, a size.
_Key = tuple[Variant, str, int]
# The engine of each way to hold a packed network in memory.
PACKED: dict[Memory, str] = {"full": "packed", "low": "packed_low"}


def check_settings(engines: Sequence[str], threads: Sequence[int], batch: int) -> None:
    """Raise ConfigError for an unknown engine, or no or impossible threads."""
    known = cpu_engines()
    check_engines(engines, known)
    if not threads or min(threads) < 1 or max(threads) > processors():
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
    budget: float = 40.0,
    step: Callable[[str, float], None] = lambda *_: None,
) -> list[NetworkRow]:
    """Time every engine at every resolution with every number of threads.

    Of several widths and bits each is timed as a network for itself, with files of its own: what a
    file of all of them computes for it. All are in the same interleaved run.

    Args:
        resolutions: sizes in pixels; None means those of the network.
        threads: numbers of threads; None means 1 and 2.
        batch: images per call.
        engines: names from `cpu_engines`; None means all that fit.
        budget: seconds of the timing; preparing files takes its own time.
        step: called with what is being done and the share of all done, 0 to 1.
    Returns:
        A row per setup; speedup is against ort_float32.
    """
    network, spec = subject.network, subject.network.spec
    refused = unfitting(network, cpu_engines())
    fit = [name for name in cpu_engines() if name not in refused]
    names = tuple(dict.fromkeys(engines or fit))
    counts = tuple(dict.fromkeys(threads or default_threads()))
    check_settings(names, counts, batch)
    check_engines(names, cpu_engines(), refused)
    sizes = tuple(dict.fromkeys(resolutions or network.resolutions))
    check_smallest(sizes, network.stride, spec.arch)
    torch_threads = torch.get_num_threads()
    try:
        with tempfile.TemporaryDirectory(prefix="rsquant-bench-") as folder:
            step("images", 0.0)
            images = validation_images(spec, sizes, CALIBRATION_IMAGES, subject.checkpoint)
            torch.set_num_threads(max(counts))
            cases: dict[Variant, CpuCase] = {}
            for number, (variant, one) in enumerate(subject.every.items()):
                own = Path(folder) / str(number)
                own.mkdir()
                cases[variant] = CpuCase(one, sizes[0], batch, own, images=images.at[sizes[0]])
            prepared = _prepared(subject, cases, images.at, names, counts[0], step)
            setups = {
                (key, count): Setup(one.run.load(count))
                for key, one in prepared.items()
                for count in counts
            }
            measured = interleaved(
                setups,
                host_clock(),
                budget,
                progress=lambda done: step("timing", 0.5 + 0.5 * done),
            )
            switching = {
                variant: _switching(case, images.at, sessions(case))
                for variant, case in cases.items()
            }
    finally:
        torch.set_num_threads(torch_threads)
    return _rows(spec, batch, prepared, measured, switching)


@dataclass(frozen=True)
class _Prepared:
    """An engine with its file, and what is measured of the file alone."""

    run: CpuRun
    file_bytes: int | None
    memory: int | None
    loading: float | None


def _prepared(
    subject: Subject,
    cases: Mapping[Variant, CpuCase],
    images: Mapping[int, Tensor],
    names: Sequence[str],
    threads: int,
    step: Callable[[str, float], None],
) -> dict[_Key, _Prepared]:
    """Every engine, network and size."""
    found: dict[_Key, _Prepared] = {}
    total = len(cases) * len(images) * len(names)
    for variant, one in cases.items():
        for size, pixels in images.items():
            case = replace(one, resolution=size, images=pixels)
            for name in names:
                at = f" {variant}" if subject.others else ""
                step(f"preparing {name} at {size}{at}", 0.5 * len(found) / total)
                run = cpu_engines()[name](case)
                found[variant, name, size] = _Prepared(
                    run,
                    run.file.stat().st_size if run.file else None,
                    _memory(run, size, case.batch, threads),
                    load_ms(run.open),
                )
    return found


def _rows(
    spec: ModelSpec,
    batch: int,
    prepared: Mapping[_Key, _Prepared],
    measured: Mapping[tuple[_Key, int], Times],
    switching: Mapping[Variant, Mapping[tuple[str, int, int], float]],
) -> list[NetworkRow]:
    rows = []
    for (key, count), times in measured.items():
        variant, name, size = key
        bits = variant.bits or (spec.wbits, spec.abits)
        reference = measured.get(((variant, REFERENCE, size), count))
        rows.append(
            NetworkRow(
                engine=name,
                arch=spec.arch,
                wbits=bits[0],
                abits=bits[1],
                width=variant.width,
                resolution=size,
                batch=batch,
                threads=count,
                **times.columns(),
                speedup=times.speedup(reference),
                file_bytes=prepared[key].file_bytes,
                peak_rss_bytes=prepared[key].memory,
                load_ms=prepared[key].loading,
                switch_ms=switching[variant].get((name, size, count)),
            )
        )
    return rows


def _memory(run: CpuRun, size: int, batch: int, threads: int) -> int | None:
    if run.file is None:
        return None
    return peak_rss(run.file, size, batch, threads, run.memory)


def _switching(
    case: CpuCase,
    images: Mapping[int, Tensor],
    sessions: Mapping[tuple[Memory, int], Session],
) -> dict[tuple[str, int, int], float]:
    """switch_ms of every packed session, by engine, size and threads."""
    one = {size: replace(case, batch=1, images=x).pixels() for size, x in images.items()}
    found = {}
    for (memory, threads), session in sessions.items():
        calls = {size: partial(session, pixels) for size, pixels in one.items()}
        for size, ms in switch_ms(calls, seconds).items():
            found[PACKED[memory], size, threads] = ms
    return found
