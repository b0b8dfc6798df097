"""What `rsquant bench --device cuda` does: whole networks, all engines, one interleaved run."""

from __future__ import annotations

import difflib
import gc
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsquant.bench.cuda.device import Device, cudnn_chooses
from rsquant.bench.cuda.engines import ENGINES, REFERENCE, Case, Ready, difference, fitting
from rsquant.bench.cuda.inputs import random_pixels, settle
from rsquant.bench.cuda.timing import Setup, interleaved
from rsquant.bench.subject import Subject
from rsquant.errors import ConfigError, RsquantError
from rsquant.nn.convert import check_smallest

BATCHES = (1, 8, 32, 128, 256)
_LOADS = 3
_SWITCHES = 15
Step = Callable[[str, float], None]


def bench_networks(
    subject: Subject,
    device: Device,
    resolutions: Sequence[int] | None = None,
    batches: Sequence[int] = BATCHES,
    engines: Sequence[str] | None = None,
    seconds: float = 40.0,
    step: Step = lambda *_: None,
) -> list[dict[str, Any]]:
    """Time every engine at every resolution and batch.

    Before timing, each graph is replayed on random images, its logits must be finite and those of
    the same work without a graph.

    Args:
        resolutions: sizes in pixels; None means those of the network.
        batches: images per call.
        engines: names from ENGINES; None means all that fit.
        seconds: budget of the timing; compiling, tuning and capturing take their own time.
        step: called with what is being done and the share of all done, 0 to 1.
    Returns:
        A row per setup as `bench.run.bench` gives, with threads and peak_rss_bytes None, speedup
        against cudnn_bf16, load_ms with kernels compiled and tuned (until the size and batch can
        be run), and: activation_bytes, value_bytes, form (see `engines.Ready`).
    """
    network, spec = subject.network, subject.network.spec
    names = tuple(dict.fromkeys(engines or fitting(spec)))
    check_engines(names, ENGINES, fitting(spec))
    sizes = tuple(dict.fromkeys(resolutions or network.resolutions))
    check_smallest(sizes, network.stride, spec.arch)
    batches = check_batches(batches)
    if subject.checkpoint is None:
        step("settling BatchNorms", 0.0)
        settle(network, device)
    ready: dict[tuple[str, int, int], Ready] = {}
    loading: dict[tuple[str, int, int], float | None] = {}
    setups: dict[tuple[str, int, int], Setup] = {}
    total = len(names) * len(sizes) * len(batches)
    with tempfile.TemporaryDirectory(prefix="rsquant-bench-") as folder, cudnn_chooses():
        kept: dict[Any, Any] = {}
        # The largest first: what is too large for the memory fails at once.
        for batch in sorted(batches, reverse=True):
            for size in sizes:
                images = random_pixels(device, batch, size)
                case = Case(network, device, size, batch, images, Path(folder), kept)
                for name in names:
                    what = f"preparing {name} at {size}, batch {batch}"
                    step(what, 0.5 * len(ready) / total)
                    key = name, size, batch
                    one = ready[key] = ENGINES[name](case)
                    check(what, one, images[0])
                    loading[key] = _load_ms(one)
                    setups[key] = Setup(one.replay, _filler(one, images))
        measured = interleaved(
            setups,
            device.seconds,
            seconds,
            progress=lambda done: step("timing", 0.5 + 0.5 * done),
        )
        switching = _switch_ms(ready, device)
        rows = []
        for (name, size, batch), times in measured.items():
            key = name, size, batch
            one = ready[key]
            reference = measured.get((REFERENCE, size, batch))
            rows.append(
                {
                    "engine": name,
                    "arch": spec.arch,
                    "wbits": spec.wbits,
                    "abits": spec.abits,
                    "resolution": size,
                    "batch": batch,
                    "threads": None,
                    "median_ms": round(times.median, 4),
                    "q1_ms": round(times.q1, 4),
                    "q3_ms": round(times.q3, 4),
                    "samples": times.samples,
                    "speedup": round(reference.median / times.median, 3) if reference else None,
                    "file_bytes": one.file.stat().st_size if one.file else None,
                    "peak_rss_bytes": None,
                    "activation_bytes": one.activation_bytes,
                    "value_bytes": one.value_bytes,
                    "load_ms": loading[key],
                    "switch_ms": switching.get(key),
                    "form": one.form,
                }
            )
    return rows


def check_engines(names: Sequence[str], known: Iterable[str], fit: Sequence[str]) -> None:
    """Raise ConfigError for an engine that is not known, or that cannot run the network."""
    known = tuple(known)
    for name in names:
        if name == "int8" and name not in known:
            raise ConfigError(
                "engines: 'int8' is timed for single convolutions only, PyTorch has no int8 "
                "network to compare with; add `kernels=True`, or leave it out"
            )
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise ConfigError(
                f"engines: unknown on a CUDA device: '{name}'; {hint}known: {', '.join(known)}"
            )
        if name not in fit:
            raise ConfigError(
                f"engines: '{name}' cannot run this network; {', '.join(fit)} can, leave it out"
            )
    if not names:
        raise ConfigError("engines: none given")


def check_batches(batches: Sequence[int]) -> tuple[int, ...]:
    """Every batch once. Raises ConfigError for none or an impossible one."""
    if not batches or min(batches) < 1:
        raise ConfigError(f"batch: must be 1 or more, got {tuple(batches)}")
    return tuple(dict.fromkeys(batches))


def check(what: str, ready: Ready, pixels: Tensor) -> None:
    """Replay once. Raises RsquantError unless logits are finite and the same without a graph."""
    ready.fill(pixels)
    with torch.inference_mode():
        ready.logits.fill_(float("nan"))
        ready.replay()
        replayed = ready.logits.float().clone()
        if not bool(torch.isfinite(replayed).all()):
            raise RsquantError(f"bench: {what}: logits of the graph are not finite")
        ready.logits.fill_(float("nan"))
        error = difference(ready.eager(), replayed)
    if error > ready.tolerance:
        raise RsquantError(
            f"bench: {what}: the graph's logits differ from those without a graph by {error:.2g} "
            f"of the largest, at most {ready.tolerance:.2g} is expected"
        )


def _filler(ready: Ready, images: Sequence[Tensor]) -> Callable[[int], object]:
    return lambda number: ready.fill(images[number % len(images)])


def _load_ms(ready: Ready) -> float | None:
    if ready.open is None:
        return None
    times = []
    for _ in range(_LOADS):
        start = time.perf_counter()
        ready.open()
        times.append(time.perf_counter() - start)
        gc.collect()
    return round(min(times) * 1e3, 2)


def _switch_ms(
    ready: dict[tuple[str, int, int], Ready], device: Device
) -> dict[tuple[str, int, int], float]:
    """Milliseconds that a replay takes longer just after one at another size, for `gpu`.

    The median over some rounds of (first replay at the size - second replay at it).
    """
    found = {}
    for batch in {b for _, _, b in ready}:
        keys = [key for key in ready if key[0] == "gpu" and key[2] == batch]
        longer: dict[tuple[str, int, int], list[float]] = {key: [] for key in keys}
        for _ in range(_SWITCHES if len(keys) > 1 else 0):
            for key in keys:
                first = device.seconds(ready[key].replay, 1)
                longer[key].append(first - device.seconds(ready[key].replay, 1))
        for key, values in longer.items():
            if values:
                found[key] = round(float(np.median(values)) * 1e3, 3)
    return found
