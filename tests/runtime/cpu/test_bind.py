"""Places of values that compiled programs are given: used as they are, or refused."""

import random
import subprocess
import sys

import numpy as np
import pytest

from rsquant.kernels.backends import native
from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed
from rsquant.runtime import load, memory
from rsquant.runtime.cpu.bind import bind
from rsquant.runtime.cpu.steps import Steps
from rsquant.runtime.cpu.weights import PreparedWeights


@pytest.fixture
def path(make):
    return make("resnet14", 2, 2, width=8, sizes=(32,))


@pytest.fixture
def planned(monkeypatch):
    """planned(change): plans of memory are changed from now on, change(values, plan)."""
    right = memory.plan

    def changed(change):
        monkeypatch.setattr(
            memory, "plan", lambda values, align: change(values, right(values, align))
        )

    return changed


def moved(plan, number, offset):
    offsets = (*plan.offsets[:number], offset, *plan.offsets[number + 1 :])
    return memory.MemoryPlan(offsets, plan.total)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda plan: memory.MemoryPlan(plan.offsets[1:], plan.total), "places: one per value"),
        (lambda plan: memory.MemoryPlan((), 0), "places: one per value"),
        (lambda plan: moved(plan, 3, plan.total), "places: inside the memory"),
        (lambda plan: moved(plan, 3, 2**64 - 64), "places: inside the memory"),
        (lambda plan: memory.MemoryPlan(plan.offsets, plan.total - 64), "inside the memory"),
        (lambda plan: memory.MemoryPlan(plan.offsets, 2**62), "places: more memory than all"),
        (lambda plan: memory.MemoryPlan(plan.offsets, 2**64 - 1), "places: more memory than all"),
        (lambda plan: moved(plan, 3, plan.offsets[3] + 4), "places: multiples of 64"),
        (lambda plan: moved(plan, 1, plan.offsets[0]), "places: two values share memory"),
        (lambda plan: memory.MemoryPlan((0,) * len(plan.offsets), plan.total), "share memory"),
    ],
)
def test_a_wrong_plan_is_refused(path, planned, change, message):
    planned(lambda values, plan: change(plan))
    with pytest.raises(ValueError, match=message):
        load(path, 1, tune=False)


@pytest.mark.parametrize("offset", [-64, 2**64, 1.5, None])
def test_an_offset_that_is_no_size_is_refused(path, planned, offset):
    planned(lambda values, plan: moved(plan, 3, offset))
    with pytest.raises(TypeError, match="incompatible function arguments"):
        load(path, 1, tune=False)


def shares(values, offsets, number):
    """Whether a value shares bytes with one alive at the same time, but for sums in place."""
    value, at = values[number], offsets[number]
    for other, (beside, there) in enumerate(zip(values, offsets, strict=True)):
        in_place = other == value.home or number == beside.home
        if other == number or (in_place and at == there):
            continue
        together = value.first <= beside.last and beside.first <= value.last
        if together and at < there + beside.size and there < at + value.size:
            return True
    return False


def test_a_value_may_be_moved_exactly_where_no_other_is(path, planned):
    """Random moves of one value: refused where it meets another, else the same logits."""
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32), dtype=np.uint8)
    session = load(path, 1, tune=False)
    logits, again = session(images), np.empty((1, 7), np.float32)
    program = session.program(32)
    workspace = native().Workspace(1)
    with PreparedWeights(session.isa).of(program, session._choice.kernels(program)) as weights:
        pass
    rng = random.Random(0)
    wrong = []

    def change(values, plan):
        number = rng.randrange(len(values))
        total = plan.total + 4096
        offset = 64 * rng.randrange((total - values[number].size) // 64 + 1)
        move = memory.MemoryPlan(moved(plan, number, offset).offsets, total)
        wrong.append(shares(values, move.offsets, number))
        return move

    planned(change)
    for _ in range(60):
        try:
            bound = bind(session.isa, workspace, program, weights)
        except ValueError as error:
            assert wrong[-1] and "two values share memory" in str(error)
        else:
            assert not wrong[-1]
            bound.run(images, program.logits, again, None)
            np.testing.assert_array_equal(again, logits)
    assert 10 < sum(wrong) < 50


def test_only_a_declared_sum_may_take_the_place_of_what_it_adds_to(make, planned):
    """`itself` is a convolution of what it adds to: its windows read what others have written."""
    path = make("floats", 2, 2, width=8, sizes=(32,))
    program = build_program(open_packed(path), 32, 32)
    step = next(step for step in program.steps if step.name == "itself")
    assert step.input == step.epilogue.add

    def change(values, plan):
        return moved(plan, step.epilogue.keep, plan.offsets[step.input])

    planned(change)
    with pytest.raises(ValueError, match="places: two values share memory"):
        load(path, 1, tune=False)


def test_sums_are_written_in_place(path):
    session = load(path, 1, tune=False)
    program, bound = session.program(32), session._at(32, 32).bound
    planned = memory.plan(memory.lifetimes(program, bound.value_sizes()), 64)
    assert bound.value_bytes == planned.total
    shared = [step.in_place for step in program.steps if step.in_place is not None]
    assert shared
    for read, written in shared:
        assert planned.offsets[read] == planned.offsets[written]


def test_a_finished_program_stays_as_it_is(path):
    session = load(path, 1, tune=False)
    program, bound = session.program(32), session._at(32, 32).bound
    plan = memory.plan(memory.lifetimes(program, bound.value_sizes()), 64)
    with pytest.raises(ValueError, match="a finished program stays as it is"):
        bound.finish(offsets=plan.offsets, total=plan.total)
    with pytest.raises(ValueError, match="a finished program stays as it is"):
        bound.value(kind="float", channels=1, height=1, width=1, fill=0)
    with pytest.raises(ValueError, match="a finished program stays as it is"):
        program.steps[-1].bind_cpu(Steps(bound, {}))


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's here")
def test_a_session_survives_a_size_that_memory_does_not_suffice_for(path):
    code = f"""
import resource, numpy as np
from rsquant.runtime import load
session = load({str(path)!r}, 1, tune=False)
small, large = (np.zeros((1, 3, side, side), np.uint8) for side in (32, 1500))
before = session(small)
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**25,) * 2)
try:
    session(large)
except MemoryError:
    print(np.array_equal(session(small), before))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
