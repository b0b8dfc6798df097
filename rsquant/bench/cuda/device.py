"""What is timed on: how work is captured in a graph there, and how that place tells the time."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from rsquant.bench.memory import added_by
from rsquant.kernels import pick_device
from rsquant.kernels.gpu import support

# Libraries choose algorithms and allocate workspaces in the first call, compilers in the first two.
_WARM_UPS = 3


@dataclass(frozen=True)
class Captured:
    """A call turned into a graph.

    Attributes:
        replay: runs it again; returns at once, while the device works.
        output: what the call returned; a replay writes the same tensor again.
        bytes: most that was allocated at any one time of the call, workspaces of libraries
            included.
    """

    replay: Callable[[], object]
    output: Any
    bytes: int


class Cuda:
    """A CUDA device: graphs, and times from its own events.

    Attributes:
        device: with its index. cache_bytes: of its last-level cache.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        properties = torch.cuda.get_device_properties(device)
        self.cache_bytes = int(getattr(properties, "L2_cache_size", 0)) or 64 * 2**20
        self.memory_bytes = int(properties.total_memory)
        # One stream to warm up and capture on: cuBLAS keeps a workspace per stream, which thus is
        # there before a capture counts bytes.
        self._stream = torch.cuda.Stream(device)

    def capture(self, call: Callable[[], Any]) -> Captured:
        """Call some times, then once more into a CUDA graph, and replay that once."""
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                call()
        current.wait_stream(self._stream)
        self.synchronize()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        graph = torch.cuda.CUDAGraph()
        # A collection meanwhile could destroy other graphs, which is no work to be recorded.
        gc.disable()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                output = call()
        finally:
            gc.enable()
        used = torch.cuda.max_memory_allocated(self.device) - before
        graph.replay()
        self.synchronize()
        return Captured(graph.replay, output, used)

    def seconds(self, call: Callable[[], object], repeats: int = 1) -> float:
        """Seconds of one call, from events around several that run back to back."""
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        start.record(torch.cuda.current_stream(self.device))
        for _ in range(repeats):
            call()
        end.record(torch.cuda.current_stream(self.device))
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / repeats

    def peak_bytes(self, call: Callable[[], object]) -> int | None:
        """The most device memory that a call adds."""
        self.synchronize()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        call()
        self.synchronize()
        return int(torch.cuda.max_memory_allocated(self.device)) - int(before)

    def synchronize(self) -> None:
        """Wait until the device has done all it was given."""
        torch.cuda.synchronize(self.device)


class Host:
    """The CPU in a device's place: for training steps, and tests in Triton's interpreter.

    A graph is the call.
    """

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.cache_bytes = 0
        self.memory_bytes = 2**30

    def capture(self, call: Callable[[], Any]) -> Captured:
        output = call()

        @torch.inference_mode()
        def replay() -> None:
            again = call()
            if isinstance(output, torch.Tensor):
                output.copy_(again)

        return Captured(replay, output, 0)

    def seconds(self, call: Callable[[], object], repeats: int = 1) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - start) / repeats

    def peak_bytes(self, call: Callable[[], object]) -> int | None:
        """The most memory that a call adds to this process; None where Linux does not tell."""
        return added_by(call)

    def synchronize(self) -> None:
        pass


Device = Cuda | Host


def open_device(name: str) -> Cuda:
    """A device by torch's name for it, cuda or cuda:N; it also becomes the current one.

    Raises:
        ConfigError: there is none, it is too old, or Triton is missing.
    """
    device = support.checked(pick_device(name))
    torch.cuda.set_device(device)
    return Cuda(device)


@contextmanager
def cudnn_chooses() -> Iterator[None]:
    """Inside, cuDNN times its algorithms for every new shape and keeps the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
