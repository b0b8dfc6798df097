"""Our own: a packed file on the CPU's kernels and on a GPU's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from rsquant import runtime
from rsquant.bench.cuda.device import Device
from rsquant.bench.engines.base import (
    CpuCase,
    CpuRun,
    CudaCase,
    CudaRun,
    cpu_engine,
    cuda_engine,
)
from rsquant.bench.timing import Call
from rsquant.packed.file import open_packed
from rsquant.packing.obstacle import obstacle
from rsquant.runtime import Memory, Session

SESSIONS = "sessions"


@cpu_engine("packed", obstacle)
def full(case: CpuCase) -> CpuRun:
    """The packed network in `rsquant.runtime`, fastest kernels; takes uint8 pixels."""
    return _on_cpu(case, "full")


@cpu_engine("packed_low", obstacle)
def low(case: CpuCase) -> CpuRun:
    """The packed network in little memory: kernels run on the weights as the file holds them."""
    return _on_cpu(case, "low")


def sessions(case: CpuCase) -> dict[tuple[Memory, int], Session]:
    """Packed networks that are loaded, by memory and threads; one serves all sizes."""
    found: dict[tuple[Memory, int], Session] = case.remembered(SESSIONS, dict)
    return found


def _on_cpu(case: CpuCase, memory: Memory) -> CpuRun:
    path = case.packed_file()
    pixels = case.pixels()
    runtime.load(path, 1, memory)  # times the kernels, where this machine has not yet
    loaded = sessions(case)

    def load(threads: int) -> Call:
        if (memory, threads) not in loaded:
            loaded[memory, threads] = runtime.load(path, threads, memory)
        session = loaded[memory, threads]
        return lambda: session(pixels)

    return CpuRun(load, path, lambda: runtime.load(path, 1, memory), memory)


@cuda_engine("gpu", obstacle)
def gpu(case: CudaCase) -> CudaRun:
    """The packed network on our kernels; takes uint8 pixels, normalises them itself."""
    path = case.packed_file()

    def load() -> Any:
        return open_session(path, case.device)

    graph = case.remembered("session", load).graph(case.resolution, case.batch)

    def eager() -> Tensor:
        for launch in graph.launches:
            launch.run()
        logits: Tensor = graph.logits
        return logits

    def again() -> None:
        load().graph(case.resolution, case.batch)
        case.device.synchronize()

    return CudaRun(
        graph.replay,
        graph.images.copy_,
        graph.logits,
        eager,
        tolerance=0.0,
        activation_bytes=graph.activation_bytes,
        value_bytes=graph.activation_bytes,
        form="packed",
        file=path,
        open=again,
        switches=True,
    )


def open_session(path: Path, device: Device) -> Any:
    """A packed file on a device, as a `rsquant.runtime.gpu.GpuSession`."""
    if device.device.type == "cuda":
        return runtime.load(path, device=str(device.device))
    from rsquant.runtime.gpu import GpuSession

    # Triton's interpreter, which `load` has no name for.
    return GpuSession(open_packed(path), "cpu", tune=False, interpolate=True, keep_sizes=16)
