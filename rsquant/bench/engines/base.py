"""What an engine is given, what it gives back, and the registry of engines by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsquant.bench.cuda.device import Device
from rsquant.bench.timing import Call
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.packing.write import pack
from rsquant.runtime import Memory


@dataclass(frozen=True)
class Case:
    """A network at one size and batch.

    Attributes:
        network: in evaluation mode, on the CPU.
        resolution: side of the images in pixels. batch: images per call.
        folder: where files may be put; lives as long as the benchmark.
        kept: what engines share between cases, under names of their own.
    """

    network: SwitchableNetwork
    resolution: int
    batch: int
    folder: Path
    kept: dict[Any, Any] = field(default_factory=dict)

    def packed_file(self) -> Path:
        """The packed network, all sizes in one file, written when first asked for."""
        path = self.folder / "packed.rsq"
        if not path.exists():
            pack(self.network, path)
        return path

    def remembered(self, name: Any, make: Callable[[], Any]) -> Any:
        """What is kept under a name, made when first asked for."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]


@dataclass(frozen=True, kw_only=True)
class CpuCase(Case):
    """A case on the CPU.

    Attributes:
        images: (M, 3, R, R) float32, normalised: to calibrate on, and to run.
    """

    images: Tensor

    def inputs(self) -> Tensor:
        """(batch, 3, R, R), contiguous."""
        repeats = -(-self.batch // len(self.images))
        return self.images.repeat(repeats, 1, 1, 1)[: self.batch].contiguous()

    def pixels(self) -> NDArray[np.uint8]:
        """The images of `inputs` as 8-bit pixels."""
        spec = self.network.spec
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (spec.mean, spec.std))
        pixels = ((self.inputs() * std + mean) * 255).round().clamp(0, 255)
        return pixels.to(torch.uint8).numpy()


@dataclass(frozen=True, kw_only=True)
class CudaCase(Case):
    """A case on a GPU.

    Attributes:
        pixels: (batch, 3, R, R) uint8 on the device; some sets of images.
    """

    device: Device
    pixels: list[Tensor]


@dataclass(frozen=True)
class CpuRun:
    """An engine ready for one case on the CPU.

    Attributes:
        load: number of threads -> a call that runs one batch.
        file: the file it runs, None for engines without one.
        open: opens the file once more, for one thread, to be timed.
        memory: how a packed file is held; nothing to other engines.
    """

    load: Callable[[int], Call]
    file: Path | None = None
    open: Call | None = None
    memory: Memory = "full"


@dataclass(frozen=True)
class CudaRun:
    """An engine ready for one case on a GPU, in a graph that can be replayed.

    Attributes:
        replay: runs one batch; returns at once.
        fill: puts (batch, 3, R, R) uint8 pixels on the device where `replay` reads its images.
        logits: what `replay` writes, (batch, classes).
        eager: the same without a graph.
        tolerance: largest difference between the two, as a share of the largest logit.
        activation_bytes: what a call needs at any one time beside weights and images.
        value_bytes: of these, values between layers, without workspaces of libraries; None where
            that is not known.
        form: which of several forms was the fastest, for the reader.
        file, open: the file it runs, and a call that makes it ready from that file once more.
        switches: whether it is one loaded network at all sizes, which takes time to switch.
    """

    replay: Call
    fill: Callable[[Tensor], object]
    logits: Tensor
    eager: Callable[[], Tensor]
    tolerance: float
    activation_bytes: int
    value_bytes: int | None
    form: str
    file: Path | None = None
    open: Call | None = None
    switches: bool = False


def any_network(network: SwitchableNetwork) -> str:
    """Fits every network."""
    return ""


def low_bit_weights(network: SwitchableNetwork) -> str:
    """Fits networks whose weights have codes."""
    return "" if network.spec.low_bit_weights else "its weights are float32"


def codes_of_floats(network: SwitchableNetwork) -> str:
    """Fits networks that have a form of codes and float arithmetic."""
    if network.spec.integer:
        return "it is an integer network, without float arithmetic"
    return low_bit_weights(network)


# Why an engine cannot run a network; "" where it can.
Unfit = Callable[[SwitchableNetwork], str]
OnCpu = Callable[[CpuCase], CpuRun]
OnCuda = Callable[[CudaCase], CudaRun]

# By the name that `--engines` and the tables use, in the order they are timed in.
CPU: dict[str, OnCpu] = {}
CUDA: dict[str, OnCuda] = {}
_UNFIT: dict[str, Unfit] = {}


def cpu_engine(name: str, unfit: Unfit = any_network) -> Callable[[OnCpu], OnCpu]:
    """Register an engine of the CPU; `unfit` says why it cannot run a network."""

    def register(function: OnCpu) -> OnCpu:
        CPU[name], _UNFIT[name] = function, unfit
        return function

    return register


def cuda_engine(name: str, unfit: Unfit = any_network) -> Callable[[OnCuda], OnCuda]:
    """Register an engine of a GPU; `unfit` says why it cannot run a network."""

    def register(function: OnCuda) -> OnCuda:
        CUDA[name], _UNFIT[name] = function, unfit
        return function

    return register


def unfit(name: str, network: SwitchableNetwork) -> str:
    """Why an engine cannot run a network; "" where it can."""
    return _UNFIT[name](network)
