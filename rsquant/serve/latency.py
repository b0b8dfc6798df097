"""How long a network takes at each size on this machine: measured once, kept in a file."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

import numpy as np

from rsquant.runtime import Session, tuning
from rsquant.serve.network import Network

_CALLS, _SECONDS = 15, 0.5


def measured(network: Network, sizes: Sequence[int]) -> dict[int, float]:
    """Size -> median seconds from cropped pixels to logits of one image.

    Measured when a network is first asked for on a machine, in about half a second a size at most;
    afterwards read from the file that the runtime keeps its choices in.
    """
    key = _key(network)
    known = tuning.read() if key else {}
    found = {size: known.get(f"{key}:{size}") for size in sizes}
    seconds: dict[int, float] = {}
    for size, text in found.items():
        try:
            seconds[size] = float(text or "")
        except ValueError:
            seconds = {}
            break
    if len(seconds) == len(sizes) and all(0 < value < 1e3 for value in seconds.values()):
        return seconds
    seconds = _measure(network, sizes)
    if key:
        tuning.write({f"{key}:{size}": f"{value:.9f}" for size, value in seconds.items()})
    return seconds


def _measure(network: Network, sizes: Sequence[int]) -> dict[int, float]:
    """Interleaved, so that what else the machine does meets all sizes."""
    rng = np.random.default_rng(0)
    images = {size: rng.integers(0, 256, (1, 3, size, size), np.uint8) for size in sizes}
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for size in sizes:
        network(images[size])
    end = time.perf_counter() + _SECONDS * len(sizes)
    for call in range(_CALLS):
        for size in sizes:
            start = time.perf_counter()
            network(images[size])
            times[size].append(time.perf_counter() - start)
        if call and time.perf_counter() > end:
            break
    return {size: float(np.median(of)) for size, of in times.items()}


def _key(network: Network) -> str:
    """What the times depend on; "" for networks that are not kept."""
    if not isinstance(network, Session):
        return ""
    spec = repr((network.packed.plan.network, network.packed.values))
    digest = hashlib.sha256(spec.encode()).hexdigest()[:16]
    return f"network:{digest}:{network.machine}:{network.memory}"
