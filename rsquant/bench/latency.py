"""Interleaved timing: every setup is visited in every round, in a new order.

On a shared machine the speed of a core drifts by tens of percent within a minute. Timing one setup
after the other puts that drift between them; visiting all of them in turn spreads it over all.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

Key = TypeVar("Key")
MIN_ROUNDS = 3
# A visit lasts about this long: many calls of a fast setup, one of a slow one.
VISIT_SECONDS = 0.03
# Idle threads of the setup before spin for some milliseconds before they sleep.
PAUSE_SECONDS = 0.005


@dataclass(frozen=True)
class Spread:
    """Milliseconds per call: median and quartiles."""

    median: float
    q1: float
    q3: float
    samples: int


@dataclass
class _Setup(Generic[Key]):
    key: Key
    call: Callable[[], object]
    calls: int
    samples: list[float]


def interleaved(
    setups: Mapping[Key, Callable[[], object]],
    seconds: float,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _: None,
) -> dict[Key, Spread]:
    """Time all setups in rounds until the budget is spent.

    Args:
        setups: what to call. Each is called once untimed at first, and once at every visit.
        seconds: budget of all rounds together; one round is always made.
        seed: of the order of the visits.
        progress: called with the share done, 0 to 1.
    """
    if not setups:
        return {}
    order = [_warm(key, call) for key, call in setups.items()]
    rng = random.Random(seed)
    start = time.perf_counter()
    rounds = 0
    while True:
        rng.shuffle(order)
        for visited, setup in enumerate(order):
            _visit(setup)
            spent = (time.perf_counter() - start) / max(seconds, 1e-9)
            least = (rounds + (visited + 1) / len(order)) / MIN_ROUNDS
            progress(min(1.0, spent, least))
        rounds += 1
        elapsed = time.perf_counter() - start
        # The next round takes as long as the last ones did. Three rounds may take up to three
        # times the budget: on a machine busy with something else one may take minutes.
        limit = seconds if rounds >= MIN_ROUNDS else MIN_ROUNDS * seconds
        if elapsed * (rounds + 1) / rounds > limit:
            break
    progress(1.0)
    measured = {setup.key: _spread(setup.samples) for setup in order}
    return {key: measured[key] for key in setups}


def _warm(key: Key, call: Callable[[], object]) -> _Setup[Key]:
    call()
    once = _timed(call)
    return _Setup(key, call, max(1, min(10, round(VISIT_SECONDS / max(once, 1e-9)))), [])


def _visit(setup: _Setup[Key]) -> None:
    time.sleep(PAUSE_SECONDS)
    setup.call()
    setup.samples += [_timed(setup.call) for _ in range(setup.calls)]


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _spread(samples: list[float]) -> Spread:
    q1, median, q3 = np.percentile(np.array(samples) * 1e3, [25, 50, 75])
    return Spread(float(median), float(q1), float(q3), len(samples))
