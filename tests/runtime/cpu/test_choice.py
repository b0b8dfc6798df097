"""Which kernel runs: what was asked for, measured or is the default, and what is measured when."""

import json

import pytest
from low_memory import without_layouts

from rsquant.kernels import available
from rsquant.kernels.backends import active, native
from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed
from rsquant.packed.ops.conv import ConvStep
from rsquant.runtime import load, tuning
from rsquant.runtime.cpu.choice import TUNE_SECONDS, KernelChoice
from rsquant.runtime.cpu.form import has_small_layout


def convolutions(program):
    return {n: step for n, step in enumerate(program.steps) if isinstance(step, ConvStep)}


@pytest.fixture
def program(make):
    return build_program(open_packed(make("floats", 2, 2, width=8, sizes=(32,))), 32, 32)


def test_each_convolution_has_the_kernel_asked_for_where_it_can_be(program):
    isa = active()
    default = KernelChoice(isa, 1, False, None).kernels(program)
    assert default.keys() == convolutions(program).keys()
    for kernel in native().all_conv_kernels(isa):
        choice = KernelChoice(isa, 1, False, kernel)
        for number, step in convolutions(program).items():
            eligible = choice.eligible(step)
            expected = kernel if kernel in eligible else default[number]
            assert choice.kernels(program)[number] == expected
            assert default[number] == eligible[0]


def test_low_memory_leaves_the_kernels_that_need_no_or_small_layouts(program):
    isa = active()
    low, full = (KernelChoice(isa, 1, is_low, None) for is_low in (True, False))
    for step in convolutions(program).values():
        assert low.eligible(step) == full.eligible(step)  # every layout of this network is small
        with without_layouts():
            kept = [name for name in full.eligible(step) if native().low_memory(isa, name)]
            assert kept and list(low.eligible(step)) == kept


def test_what_was_measured_is_of_that_many_threads_only(make):
    path = make(sizes=(32,), width=16)
    load(path, 1)
    tuning.write(dict.fromkeys(tuning.read(), "direct_words"))  # as if that were the fastest
    program = build_program(open_packed(path), 32, 32)
    one, two = (KernelChoice(active(), threads, False, None) for threads in (1, 2))
    assert set(one.kernels(program).values()) == {"direct_words"}
    default = {n: two.eligible(step)[0] for n, step in convolutions(program).items()}
    assert two.kernels(program) == default
    assert set(default.values()) != {"direct_words"}


@pytest.mark.parametrize("isa", [i.name for i in available() if i.usable and "avx" in i.name])
def test_low_memory_looks_up_in_large_layers_whatever_was_fastest_with_layouts(make, isa):
    path = make(sizes=(32,), width=32)
    load(path, 1, isa=isa)
    tuning.write(dict.fromkeys(tuning.read(), "direct"))
    program = build_program(open_packed(path), 32, 32)
    full, low = (KernelChoice(isa, 1, is_low, None) for is_low in (False, True))
    assert set(full.kernels(program).values()) == {"image", "direct"}
    small = [has_small_layout(isa, "direct", step.form) for step in convolutions(program).values()]
    assert True in small[1:] and False in small[1:]
    expected = ["direct" if fits else "lookup" for fits in small[1:]]
    assert list(low.kernels(program).values()) == ["image", *expected]
    with without_layouts():
        assert set(low.kernels(program).values()) == {"image", "lookup"}


@pytest.mark.parametrize("memory, kernel", [("low", None), ("full", "direct_words")])
def test_nothing_is_measured_where_there_is_nothing_to_choose(make, memory, kernel):
    load(make(width=16), 1, memory, kernel=kernel)
    assert not tuning.cache_file().exists()


def test_tuning_is_measured_once_and_kept(make, monkeypatch):
    path = make(width=16)
    session = load(path, 1)
    known = json.loads(tuning.cache_file().read_text())
    assert set(session.kernels(64)) and all(isinstance(v, str) for v in known.values())
    monkeypatch.setattr(
        "rsquant.runtime.cpu.choice.fastest_kernels", lambda *_: pytest.fail("measured again")
    )
    assert load(path, 1).kernels(64) == session.kernels(64)


def test_each_setting_is_measured_at_its_first_use_whatever_became_of_the_file(make, monkeypatch):
    def last_kernels(isa, workspace, program, unknown, *_):
        return {step: names[-1] for step, names in unknown.items()}

    monkeypatch.setattr("rsquant.runtime.cpu.choice.fastest_kernels", last_kernels)
    path = make("resnet10", sizes=(32,), width=16, bits=("2/2", "1/2"))
    session = load(path, 1)
    before = tuning.read()
    path.write_bytes(b"another file")
    session.at(bits=(1, 2))
    added = tuning.read().keys() - before.keys()
    assert [key[-3:] for key in (*before, *added) if "|file " in key] == ["2/2", "1/2"]
    assert len(added) > 5  # with convolutions of other limits


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', "[" * 100000])
def test_a_damaged_tuning_file_is_measured_anew(make, content):
    path = make(sizes=(32,), width=16)
    tuning.cache_file().parent.mkdir()
    tuning.cache_file().write_text(content)
    load(path, 1)
    assert json.loads(tuning.cache_file().read_text())


def test_choices_of_other_machines_and_unknown_kernels_are_not_used(make):
    path = make(width=16)
    load(path, 1)
    wrong = dict.fromkeys(json.loads(tuning.cache_file().read_text()), "no such kernel")
    tuning.cache_file().write_text(json.dumps(wrong))
    assert "no such kernel" not in load(path, 1).kernels(64).values()


def test_a_file_of_a_very_large_size_is_tuned_within_its_time(make, monkeypatch):
    """On a clock of its own: a run takes 2 s at the large size, and 1 ms at the small one.

    Runs come in pairs, with weights from memory and from the caches.
    """
    now, runs = [0.0], []

    def step_seconds(program, bound, repeats, between=None):
        seconds = 2.0 if program.height > 100 else 0.001
        now[0] += repeats * seconds
        runs.append(program.height)
        return [seconds / bound.steps] * bound.steps

    for clock in ("monotonic", "thread_time"):
        monkeypatch.setattr(f"rsquant.runtime.cpu.timing.time.{clock}", lambda: now[0])
    monkeypatch.setattr("rsquant.runtime.cpu.timing.step_seconds", step_seconds)
    path = make(sizes=(200, 32), width=16)
    session = load(path, 1)
    assert now[0] <= TUNE_SECONDS and runs.count(200) == 2
    # The small size is not starved: every kernel in every round, after the run of the default.
    names = {
        name
        for step in session.program(32).steps
        if isinstance(step, ConvStep)
        for name in session._choice.eligible(step)
    }
    assert runs.count(32) > 4 * len(names)
    assert session.kernels(200) == load(path, 1, tune=False).kernels(200)


def test_no_time_for_tuning_leaves_the_default_kernels(make, monkeypatch):
    monkeypatch.setattr("rsquant.runtime.cpu.choice.TUNE_SECONDS", 0.0)
    path = make(width=16)
    session = load(path, 1)
    assert session.kernels(64) == load(path, 1, tune=False).kernels(64)
    assert list(tuning.read().values()) == [""]  # and it is not tried again
