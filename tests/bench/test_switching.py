"""Another size at each call: what is called, in what order, and the rows made of it."""

import pytest
import shallow  # noqa: F401  (ResNets of few blocks)
import torch

import rsquant
from rsquant.bench.engines import onnxruntime
from rsquant.bench.subject import Subject
from rsquant.bench.switching import LIVE, RELOAD, SESSION, Reloaded, alternated, bench_switching
from rsquant.errors import ConfigError


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return rsquant.create("resnet10", 2, 2, (48, 32), 5, width=8).eval()


class Machine:
    """A call takes 1 second, 10 more after another size; `calls` are the sizes."""

    def __init__(self):
        self.calls, self.times = [], []

    def __call__(self, size):
        after_another = not self.calls or self.calls[-1] != size
        self.calls.append(size)
        self.times.append(11.0 if after_another else 1.0)

    def timer(self, call):
        call()
        return self.times[-1]


def test_the_first_call_follows_another_size_and_the_second_does_not():
    machine = Machine()
    times = alternated({"way": machine}, (96, 64, 32), 0.0, timer=machine.timer)
    assert set(times) == {("way", 96), ("way", 64), ("way", 32)}
    for switched, stayed in times.values():
        assert switched == [11.0] * 3 and stayed == [1.0] * 3
    visits = [machine.calls[i : i + 7] for i in range(0, 21, 7)]
    assert all(visit[0] == visit[-1] for visit in visits)  # untimed, at the size that comes last


def test_a_network_is_opened_when_the_size_changes_and_only_then():
    opened, ran = [], []

    def opening(size):
        def open_it():
            opened.append(size)
            return lambda: ran.append(size)

        return open_it

    at = Reloaded({size: opening(size) for size in (96, 32)})
    for size in (96, 96, 32, 32, 32, 96):
        at(size)
    assert opened == [96, 32, 96]
    assert ran == [96, 96, 32, 32, 32, 96]


def test_rows_cover_every_way_and_hold_plain_numbers(network):
    steps = []
    rows = bench_switching(
        Subject(network, None, ""),
        threads=(1,),
        budget=0.0,
        step=lambda what, done: steps.append(done),
    )
    assert steps == sorted(steps) and steps[-1] == 1.0
    ways = {(r.engine, r.way) for r in rows}
    assert ways == {
        ("packed", SESSION),
        *(("ort_float32", way) for way in (LIVE, RELOAD)),
        *(("ort_int8", way) for way in (LIVE, RELOAD)),
    }
    assert len(rows) == 2 * len(ways)
    for row in rows:
        assert (row.arch, row.resolution in (48, 32), row.threads) == ("resnet10", True, 1)
        assert 0 < row.q1_ms <= row.median_ms <= row.q3_ms
        assert 0 < row.switched_q1_ms <= row.switched_ms <= row.switched_q3_ms
        assert row.samples == 3
    bytes_of = {row.engine: row.file_bytes for row in rows}
    assert bytes_of["packed"] < bytes_of["ort_int8"] < bytes_of["ort_float32"]


def test_a_reload_is_of_the_file(network, monkeypatch):
    """Not of a session that is kept."""
    opened, real = [], onnxruntime.open_session
    monkeypatch.setattr(
        onnxruntime,
        "open_session",
        lambda path, threads: opened.append(path) or real(path, threads),
    )
    bench_switching(Subject(network, None, ""), threads=(1,), budget=0.0, engines=("ort_float32",))
    # One of each size stays open. Three rounds of two sizes begin with an untimed call each, at the
    # size that comes last: the first opens it, the others unless the round before ended at it.
    assert 2 + 7 <= len(opened) <= 2 + 9


@pytest.mark.parametrize(
    "more,message",
    [
        ({"resolutions": (48,)}, r"needs two or more, got \(48,\)"),
        ({"engines": ("torch",)}, "torch runs no file"),
        ({"engines": ("pcked",)}, "did you mean 'packed'"),
        ({"threads": (0,)}, "threads: must be 1 to"),
        ({"batch": 0}, "batch: must be 1 or more"),
    ],
)
def test_impossible_settings(network, more, message):
    with pytest.raises(ConfigError, match=message):
        bench_switching(Subject(network, None, ""), **more)
