"""Interleaved timing: every setup is visited in every round, in a new order.

On a shared machine the speed of a core drifts by tens of percent within a minute. Timing one setup
after the other puts that drift between them; visiting all of them in turn spreads it over all. What
differs between devices is how they tell the time: a Clock.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

Key = TypeVar("Key")
Call = Callable[[], object]
# Rounds that are worth more time than the budget.
MIN_ROUNDS = 3
_LOADS = 3
_SWITCHES = 15


@dataclass(frozen=True)
class Setup:
    """What is timed.

    Attributes:
        call: one batch; on a device it returns at once, while the device works.
        vary: called untimed before a visit with the number of the round, to change the inputs.
    """

    call: Call
    vary: Callable[[int], object] = lambda _: None


@dataclass(frozen=True)
class Times:
    """Milliseconds per call: fastest, median and quartiles of some samples."""

    fastest: float
    q1: float
    median: float
    q3: float
    samples: int

    def columns(self) -> dict[str, Any]:
        """As rows have them: rounded, by the names of their fields."""
        return {
            "median_ms": round(self.median, 4),
            "q1_ms": round(self.q1, 4),
            "q3_ms": round(self.q3, 4),
            "samples": self.samples,
        }

    def speedup(self, reference: Times | None) -> float | None:
        """How many times as fast as the reference, where that was timed."""
        return None if reference is None else round(reference.median / self.median, 3)


@dataclass(frozen=True)
class Clock:
    """How a device tells the time, and how long a visit is.

    Attributes:
        sample: (call, count) -> seconds of one call: a sample per call, or one of them all.
        visit_seconds: a visit lasts about this long: many calls of a fast setup, one of a slow one.
        most_calls: of a visit.
        pause_seconds: before a visit.
        patient: MIN_ROUNDS are made however long they take; else they may take MIN_ROUNDS times the
            budget, since on a machine busy with something else one may take minutes.
    """

    sample: Callable[[Call, int], list[float]]
    visit_seconds: float
    most_calls: int
    pause_seconds: float = 0.0
    patient: bool = False


def host_clock() -> Clock:
    """The processor's: each call alone. Idle threads of the setup before spin before they sleep."""

    def sample(call: Call, count: int) -> list[float]:
        return [seconds(call) for _ in range(count)]

    return Clock(sample, 0.03, 10, pause_seconds=0.005)


def device_clock(timer: Callable[[Call, int], float]) -> Clock:
    """A device's: calls back to back between two of its events, as `Device.seconds` times them."""
    return Clock(lambda call, count: [timer(call, count)], 0.004, 200, patient=True)


def interleaved(
    setups: Mapping[Key, Setup],
    clock: Clock,
    budget: float,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _: None,
) -> dict[Key, Times]:
    """Time all setups in rounds until the budget is spent; one round is always made.

    A visit is an untimed call, which brings in what the last setup drove from the caches, and some
    timed ones.

    Args:
        budget: seconds of all rounds together, by the clock on the wall.
        seed: of the order of the visits.
        progress: called with the share done, 0 to 1.
    """
    if not setups:
        return {}
    calls = {key: _calls(setup, clock) for key, setup in setups.items()}
    samples: dict[Key, list[float]] = {key: [] for key in setups}
    order = list(setups)
    rng = random.Random(seed)
    start = time.perf_counter()
    rounds = 0
    while True:
        rng.shuffle(order)
        for visited, key in enumerate(order):
            if clock.pause_seconds:
                time.sleep(clock.pause_seconds)
            setups[key].vary(rounds)
            setups[key].call()
            samples[key] += clock.sample(setups[key].call, calls[key])
            spent = (time.perf_counter() - start) / max(budget, 1e-9)
            progress(min(1.0, spent, (rounds + (visited + 1) / len(order)) / MIN_ROUNDS))
        rounds += 1
        elapsed = time.perf_counter() - start
        # The next round takes as long as the last ones did.
        next_ends = elapsed * (rounds + 1) / rounds
        if rounds >= MIN_ROUNDS:
            enough = next_ends > budget
        else:
            enough = not clock.patient and next_ends > MIN_ROUNDS * budget
        if enough:
            break
    progress(1.0)
    return {key: _times(samples[key]) for key in setups}


def seconds(call: Call) -> float:
    """Seconds that a call takes, by the clock on the wall."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def load_ms(load: Call | None) -> float | None:
    """Milliseconds of the fastest of three loads of a file in the cache; None for no file."""
    if load is None:
        return None
    found = []
    for _ in range(_LOADS):
        found.append(seconds(load))
        gc.collect()
    return round(min(found) * 1e3, 2)


def switch_ms(
    calls: Mapping[Key, Call], timer: Callable[[Call], float], rounds: int = _SWITCHES
) -> dict[Key, float]:
    """Per size: milliseconds that a call takes longer just after a call at another size.

    The median over some rounds of (first call at the size - second call at it). Most of it is the
    caches: the tables and the working memory of the other size are in them.

    Args:
        timer: seconds of one call.
    """
    longer: dict[Key, list[float]] = {key: [] for key in calls}
    for _ in range(rounds):
        for key, call in calls.items():
            first = timer(call)
            longer[key].append(first - timer(call))
    return {key: round(float(np.median(values)) * 1e3, 3) for key, values in longer.items()}


def _calls(setup: Setup, clock: Clock) -> int:
    """How many calls a visit has."""
    setup.vary(0)
    setup.call()
    once = clock.sample(setup.call, 1)[0]
    return max(1, min(clock.most_calls, round(clock.visit_seconds / max(once, 1e-9))))


def _times(samples: list[float]) -> Times:
    ms = np.array(samples) * 1e3
    q1, median, q3 = np.percentile(ms, [25, 50, 75])
    return Times(float(ms.min()), float(q1), float(median), float(q3), len(samples))
