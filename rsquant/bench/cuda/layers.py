"""Each convolution of a network on its own, beside cuDNN and int8, and beside the device's bounds.

A layer runs in a graph that holds it several times. In one graph a pass over a buffer larger than
the last-level cache lies before each copy, and the time of those passes alone is subtracted: every
byte then comes from memory, which is what the bytes a second, and the shares of a measured copy,
are about. In another graph the copies follow each other directly (`warm_ms`): small layers then
live in the cache, as they partly do in a network.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rsquant.bench.cuda.ceilings import COPIED, SIDE, Rates, ceilings, rates
from rsquant.bench.cuda.device import Device, cudnn_chooses
from rsquant.bench.cuda.forms import Form, form_of
from rsquant.bench.cuda.inputs import random_pixels, settle
from rsquant.bench.engines import cublas, cudnn
from rsquant.bench.engines.layer import LayerCall
from rsquant.bench.engines.packed import open_session
from rsquant.bench.rows import CudaLayerRow
from rsquant.bench.subject import Subject
from rsquant.bench.timing import Setup, Times, device_clock, interleaved
from rsquant.packed.ops.conv import ConvStep
from rsquant.packing.write import pack

LAYER_ENGINES = ("gpu", *cudnn.DTYPES, "int8")
# Copies of a layer in a graph.
COPIES = 20
_FLUSH = "flush"
_TRIALS = 5
Step = Callable[[str, float], None]
Layers = dict[str, tuple[Form, dict[str, LayerCall]]]


def bench_layers(
    subjects: Sequence[Subject],
    device: Device,
    resolutions: Sequence[int] | None = None,
    batches: Sequence[int] = (1, 8, 32, 128, 256),
    engines: Sequence[str] = LAYER_ENGINES,
    budget: float = 40.0,
    step: Step = lambda *_: None,
    side: int = SIDE,
    copied: int = COPIED,
) -> list[CudaLayerRow]:
    """Time every distinct convolution of some networks in every engine.

    All layers and engines of a network, size and batch, and the device's bounds, are timed in one
    interleaved run. `gpu` is our kernel with all that is fused behind the convolution; cuDNN has a
    bias, the residual sum where ours has one, and a ReLU if that is faster; int8 has nothing.

    Args:
        resolutions: sizes in pixels; None means each network's largest.
        engines: from LAYER_ENGINES.
        budget: seconds of the timing, of all networks, sizes and batches together.
        step: called with what is being done and the share of all done, 0 to 1.
        side, copied: of the bounds' matrices and copy, see `ceilings`.
    Returns:
        A row per layer and engine.
    """
    settings = [
        (subject, size, batch)
        for subject in subjects
        for size in dict.fromkeys(resolutions or subject.network.resolutions[:1])
        for batch in dict.fromkeys(batches)
    ]
    rows = []
    with cudnn_chooses():
        for subject in subjects:
            if subject.checkpoint is None:
                step(f"settling BatchNorms of {subject.network.spec.arch}", 0.0)
                settle(subject.network, device)
        for number, (subject, size, batch) in enumerate(settings):

            def part(what: str, done: float, number: int = number) -> None:
                step(what, (number + done) / len(settings))

            rows += _bench(
                subject, device, size, batch, engines, budget / len(settings), part, side, copied
            )
    return rows


def _bench(
    subject: Subject,
    device: Device,
    size: int,
    batch: int,
    engines: Sequence[str],
    budget: float,
    step: Step,
    side: int,
    copied: int,
) -> list[CudaLayerRow]:
    arch = subject.network.spec.arch
    where = f"{arch} at {size}, batch {batch}"
    with tempfile.TemporaryDirectory(prefix="rsquant-bench-") as folder:
        path = Path(folder) / "packed.rsq"
        step(f"packing {arch}", 0.0)
        pack(subject.network, path)
        step(f"loading {where}", 0.0)
        session = open_session(path, device)
        graph = session.graph(size, batch)
    graph.images.copy_(random_pixels(device, batch, size, 1)[0])
    graph.replay()
    layers: Layers = {}
    for form, launch in distinct(graph, session.program(size), batch).items():
        step(f"preparing {launch.step.name} of {where}", 0.0)
        layers[launch.step.name] = form, _peers(form, launch, engines, device)
    flush = _flusher(device)
    setups: dict[Any, Setup] = {_FLUSH: Setup(device.capture(_times(flush)).replay)}
    for name, (_, calls) in layers.items():
        step(f"capturing {name} of {where}", 0.25)
        for engine, peer in calls.items():
            for kind, between in (("cold", flush), ("warm", None)):
                copies = device.capture(_times(peer.call, between))
                setups[name, engine, kind] = Setup(copies.replay)
    bounds = ceilings(device, side, copied)
    setups |= {name: Setup(bound.call) for name, bound in bounds.items()}
    measured = interleaved(
        setups,
        device_clock(device.seconds),
        budget,
        progress=lambda done: step(where, 0.5 + 0.5 * done),
    )
    found = rates(bounds, measured)
    return [
        row
        for name, (form, calls) in layers.items()
        for row in _rows((arch, size, name), form, calls, measured, found)
    ]


def distinct(graph: Any, program: Any, batch: int) -> dict[Form, Any]:
    """The first launch of every form of convolution."""
    found: dict[Form, Any] = {}
    for launch in graph.launches:
        if isinstance(launch.step, ConvStep):
            found.setdefault(form_of(program, launch.step, batch), launch)
    return found


def _peers(form: Form, launch: Any, engines: Sequence[str], device: Device) -> dict[str, LayerCall]:
    calls = {}
    for engine in engines:
        if engine == "gpu":
            calls[engine] = LayerCall(launch.run, launch.bytes, "one kernel")
        elif engine == "int8":
            product = cublas.pointwise(form, device)
            if product is not None:
                calls[engine] = product
        else:
            forms = cudnn.convolution(form, cudnn.DTYPES[engine], device)
            calls[engine] = min(forms, key=lambda one: _trial(one.call, device))
    return calls


def _trial(call: Callable[[], object], device: Device) -> float:
    copies = device.capture(_times(call))
    return min(device.seconds(copies.replay, 1) for _ in range(_TRIALS))


def _times(
    call: Callable[[], object], between: Callable[[], object] | None = None
) -> Callable[[], object]:
    def copies() -> None:
        for _ in range(COPIES):
            if between is not None:
                between()
            call()

    return copies


def _flusher(device: Device) -> Callable[[], object]:
    """A call that reads twice what the cache holds. Reading leaves nothing to be written later."""
    count = max(2 * device.cache_bytes, 128 * 2**20 if device.cache_bytes else 0) // 4
    buffer = torch.ones(max(1, count), dtype=torch.int32, device=device.device)
    return lambda: torch.amax(buffer)


def _rows(
    where: tuple[str, int, str],
    form: Form,
    calls: dict[str, LayerCall],
    measured: dict[Any, Times],
    found: Rates,
) -> list[CudaLayerRow]:
    """The rows of one layer; `where` is (arch, size, name of the layer)."""
    arch, size, name = where
    flush = measured[_FLUSH]
    rows = []
    for engine, one in calls.items():
        cold, warm = measured[name, engine, "cold"], measured[name, engine, "warm"]
        median = (cold.median - flush.median) / COPIES
        peak = found.int8 if engine in ("gpu", "int8") else found.bf16
        # Noise may eat a very short time.
        rate = 1 / (median / 1e3) if median > 0 else None
        rows.append(
            CudaLayerRow(
                arch=arch,
                layer=name,
                in_channels=form.in_channels,
                out_channels=form.out_channels,
                kernel=f"{form.kernel[0]}x{form.kernel[1]}",
                stride=form.stride[0],
                resolution=size,
                output=form.out_height,
                ms=round((cold.fastest - flush.fastest) / COPIES, 5),
                batch=form.batch,
                epilogue=form.epilogue,
                engine=engine,
                form=one.form,
                median_ms=round(median, 5),
                warm_ms=round(warm.median / COPIES, 5),
                samples=cold.samples,
                macs=form.macs,
                bytes=one.bytes,
                tmacs=round(form.macs * rate / 1e12, 4) if rate else None,
                gbytes_per_s=round(one.bytes * rate / 1e9, 2) if rate else None,
                copy_gbytes_per_s=round(found.bytes / 1e9, 2),
                peak_tmacs=round(peak / 1e12, 4) if peak else None,
                share_of_bytes=round(one.bytes * rate / found.bytes, 4) if rate else None,
                share_of_operations=round(form.macs * rate / peak, 4) if rate and peak else None,
            )
        )
    reference = next((row.median_ms for row in rows if row.engine == cudnn.REFERENCE), None)
    return [
        row
        if reference is None or row.median_ms <= 0
        else replace(row, speedup=round(reference / row.median_ms, 3))
        for row in rows
    ]
