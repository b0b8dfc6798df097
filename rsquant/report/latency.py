"""How long networks take for an image on this machine, in milliseconds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rsquant.bench.timing import Call, Setup, Times, host_clock, interleaved
from rsquant.errors import RsquantError
from rsquant.nn.freeze import fold_batchnorms, freeze
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.packing.write import pack
from rsquant.runtime import load


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one image on one thread.

    Attributes:
        engine: packed (rsquant's kernels) or torch.
        why: it is torch, in a clause; "" for packed.
    """

    engine: str
    why: str
    times: dict[int, Times]


@torch.inference_mode()
def latencies(
    networks: Mapping[str, SwitchableNetwork],
    sizes: Mapping[str, Sequence[int]],
    budget: float,
) -> dict[str, Latency]:
    """Time every network at its sizes in one interleaved run, batch 1, one thread.

    Low-bit networks are packed and run by rsquant's kernels; others, and those that cannot be
    packed, by PyTorch in float32, BatchNorms folded.

    Args:
        budget: seconds of the timing; packing takes its own time.
    """
    calls: dict[tuple[str, int], Call] = {}
    engines: dict[str, tuple[str, str]] = {}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory(prefix="rsquant-report-") as folder:
            for index, (name, network) in enumerate(networks.items()):
                one = network.one_path_per_size()
                make, engines[name] = _engine(one, Path(folder) / f"{index}.rsq")
                for size in sizes[name]:
                    calls[name, size] = make(size)
            times = interleaved(
                {key: Setup(call) for key, call in calls.items()}, host_clock(), budget
            )
    finally:
        torch.set_num_threads(threads)
    return {
        name: Latency(*engines[name], {size: times[name, size] for size in sizes[name]})
        for name in networks
    }


def _engine(
    network: SwitchableNetwork, path: Path
) -> tuple[Callable[[int], Call], tuple[str, str]]:
    """What makes a call at a size, and the engine's name and why it is that one."""
    why = "float32"
    if network.spec.low_bit:
        try:
            pack(network, path)
            session = load(path, threads=1)
            noise = np.random.default_rng(0)

            def packed(size: int) -> Call:
                pixels = noise.integers(0, 256, (1, 3, size, size), dtype=np.uint8)
                return lambda: session(pixels)

            return packed, ("packed", "")
        except RsquantError as error:
            why = str(error)

    def torch_float32(size: int) -> Call:
        # The network is where it was measured, which may be a GPU.
        frozen = fold_batchnorms(freeze(network, size, activation=False).cpu()).module
        frozen = frozen.to(memory_format=torch.channels_last)
        image = torch.rand(1, 3, size, size).contiguous(memory_format=torch.channels_last)

        def call() -> object:
            return frozen(image)

        return call

    return torch_float32, ("torch", why)
