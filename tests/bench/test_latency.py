"""The interleaved timer, on calls that only note that they were made and a clock of its own."""

import numpy as np
import pytest

from rsquant.bench import latency
from rsquant.bench.latency import MIN_ROUNDS, Spread, interleaved


class Clock:
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
    monkeypatch.setattr(latency, "VISIT_SECONDS", 0.0)
    monkeypatch.setattr(latency, "PAUSE_SECONDS", 0.0)
    clock = Clock()
    monkeypatch.setattr(latency, "time", clock)
    return clock


def visits_of(clock, seconds, seed):
    """What eight setups of a millisecond each note, call by call, and their spreads."""
    visits = []
    setups = {n: clock.taking(1e-3, lambda n=n: visits.append(n)) for n in "abcdefgh"}
    return visits, interleaved(setups, seconds, seed)


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


def test_median_and_quartiles_are_those_of_the_samples():
    spread = latency._spread([0.004, 0.001, 0.003, 0.002, 0.005])
    assert (spread.q1, spread.median, spread.q3) == (2.0, 3.0, 4.0)
    assert spread.samples == 5


def test_each_call_is_measured_alone(clock):
    spread = interleaved({"fast": clock.taking(0.25), "slow": clock.taking(2.0)}, 20.0)
    # A round takes 4.5 s.
    assert spread == {
        "fast": Spread(250.0, 250.0, 250.0, 4),
        "slow": Spread(2000.0, 2000.0, 2000.0, 4),
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
    interleaved({"slow": clock.taking(1.0, lambda: calls.append(0))}, seconds)
    # Two calls to warm up; then a round is two and takes 2 s.
    assert len(calls) == 2 + 2 * rounds
    assert 2 * rounds <= (3 * seconds if rounds <= MIN_ROUNDS else seconds) or rounds == 1


def test_progress_rises_to_one(clock):
    shares = []
    interleaved({n: clock.taking(0.01) for n in "ab"}, 0.05, progress=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1.0 and np.all(np.array(shares) >= 0)


def test_nothing_to_time_is_nothing():
    assert interleaved({}, 1.0) == {}
