"""The interleaved timer, on calls that only note that they were made."""

import time

import numpy as np
import pytest

from rsquant.bench import latency
from rsquant.bench.latency import MIN_ROUNDS, interleaved


@pytest.fixture(autouse=True)
def short_visits(monkeypatch):
    monkeypatch.setattr(latency, "VISIT_SECONDS", 0.0)
    monkeypatch.setattr(latency, "PAUSE_SECONDS", 0.0)


def test_every_setup_is_visited_in_every_round_in_changing_order():
    visits = []
    setups = {name: (lambda name=name: visits.append(name)) for name in "abcdefgh"}
    spread = interleaved(setups, 0.2, seed=3)
    assert list(spread) == list(setups)
    # Two calls to warm up each, then a visit is one untimed and one timed call.
    rest = visits[16:]
    rounds = [rest[i : i + 16 : 2] for i in range(0, len(rest), 16)]
    assert len(rounds) >= MIN_ROUNDS
    assert all(sorted(r) == sorted(setups) for r in rounds)
    assert len({tuple(r) for r in rounds}) > 1
    assert {s.samples for s in spread.values()} == {len(rounds)}


def test_the_order_is_seeded():
    def order(seed):
        visits = []
        interleaved({n: (lambda n=n: visits.append(n)) for n in "abcdefgh"}, 0.01, seed)
        return visits[16 : 16 + 16 * MIN_ROUNDS]

    assert order(1) == order(1) != order(2)


def test_median_and_quartiles_are_those_of_the_samples():
    spread = latency._spread([0.004, 0.001, 0.003, 0.002, 0.005])
    assert (spread.q1, spread.median, spread.q3) == (2.0, 3.0, 4.0)
    assert spread.samples == 5


def test_a_slower_call_is_measured_slower():
    spread = interleaved({"fast": lambda: None, "slow": lambda: time.sleep(0.002)}, 0.1)
    assert spread["slow"].median >= 2.0 > spread["fast"].median


def test_a_spent_budget_stops_after_one_round():
    calls = []
    interleaved({"slow": lambda: (calls.append(0), time.sleep(0.02))}, 0.0)
    assert len(calls) == 4


def test_progress_rises_to_one():
    shares = []
    interleaved({"a": lambda: None, "b": lambda: None}, 0.05, progress=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1.0 and np.all(np.array(shares) >= 0)


def test_nothing_to_time_is_nothing():
    assert interleaved({}, 1.0) == {}
