"""The profile of a packed network: its rows, from a network or a file, on every instruction set."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import rsquant
from rsquant import runtime
from rsquant.bench import profile
from rsquant.bench.kernels import BYTES, MIX, bound_of
from rsquant.bench.profile import CALL, Case, profile_file, profile_network, rows_of
from rsquant.bench.subject import Subject
from rsquant.errors import PackedFileError
from rsquant.evaluate.complexity import madds
from rsquant.kernels import available, backends
from rsquant.packed.ops.conv import ConvStep
from rsquant.runtime.cpu.form import convolutions

ISAS = [isa.name for isa in available() if isa.usable]


@pytest.fixture(scope="module")
def network():
    return rsquant.create("resnet18", 2, 2, (48, 32), 5, width=8).eval()


@pytest.fixture(scope="module")
def packed(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "net.rsq"
    rsquant.pack(network, path)
    return path


@pytest.fixture(autouse=True)
def untuned(monkeypatch):
    """Kernels are not timed first."""
    load = runtime.load
    monkeypatch.setattr(profile, "load", lambda path, threads: load(path, threads, tune=False))


@pytest.mark.parametrize("isa", ISAS)
def test_a_row_per_step_beside_its_bound_and_one_of_the_call(packed, isa):
    done = []
    with backends.force(isa):
        rows = profile_file(packed, None, (1,), 0.0, lambda what, share: done.append(share))
    assert done == sorted(done) and done[-1] == 1.0
    program = runtime.load(packed, 1, tune=False).program(48)
    *steps, call = rows
    assert [row.layer for row in steps] == ["image", *(step.name for step in program.steps)]
    assert call.layer == call.op == CALL
    for row in rows:
        assert (row.arch, row.wbits, row.abits, row.isa) == ("resnet18", 2, 2, isa)
        assert (row.resolution, row.threads) == (48, 1)
        assert 0 < row.ms <= row.median_ms and row.bound_ms > 0
        # Times are given to 1e-5 ms, bounds to six digits.
        assert row.share_of_bound == pytest.approx(
            row.bound_ms / row.ms, rel=1e-5 / row.ms + 1e-5, abs=1e-4
        )
    assert sum(row.share for row in steps) == pytest.approx(1, abs=0.0001 * len(steps))
    assert call.macs == sum(row.macs for row in steps)
    for row, step in zip(steps[1:], program.steps, strict=True):
        convolves = isinstance(step, ConvStep)
        assert (row.kernel is not None) == convolves
        bounds = {"copy", *MIX.get(row.kernel, BYTES)} if convolves else {"copy"}
        assert row.bound in bounds


def test_the_work_is_that_of_the_network(network, packed):
    *steps, call = profile_file(packed, (32,), (1,), 0.0)
    assert call.macs == madds(network, 32)
    rows = {row.layer: row for row in steps}
    assert rows["image"].bytes == 32 * 32 * (3 + 4)
    # 64 floats in and 5 logits out; int8 weights, scales and biases.
    assert rows["fc"].bytes == 64 * 4 + 5 * 4 + 64 * 5 + 2 * 5 * 4
    assert rows["layer1.0.conv1"].form == "3x3 s1 to 16x16x8"


def test_every_size_and_number_of_threads_is_timed(network, monkeypatch):
    monkeypatch.setattr(profile, "_MOST_CALLS", 2)
    rows = profile_network(Subject(network, None, ""), (48, 32), (1, 2), 0.0)
    found = [(row.threads, row.resolution) for row in rows if row.op == CALL]
    assert found == [(1, 48), (1, 32), (2, 48), (2, 32)]


def test_times_shares_and_bounds_are_those_of_the_samples(packed):
    case = Case(runtime.load(packed, 1, tune=False), 32)
    count = len(case.session.program(32).steps) + 1
    case.seconds = [np.full((1, count), 3e-3), np.full((2, count), [[1e-3], [2e-3]])]
    case.whole = [0.5, 0.7, 0.6]
    case.products = dict.fromkeys(("bytes", "words", "bits", "pair", "plane", "sums"), 100.0)
    case.copied = 10.0
    *steps, call = rows_of(case)
    assert {(row.ms, row.median_ms) for row in steps} == {(1.0, 2.0)}
    assert {row.share for row in steps} == {round(1 / count, 4)}
    assert (call.ms, call.median_ms) == (500.0, 600.0)
    for row in steps:  # 1e9 products or bytes a second are 1e6 a millisecond
        macs = 0 if row.kernel is None else row.macs
        bounds = {"multiply": macs / 100e6, "copy": row.bytes / 10e6}
        assert row.bound_ms == pytest.approx(max(bounds.values()), abs=1e-5)
        assert (row.bound == "copy") == (row.kernel is None or bounds["copy"] > bounds["multiply"])
    assert call.bound_ms == pytest.approx(sum(row.bound_ms for row in steps), abs=1e-5 * count)


@pytest.mark.parametrize(("bits", "planes"), [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)])
def test_look_ups_of_small_inputs_are_bound_by_sums_of_bytes(packed, bits, planes, monkeypatch):
    monkeypatch.setattr(backends.native(), "sums_limit", lambda _: 5)
    layer = next(iter(convolutions(runtime.load(packed, 1, tune=False).program(32)).values()))
    bounds = {"pair": 1.0, "plane": 2.0, "sums": 12.0}
    for limit, mix, rate in ((5, "sums", 12.0 / planes), (6, "pair", 1.0 / planes)):
        other = SimpleNamespace(form=replace(layer.form, weight_bits=bits, input_limit=limit))
        assert bound_of("lookup", other, bounds, "any") == (mix, rate)


def test_a_file_that_is_none_is_named(tmp_path):
    with pytest.raises(PackedFileError, match=r"missing\.rsq"):
        profile_file(tmp_path / "missing.rsq", None, (1,))


@pytest.mark.parametrize("threads", [1, 2])
def test_bounds_are_of_some_threads(threads):
    native, isa = backends.native(), backends.active()
    for mix in ("bytes", "words"):
        assert native.peak(isa, mix, threads) > 0
    assert (native.peak(isa, "sums", threads) > 0) == (native.sums_limit(isa) > 0)
    assert native.copy_speed(2**16, threads) > 0
    with pytest.raises(ValueError, match="threads"):
        native.peak(isa, "bytes", 0)
    with pytest.raises(ValueError, match="block: 128 bytes or more"):
        native.copy_speed(100, threads)
