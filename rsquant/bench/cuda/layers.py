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
from pathlib import Path
from typing import Any

import torch

from rsquant.bench.cuda import peers
from rsquant.bench.cuda.ceilings import COPIED, SIDE, Rates, ceilings, rates
from rsquant.bench.cuda.device import Device, cudnn_chooses
from rsquant.bench.cuda.engines import REFERENCE, open_session
from rsquant.bench.cuda.forms import Form, form_of
from rsquant.bench.cuda.inputs import random_pixels, settle
from rsquant.bench.cuda.peers import Peer
from rsquant.bench.cuda.timing import Setup, Times, interleaved
from rsquant.bench.subject import Subject
from rsquant.packed.ops.conv import ConvStep
from rsquant.packing.write import pack

LAYER_ENGINES = ("gpu", "cudnn_bf16", "cudnn_fp16", "int8")
# Copies of a layer in a graph.
COPIES = 20
_FLUSH = "flush"
_TRIALS = 5
Step = Callable[[str, float], None]
Layers = dict[str, tuple[Form, dict[str, Peer]]]


def bench_layers(
    subjects: Sequence[Subject],
    device: Device,
    resolutions: Sequence[int] | None = None,
    batches: Sequence[int] = (1, 8, 32, 128, 256),
    engines: Sequence[str] = LAYER_ENGINES,
    seconds: float = 40.0,
    step: Step = lambda *_: None,
    side: int = SIDE,
    copied: int = COPIED,
) -> list[dict[str, Any]]:
    """Time every distinct convolution of some networks in every engine.

    All layers and engines of a network, size and batch, and the device's bounds, are timed in one
    interleaved run. `gpu` is our kernel with all that is fused behind the convolution; cuDNN has a
    bias, the residual sum where ours has one, and a ReLU if that is faster; int8 has nothing.

    Args:
        resolutions: sizes in pixels; None means each network's largest.
        engines: from LAYER_ENGINES.
        seconds: budget of the timing, of all networks, sizes and batches together.
        step: called with what is being done and the share of all done, 0 to 1.
        side, copied: of the bounds' matrices and copy, see `ceilings`.
    Returns:
        A row per layer and engine: arch, layer (the first of its form), in_channels, out_channels,
        kernel, stride, resolution (of the image), output (side of the map), batch, epilogue (what
        `gpu` fuses: "add" a float value, store "float", store "codes"), engine, form, ms (the
        fastest), median_ms, warm_ms, samples, macs, bytes (fewest), tmacs and gbytes_per_s (of
        median_ms), copy_gbytes_per_s and peak_tmacs (the bounds: a copy, a matrix product of the
        engine's type), share_of_bytes, share_of_operations, speedup (against cudnn_bf16).
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
                subject, device, size, batch, engines, seconds / len(settings), part, side, copied
            )
    return rows


def _bench(
    subject: Subject,
    device: Device,
    size: int,
    batch: int,
    engines: Sequence[str],
    seconds: float,
    step: Step,
    side: int,
    copied: int,
) -> list[dict[str, Any]]:
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
        setups, device.seconds, seconds, progress=lambda done: step(where, 0.5 + 0.5 * done)
    )
    found = rates(bounds, measured)
    return [
        {"arch": arch, "resolution": size, **row}
        for name, (form, calls) in layers.items()
        for row in _rows(name, form, calls, measured, found)
    ]


def distinct(graph: Any, program: Any, batch: int) -> dict[Form, Any]:
    """The first launch of every form of convolution."""
    found: dict[Form, Any] = {}
    for launch in graph.launches:
        if isinstance(launch.step, ConvStep):
            found.setdefault(form_of(program, launch.step, batch), launch)
    return found


def _peers(form: Form, launch: Any, engines: Sequence[str], device: Device) -> dict[str, Peer]:
    calls = {}
    for engine in engines:
        if engine == "gpu":
            calls[engine] = Peer(launch.run, launch.bytes, "one kernel")
        elif engine == "int8":
            product = peers.int8(form, device)
            if product is not None:
                calls[engine] = product
        else:
            forms = peers.cudnn(form, peers.DTYPES[engine], device)
            calls[engine] = min(forms, key=lambda peer: _trial(peer.call, device))
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
    name: str, form: Form, calls: dict[str, Peer], measured: dict[Any, Times], found: Rates
) -> list[dict[str, Any]]:
    flush = measured[_FLUSH]
    rows: list[dict[str, Any]] = []
    for engine, peer in calls.items():
        cold, warm = measured[name, engine, "cold"], measured[name, engine, "warm"]
        fastest = (cold.fastest - flush.fastest) / COPIES
        median = (cold.median - flush.median) / COPIES
        peak = found.int8 if engine in ("gpu", "int8") else found.bf16
        rows.append(
            {
                "layer": name,
                "in_channels": form.in_channels,
                "out_channels": form.out_channels,
                "kernel": f"{form.kernel[0]}x{form.kernel[1]}",
                "stride": form.stride[0],
                "output": form.out_height,
                "batch": form.batch,
                "epilogue": form.epilogue,
                "engine": engine,
                "form": peer.form,
                "ms": round(fastest, 5),
                "median_ms": round(median, 5),
                "warm_ms": round(warm.median / COPIES, 5),
                "samples": cold.samples,
                "macs": form.macs,
                "bytes": peer.bytes,
                **_shares(form.macs, peer.bytes, median / 1e3, found.bytes, peak),
            }
        )
    reference = next((row["median_ms"] for row in rows if row["engine"] == REFERENCE), None)
    for row in rows:
        usable = reference is not None and row["median_ms"] > 0
        row["speedup"] = round(reference / row["median_ms"], 3) if usable else None
    return rows


def _shares(
    macs: int, moved: int, seconds: float, copy: float, peak: float | None
) -> dict[str, float | None]:
    """Rates of a layer and their shares of the bounds; None where noise ate a very short time."""
    known = seconds > 0
    return {
        "tmacs": round(macs / seconds / 1e12, 4) if known else None,
        "gbytes_per_s": round(moved / seconds / 1e9, 2) if known else None,
        "copy_gbytes_per_s": round(copy / 1e9, 2),
        "peak_tmacs": round(peak / 1e12, 4) if peak else None,
        "share_of_bytes": round(moved / seconds / copy, 4) if known else None,
        "share_of_operations": round(macs / seconds / peak, 4) if known and peak else None,
    }
