"""Interleaved timing on a device: every setup is visited in every round, in a new order.

As `bench.latency`, but the device keeps the time, several calls run back to back between two of
its events, and every visit may begin with other inputs.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Key = TypeVar("Key")
# Rounds that are made however long they take.
MIN_ROUNDS = 3
# A sample lasts about this long: many calls of a fast setup, one of a slow one.
SAMPLE_SECONDS = 0.004
MAX_REPEATS = 200


@dataclass(frozen=True)
class Setup:
    """What is timed.

    Attributes:
        call: returns at once, while the device works.
        vary: called untimed before a visit with the number of the round, to change the inputs.
    """

    call: Callable[[], object]
    vary: Callable[[int], object] = lambda _: None


@dataclass(frozen=True)
class Times:
    """Milliseconds per call: fastest, median and quartiles of some samples."""

    fastest: float
    q1: float
    median: float
    q3: float
    samples: int


def interleaved(
    setups: Mapping[Key, Setup],
    timer: Callable[[Callable[[], object], int], float],
    seconds: float,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _: None,
) -> dict[Key, Times]:
    """Time all setups in rounds until the budget is spent; MIN_ROUNDS are always made.

    A visit is an untimed call, which brings in what the last setup drove from the caches, and a
    sample of calls back to back.

    Args:
        timer: (call, repeats) -> seconds of one call, as `Device.seconds`.
        seconds: budget of all rounds together, by the clock on the wall.
        seed: of the order of the visits.
        progress: called with the share done, 0 to 1.
    """
    order = list(setups)
    repeats = {key: _repeats(setups[key], timer) for key in order}
    samples: dict[Key, list[float]] = {key: [] for key in order}
    rng = random.Random(seed)
    start = time.perf_counter()
    rounds = 0
    while order:
        rng.shuffle(order)
        for key in order:
            setup = setups[key]
            setup.vary(rounds)
            setup.call()
            samples[key].append(timer(setup.call, repeats[key]))
        rounds += 1
        elapsed = time.perf_counter() - start
        progress(min(1.0, rounds / MIN_ROUNDS, elapsed / max(seconds, 1e-9)))
        if rounds >= MIN_ROUNDS and elapsed * (rounds + 1) / rounds > seconds:
            break
    progress(1.0)
    return {key: _times(samples[key]) for key in setups}


def _repeats(setup: Setup, timer: Callable[[Callable[[], object], int], float]) -> int:
    setup.vary(0)
    setup.call()
    once = timer(setup.call, 1)
    return max(1, min(MAX_REPEATS, round(SAMPLE_SECONDS / max(once, 1e-9))))


def _times(samples: list[float]) -> Times:
    ms = np.array(samples) * 1e3
    q1, median, q3 = np.percentile(ms, [25, 50, 75])
    return Times(float(ms.min()), float(q1), float(median), float(q3), len(samples))
