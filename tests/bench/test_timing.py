"""The interleaved timer on both clocks, on calls that only note that they were made."""

import numpy as np
import pytest

from rsquant.bench import timing
from rsquant.bench.timing import (
    MIN_ROUNDS,
    Clock,
    Setup,
    Times,
    device_clock,
    host_clock,
    interleaved,
    load_ms,
    switch_ms,
)


class Wall:
    """Stands for the module time: it goes on when a setup is called, and at no other time."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def taking(self, seconds, note=lambda: None):
        """A call that takes so long."""

        def call():
            self.now += seconds
            note()

        return call


@pytest.fixture
def clock(monkeypatch):
    clock = Wall()
    monkeypatch.setattr(timing, "time", clock)
    return clock


# The host's, with one call per visit and no pauses.
ONE_CALL = Clock(host_clock().sample, 0.0, 1)


def timed(calls, *given, **named):
    return interleaved(
        {name: Setup(call) for name, call in calls.items()}, ONE_CALL, *given, **named
    )


def visits_of(clock, seconds, seed):
    """What eight setups of a millisecond each note, call by call, and their spreads."""
    visits = []
    setups = {n: clock.taking(1e-3, lambda n=n: visits.append(n)) for n in "abcdefgh"}
    return visits, timed(setups, seconds, seed)


def test_every_setup_is_visited_in_every_round_in_changing_order(clock):
    visits, spread = visits_of(clock, 0.2, seed=3)
    assert list(spread) == list("abcdefgh")
    # Two calls to warm up each, then a visit is one untimed and one timed call.
    rest = visits[16:]
    rounds = [rest[i : i + 16 : 2] for i in range(0, len(rest), 16)]
    # A round takes 16 ms: 12 of them fit into the budget, another would not.
    assert len(rounds) == 12
    assert all(sorted(r) == list("abcdefgh") for r in rounds)
    assert len({tuple(r) for r in rounds}) > 1
    assert {s.samples for s in spread.values()} == {12}


def test_the_order_is_seeded(clock):
    orders = [visits_of(clock, 0.1, seed)[0] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_fastest_median_and_quartiles_are_those_of_the_samples():
    assert timing._times([0.004, 0.001, 0.003, 0.002, 0.005]) == Times(1.0, 2.0, 3.0, 4.0, 5)


def test_each_call_is_measured_alone(clock):
    spread = timed({"fast": clock.taking(0.25), "slow": clock.taking(2.0)}, 20.0)
    # A round takes 4.5 s.
    assert spread == {
        "fast": Times(250.0, 250.0, 250.0, 250.0, 4),
        "slow": Times(2000.0, 2000.0, 2000.0, 2000.0, 4),
    }


@pytest.mark.parametrize(
    "seconds,rounds",
    [
        (0.0, 1),
        (1.0, 1),
        (1.5, 2),
        (2.0, 3),
        (7.0, 3),
        (8.0, 4),
    ],
)
def test_the_least_rounds_are_made_where_they_take_up_to_three_times_the_budget(
    clock, seconds, rounds
):
    calls = []
    timed({"slow": clock.taking(1.0, lambda: calls.append(0))}, seconds)
    # Two calls to warm up; then a round is two and takes 2 s.
    assert len(calls) == 2 + 2 * rounds
    assert 2 * rounds <= (3 * seconds if rounds <= MIN_ROUNDS else seconds) or rounds == 1


def test_progress_rises_to_one(clock):
    shares = []
    timed({n: clock.taking(0.01) for n in "ab"}, 0.05, progress=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1.0 and np.all(np.array(shares) >= 0)


def test_nothing_to_time_is_nothing():
    assert interleaved({}, host_clock(), 1.0) == {}


class Device:
    """Calls take a fixed time each; the wall shows how long all samples took together."""

    def __init__(self, seconds):
        self.each, self.now, self.samples = seconds, 0.0, []

    def timer(self, call, repeats):
        call()
        self.samples.append((call.name, repeats))
        self.now += self.each[call.name] * repeats
        return self.each[call.name]

    def call(self, name):
        def called():
            pass

        called.name = name
        return called


def test_all_setups_are_visited_each_round_with_repeats_that_fill_a_sample(monkeypatch):
    device = Device({"fast": 1e-6, "middle": 1e-3, "slow": 0.02})
    monkeypatch.setattr(timing.time, "perf_counter", lambda: device.now)
    varied = []
    setups = {
        name: Setup(device.call(name), lambda number, name=name: varied.append((name, number)))
        for name in device.each
    }
    shares = []
    times = interleaved(setups, device_clock(device.timer), 1.0, seed=1, progress=shares.append)
    assert list(times) == ["fast", "middle", "slow"]
    # The first three samples say how long one call takes.
    rounds = [device.samples[i : i + 3] for i in range(3, len(device.samples), 3)]
    repeats = {"fast": 200, "middle": 4, "slow": 1}
    assert all(sorted(r) == sorted(repeats.items()) for r in rounds)
    assert len({tuple(r) for r in rounds}) > 1
    # A round takes 24.2 ms: 41 of them fit into a second, another would not.
    assert len(rounds) == times["slow"].samples == 41
    assert [number for name, number in varied if name == "fast"] == [0, *range(41)]
    assert times["slow"] == Times(20.0, 20.0, 20.0, 20.0, 41)
    assert shares == sorted(shares) and shares[-1] == 1.0


def test_a_device_makes_the_least_rounds_whatever_the_budget():
    device = Device({"a": 1.0})
    times = interleaved({"a": Setup(device.call("a"))}, device_clock(device.timer), 0.0)
    assert times["a"].samples == MIN_ROUNDS


def test_a_visit_of_the_host_is_many_calls_of_a_fast_setup_and_one_of_a_slow_one(clock):
    calls = []
    setups = {
        name: Setup(clock.taking(seconds, lambda name=name: calls.append(name)))
        for name, seconds in (("fast", 1e-4), ("middle", 0.01), ("slow", 0.5))
    }
    times = interleaved(setups, host_clock(), 0.0)
    # 30 ms a visit, ten calls at most; each is a sample.
    assert {name: found.samples for name, found in times.items()} == {
        "fast": 10,
        "middle": 3,
        "slow": 1,
    }
    # Two calls say how many a visit has, and one of each visit is not timed.
    assert {name: calls.count(name) for name in setups} == {"fast": 13, "middle": 6, "slow": 4}


def test_loading_is_the_fastest_of_three(clock):
    each = iter([0.5, 0.2, 0.3])
    assert load_ms(lambda: clock.sleep(next(each))) == 200.0
    assert load_ms(None) is None


def test_switching_is_the_difference_to_a_second_call():
    asked = []
    seconds = iter([0.5, 0.3, 0.4, 0.4] * 3)

    def timer(call):
        call()
        return next(seconds)

    calls = {size: lambda size=size: asked.append(size) for size in (64, 32)}
    assert switch_ms(calls, timer, rounds=3) == {64: 200.0, 32: 0.0}
    assert asked == [64, 64, 32, 32] * 3
