"""What it costs to go from one resolution to another in a packed network that is loaded."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rsquant.runtime import Session

ROUNDS = 15


def switch_ms(
    session: Session, pixels: Mapping[int, NDArray[np.uint8]], rounds: int = ROUNDS
) -> dict[int, float]:
    """Per size: milliseconds that a call takes longer just after a call at another size.

    The median over some rounds of (first call at the size - second call at it). Most of it is the
    caches: the tables and the working memory of the other size lie in them.
    """
    longer: dict[int, list[float]] = {size: [] for size in pixels}
    for _ in range(rounds):
        for size, images in pixels.items():
            first = _timed(session, images)
            longer[size].append(first - _timed(session, images))
    return {size: float(np.median(values)) * 1e3 for size, values in longer.items()}


def _timed(session: Session, images: NDArray[np.uint8]) -> float:
    start = time.perf_counter()
    session(images)
    return time.perf_counter() - start
