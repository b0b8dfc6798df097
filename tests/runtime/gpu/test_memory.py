"""The plan of device memory against a simulation of the program."""

import pytest

from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed
from rsquant.runtime.gpu import memory


def check(program, plan):
    """Run through the steps, noting which value lies where, and that every read finds its own."""
    owner = {}

    def span(number):
        place = plan.places[number]
        n, h, w, c = place.shape
        assert place.offset + n * h * w * c <= plan.words
        return range(place.offset, place.offset + n * h * w * c)

    for word in span(0):
        owner[word] = 0
    for step in program.steps:
        for number in step.reads:
            assert {owner[word] for word in span(number)} == {number}, f"{step.name} reads {number}"
        written = step.writes
        reads = {step.reads[0]}
        for number in written:
            for other in reads:
                assert not set(span(number)) & set(span(other)), f"{step.name} overwrites its input"
            for word in span(number):
                owner[word] = number
    assert {owner[word] for word in span(program.logits)} == {program.logits}


@pytest.mark.parametrize("arch", ["resnet10", "resnet14", "mobilenet", "floats"])
@pytest.mark.parametrize("bits", [2, 3])
def test_no_value_is_overwritten_while_it_is_needed(make, arch, bits):
    packed = open_packed(make(arch, bits, bits, width=8, sizes=(32,)))
    for batch in (1, 3):
        program = build_program(packed, 32, 32)
        check(program, memory.plan(program, batch))


def test_a_residual_sum_takes_the_place_of_what_it_adds_to(make):
    program = build_program(open_packed(make("resnet10", width=8, sizes=(32, 24))), 32, 32)
    plan = memory.plan(program, 2)
    shared = [
        step.epilogue
        for step in program.steps
        if hasattr(step, "epilogue") and None not in (step.epilogue.add, step.epilogue.keep)
    ]
    assert shared
    for epilogue in shared:
        assert plan.places[epilogue.keep].offset == plan.places[epilogue.add].offset


def test_a_convolution_of_what_it_adds_to_gets_a_place_of_its_own(make):
    program = build_program(open_packed(make("floats", sizes=(32, 24))), 32, 32)
    plan = memory.plan(program, 2)
    step = next(step for step in program.steps if step.name == "itself")
    assert step.input == step.epilogue.add
    assert plan.places[step.epilogue.keep].offset != plan.places[step.input].offset


def test_memory_is_used_again(make):
    program = build_program(open_packed(make("resnet10", width=8, sizes=(32, 24))), 32, 32)
    plan = memory.plan(program, 1)
    alone = sum(n * h * w * c for n, h, w, c in (place.shape for place in plan.places))
    assert plan.words < alone / 2
