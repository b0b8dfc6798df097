"""Layouts that are made while a program is bound to them."""

import threading

import pytest

from rsquant.kernels.backends import native
from rsquant.runtime import load
from rsquant.runtime.cpu import weights
from rsquant.runtime.cpu.weights import PreparedWeights


@pytest.fixture
def opened(make):
    """A session of two sizes, and (program, kernels) of each."""
    session = load(make(sizes=(32, 24)), 1, tune=False)
    programs = [session.program(size) for size in (32, 24)]
    return session, [(program, session._choice.kernels(program)) for program in programs]


@pytest.fixture
def fail(monkeypatch):
    """fail(error) -> layouts whose weights cannot be laid out."""

    def broken(error):
        class Layouts:
            def __init__(self, **given):
                self.prepared = native().Layouts(**given).prepared

            def prepare(self, threads):
                raise error

        real = native()
        monkeypatch.setattr(weights, "native", lambda: Changed(real, Layouts))

    class Changed:
        def __init__(self, real, layouts):
            self._real, self.Layouts = real, layouts

        def __getattr__(self, name):
            return getattr(self._real, name)

    return broken


def test_the_second_size_has_the_layouts_of_the_first(opened, monkeypatch):
    session, programs = opened
    prepared = PreparedWeights(session.isa)
    assert prepared.bytes == 0
    found = []
    for program, kernels in programs:
        with prepared.of(program, kernels) as given:
            found.append({n: one.prepared for n, one in given.items()})
        # No thread is needed where there is nothing to do.
        monkeypatch.setattr(threading.Thread, "start", None)
    assert prepared.bytes == session.weight_bytes
    assert found[0] == found[1] and None not in found[0].values()


def test_what_fails_is_told_and_not_kept(opened, fail):
    session, [(program, kernels), _] = opened
    prepared = PreparedWeights(session.isa)
    fail(MemoryError("no more"))
    with pytest.raises(MemoryError, match="no more"), prepared.of(program, kernels):
        pass
    assert prepared.bytes == 0


def test_layouts_are_not_kept_where_binding_fails(opened):
    session, [(program, kernels), _] = opened
    prepared = PreparedWeights(session.isa)
    with pytest.raises(ValueError, match="mine"), prepared.of(program, kernels):
        raise ValueError("mine")
    assert prepared.bytes == 0
