"""Places of values: against every order of placing small cases, and in compiled programs."""

import itertools
import random

import pytest

from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed
from rsquant.runtime.memory import Lifetime, lifetimes, plan


def random_values(seed, most=7):
    """A few values of random sizes and times, some in the place of an earlier one."""
    rng = random.Random(seed)
    values = []
    homes = set()
    for number in range(rng.randint(1, most)):
        first = rng.randint(0, 6)
        size, home = rng.choice([1, 3, 64, 65, 200]), None
        if rng.random() < 0.4:
            homeless = [n for n in range(number) if n not in homes]
            if homeless:
                home = rng.choice(homeless)
                homes.add(home)
                size, first = values[home].size, values[home].last
        values.append(Lifetime(size, first, first + rng.randint(0, 4), home))
    return values


def rounded(value, align):
    return -(-value.size // align) * align


def alive(values, step):
    """Sizes that a step needs at once: what it writes in place needs none of its own."""
    return [
        number
        for number, value in enumerate(values)
        if value.first <= step <= value.last
        and not (value.home is not None and step == value.first)
    ]


def largest_sum(values, align):
    steps = range(max(value.last for value in values) + 1)
    return max(sum(rounded(values[n], align) for n in alive(values, step)) for step in steps)


def check(values, offsets, total, align):
    """Step by step and byte by byte: nobody's bytes are somebody else's."""
    assert len(offsets) == len(values)
    for step in range(max(value.last for value in values) + 1):
        owner = {}
        for number in alive(values, step):
            assert offsets[number] % align == 0
            for byte in range(offsets[number], offsets[number] + values[number].size):
                assert owner.setdefault(byte, number) == number
                assert byte < total


@pytest.mark.parametrize("align", [1, 64])
@pytest.mark.parametrize("seed", range(60))
def test_values_alive_in_one_step_share_no_byte(seed, align):
    values = random_values(seed)
    planned = plan(values, align)
    check(values, planned.offsets, planned.total, align)
    assert planned.total >= largest_sum(values, align)
    for value, offset in zip(values, planned.offsets, strict=True):
        if value.home is not None:
            assert offset == planned.offsets[value.home]


def smallest_total(values):
    """Of all placements: some order of first fits is one of the smallest.

    Of a smallest placement, move values down by turns until none can move; placing them by
    ascending offset, each at its lowest place, gives no more.
    """
    best = None
    for order in itertools.permutations(range(len(values))):
        placed = []
        for number in order:
            value = values[number]
            beside = sorted(
                (begin, end)
                for other, begin, end in placed
                if values[other].first <= value.last and value.first <= values[other].last
            )
            at = 0
            for begin, end in beside:
                if at + value.size <= begin:
                    break
                at = max(at, end)
            placed.append((number, at, at + value.size))
        total = max(end for _, _, end in placed)
        best = total if best is None else min(best, total)
    return best


def test_totals_are_near_the_smallest_there_are():
    """Largest first is no optimum; over many cases it is close to the best of all placements."""
    totals, best = 0, 0
    for seed in range(60):
        values = [Lifetime(v.size, v.first, v.last) for v in random_values(seed, most=5)]
        total, smallest = plan(values, 1).total, smallest_total(values)
        assert smallest <= total
        totals, best = totals + total, best + smallest
    assert totals <= 1.02 * best


@pytest.mark.parametrize(
    "values, message",
    [
        ([Lifetime(8, 0, 1, home=0)], "takes the place of value 0, which must be an earlier one"),
        ([Lifetime(8, 0, 1, home=-1)], "takes the place of value -1, which must be an earlier"),
        ([Lifetime(8, 0, 1), Lifetime(8, 2, 3, 0)], "read last in step 2, got size 8 and step 1"),
        ([Lifetime(8, 0, 1), Lifetime(9, 1, 3, 0)], "have its size 9 .*, got size 8 and step 1"),
        ([Lifetime(8, 0, 1), *[Lifetime(8, 1, 3, 0)] * 2], "that gives its place to no other"),
    ],
)
def test_a_wrong_home_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        plan(values, 1)


def test_no_values_need_no_memory():
    assert plan([], 64).total == 0


def test_a_long_chain_is_planned_by_its_neighbours_only():
    """20,000 values, as many as a file may have; time would be in squares of that."""
    values = [Lifetime(64 * (1 + n % 5), n, n + 2) for n in range(20_000)]
    planned = plan(values, 64)
    assert planned.total <= 64 * 15
    assert planned.total >= 64 * 12


@pytest.mark.parametrize("arch", ["resnet14", "floats"])
def test_lifetimes_are_those_of_a_run(make, arch):
    program = build_program(open_packed(make(arch, 2, 2, width=8, sizes=(32,))), 32, 32)
    sizes = [4 * v.channels * v.height * v.width for v in program.values]
    offsets = plan(lifetimes(program, sizes), 4).offsets
    at = [range(o // 4, (o + s) // 4) for o, s in zip(offsets, sizes, strict=True)]
    content = dict.fromkeys(at[0], 0)
    in_place = 0
    for step in program.steps:
        for number in step.reads:
            assert {content[word] for word in at[number]} == {number}
        for number in step.writes:
            for read in step.reads:
                if at[number].start < at[read].stop and at[read].start < at[number].stop:
                    assert step.in_place == (read, number)
                    in_place += 1
            content.update(dict.fromkeys(at[number], number))
    assert {content[word] for word in at[program.logits]} == {program.logits}
    assert in_place
