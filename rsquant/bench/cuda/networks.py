"""What `rsquant bench --device cuda` does: whole networks, all engines, one interleaved run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsquant.bench.cuda.device import Device, cudnn_chooses
from rsquant.bench.cuda.inputs import random_pixels, settle
from rsquant.bench.engines.base import CudaCase, CudaRun
from rsquant.bench.engines.choice import check_engines, cuda_engines, unfitting
from rsquant.bench.engines.cudnn import REFERENCE, difference
from rsquant.bench.rows import CudaNetworkRow
from rsquant.bench.subject import Subject
from rsquant.bench.timing import Setup, device_clock, interleaved, load_ms, switch_ms
from rsquant.errors import ConfigError, RsquantError
from rsquant.nn.sizes import check_smallest

BATCHES = (1, 8, 32, 128, 256)
Key = tuple[str, int, int]
Step = Callable[[str, float], None]


def bench_networks(
    subject: Subject,
    device: Device,
    resolutions: Sequence[int] | None = None,
    batches: Sequence[int] = BATCHES,
    engines: Sequence[str] | None = None,
    budget: float = 40.0,
    step: Step = lambda *_: None,
) -> list[CudaNetworkRow]:
    """Time every engine at every resolution and batch.

    Before timing, each graph is replayed on random images, its logits must be finite and those of
    the same work without a graph.

    Args:
        resolutions: sizes in pixels; None means those of the network.
        batches: images per call.
        engines: names from `cuda_engines`; None means all that fit.
        budget: seconds of the timing; compiling, tuning and capturing take their own time.
        step: called with what is being done and the share of all done, 0 to 1.
    Returns:
        A row per setup; speedup is against cudnn_bf16.
    """
    network, spec = subject.network, subject.network.spec
    refused = unfitting(network, cuda_engines())
    fit = [name for name in cuda_engines() if name not in refused]
    names = tuple(dict.fromkeys(engines or fit))
    check_engines(names, cuda_engines(), refused)
    sizes = tuple(dict.fromkeys(resolutions or network.resolutions))
    check_smallest(sizes, network.stride, spec.arch)
    batches = check_batches(batches)
    if subject.checkpoint is None:
        step("settling BatchNorms", 0.0)
        settle(network, device)
    runs: dict[Key, CudaRun] = {}
    loading: dict[Key, float | None] = {}
    setups: dict[Key, Setup] = {}
    total = len(names) * len(sizes) * len(batches)
    with tempfile.TemporaryDirectory(prefix="rsquant-bench-") as folder, cudnn_chooses():
        kept: dict[Any, Any] = {}
        # The largest first: what is too large for the memory fails at once.
        for batch in sorted(batches, reverse=True):
            for size in sizes:
                images = random_pixels(device, batch, size)
                case = CudaCase(
                    network, size, batch, Path(folder), kept, device=device, pixels=images
                )
                for name in names:
                    what = f"preparing {name} at {size}, batch {batch}"
                    step(what, 0.5 * len(runs) / total)
                    key = name, size, batch
                    run = runs[key] = cuda_engines()[name](case)
                    check(what, run, images[0])
                    loading[key] = load_ms(run.open)
                    setups[key] = Setup(run.replay, _filler(run, images))
        measured = interleaved(
            setups,
            device_clock(device.seconds),
            budget,
            progress=lambda done: step("timing", 0.5 + 0.5 * done),
        )
        switching = _switching(runs, device)
        rows = []
        for (name, size, batch), times in measured.items():
            key = name, size, batch
            run = runs[key]
            reference = measured.get((REFERENCE, size, batch))
            rows.append(
                CudaNetworkRow(
                    engine=name,
                    arch=spec.arch,
                    wbits=spec.wbits,
                    abits=spec.abits,
                    resolution=size,
                    batch=batch,
                    threads=None,
                    **times.columns(),
                    speedup=times.speedup(reference),
                    file_bytes=run.file.stat().st_size if run.file else None,
                    peak_rss_bytes=None,
                    activation_bytes=run.activation_bytes,
                    value_bytes=run.value_bytes,
                    load_ms=loading[key],
                    switch_ms=switching.get(key),
                    form=run.form,
                )
            )
    return rows


def check_batches(batches: Sequence[int]) -> tuple[int, ...]:
    """Every batch once. Raises ConfigError for none or an impossible one."""
    if not batches or min(batches) < 1:
        raise ConfigError(f"batch: must be 1 or more, got {tuple(batches)}")
    return tuple(dict.fromkeys(batches))


def check(what: str, run: CudaRun, pixels: Tensor) -> None:
    """Replay once. Raises RsquantError unless logits are finite and the same without a graph."""
    run.fill(pixels)
    with torch.inference_mode():
        run.logits.fill_(float("nan"))
        run.replay()
        replayed = run.logits.float().clone()
        if not bool(torch.isfinite(replayed).all()):
            raise RsquantError(f"bench: {what}: logits of the graph are not finite")
        run.logits.fill_(float("nan"))
        error = difference(run.eager(), replayed)
    if error > run.tolerance:
        raise RsquantError(
            f"bench: {what}: the graph's logits differ from those without a graph by {error:.2g} "
            f"of the largest, at most {run.tolerance:.2g} is expected"
        )


def _filler(run: CudaRun, images: Sequence[Tensor]) -> Callable[[int], object]:
    return lambda number: run.fill(images[number % len(images)])


def _switching(runs: Mapping[Key, CudaRun], device: Device) -> dict[Key, float]:
    """switch_ms of the networks that are loaded once for all sizes, batch by batch."""
    found: dict[Key, float] = {}
    for batch in {batch for _, _, batch in runs}:
        calls = {key: run.replay for key, run in runs.items() if run.switches and key[2] == batch}
        if len(calls) > 1:
            found |= switch_ms(calls, lambda call: device.seconds(call, 1))
    return found
