"""Work on another thread while a block runs."""

import threading

import pytest

from rsquant.beside import beside


def test_both_run_at_the_same_time():
    here, there = threading.Event(), threading.Event()

    def work():
        there.set()
        assert here.wait(60)
        return threading.current_thread()

    with beside(work) as results:
        assert there.wait(60)
        assert results == []
        here.set()
    assert results != [threading.current_thread()] and len(results) == 1


def test_what_it_raises_comes_behind_the_block():
    done = []
    with pytest.raises(KeyError, match="a"), beside(lambda: {}["a"]) as results:
        done.append(1)
    assert done == [1] and results == []


def test_what_the_block_raises_comes_behind_the_work():
    go, done = threading.Event(), []

    def work():
        assert go.wait(60)
        done.append(1)
        raise OSError("dropped")

    with pytest.raises(ValueError, match="mine"), beside(work):
        go.set()
        raise ValueError("mine")
    assert done == [1]


def test_without_threads_the_work_comes_first(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with beside(threading.current_thread) as results:
        assert results == [threading.current_thread()]
    with pytest.raises(KeyError), beside(lambda: {}["a"]):
        pass
