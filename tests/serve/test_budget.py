"""The choice of a size, against a simulated machine."""

import numpy as np
import pytest

from rsquant.errors import ConfigError
from rsquant.serve.budget import Budget

IDLE = {224: 0.020, 160: 0.010, 96: 0.004}


def serve(budget, loads, seed=0):
    """Sizes chosen and seconds taken on a machine of given loads, times spread by 5 %."""
    rng = np.random.default_rng(seed)
    sizes, seconds = [], []
    for load in loads:
        size = budget.choose().size
        took = IDLE[size] * load * rng.uniform(0.95, 1.05)
        budget.tell(size, took)
        sizes.append(size)
        seconds.append(took)
    return np.array(sizes), np.array(seconds)


def test_the_largest_size_that_fits_is_used_while_the_load_stays():
    sizes, _ = serve(Budget(IDLE, 0.030), [1.0] * 300)
    assert set(sizes) == {224}
    assert set(serve(Budget(IDLE, 0.012), [1.0] * 300)[0]) == {160}


def test_a_load_that_doubles_costs_at_most_ten_calls():
    sizes, seconds = serve(Budget(IDLE, 0.030), [1.0] * 500 + [2.0] * 500)
    late = np.flatnonzero(seconds > 0.030)
    assert len(late[late >= 500 + 10]) <= 5  # 1 % of what follows
    assert late.min() >= 500
    assert set(sizes[510:]) == {160}


def test_when_the_load_ends_the_size_goes_up_again():
    sizes, _ = serve(Budget(IDLE, 0.030), [1.0] * 100 + [2.0] * 200 + [1.0] * 300)
    assert sizes[-1] == 224


def test_a_load_at_the_limit_does_not_make_the_choice_swing():
    rng = np.random.default_rng(1)
    sizes, _ = serve(Budget(IDLE, 0.030), rng.uniform(1.2, 1.5, 1000))
    assert np.count_nonzero(np.diff(sizes)) < 10


def test_the_load_is_the_quantile_of_the_last_calls():
    budget = Budget(IDLE, 1.0, percentile=90, window=20)
    ratios = np.random.default_rng(2).uniform(0.5, 3, 57)
    for ratio in ratios:
        budget.tell(96, IDLE[96] * ratio)
    expected = np.sort(ratios[-20:])[17]
    assert budget.load == pytest.approx(expected)


def test_preparation_is_part_of_the_time():
    budget = Budget(IDLE, 0.030)
    for _ in range(20):
        budget.tell(224, IDLE[224], 0.015)
    choice = budget.choose()
    assert choice.size == 160 and choice.predicted == pytest.approx(0.025)
    assert budget.load == pytest.approx(1)


def test_a_budget_below_the_smallest_size_uses_it_and_says_so():
    choice = Budget(IDLE, 0.001).choose()
    assert choice.size == 96 and not choice.fits
    assert "the smallest, though over 1.0 ms" in choice.reason
    with pytest.raises(ConfigError, match=r"96 pixels, takes 4\.00 ms here, more than 1"):
        Budget(IDLE, 0.001, strict=True)


def test_what_is_left_of_a_budget_decides():
    budget = Budget(IDLE, 0.030)
    assert budget.choose().size == 224
    assert budget.choose(left=0.011).size == 160
    assert not budget.choose(left=0.001).fits


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf")])
def test_a_budget_must_be_a_time(wrong):
    with pytest.raises(ConfigError, match="budget_ms: must be above 0"):
        Budget(IDLE, wrong)


def test_a_budget_needs_a_size_and_says_what_it_was_given():
    with pytest.raises(ConfigError, match="seconds: must have the time of one size or more"):
        Budget({}, 0.1)
    with pytest.raises(ConfigError, match="must be 1 or more, got 0 and 8"):
        Budget({48: 0.01}, 0.1, window=0)
