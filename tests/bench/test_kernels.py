"""The benchmark of single convolutions: its rows, on every instruction set of this machine."""

import pytest

from rsquant.bench.kernels import bench_kernels
from rsquant.bench.subject import choose_subject
from rsquant.kernels import available, backends
from rsquant.runtime import Session


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RSQUANT_CACHE", str(tmp_path))


@pytest.fixture
def steady(monkeypatch):
    """Every step runs, and takes a tenth of a millisecond whatever else the machine does."""
    step_seconds = Session.step_seconds
    monkeypatch.setattr(
        Session,
        "step_seconds",
        lambda *arguments: [(name, 1e-4) for name, _ in step_seconds(*arguments)],
    )


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("isa", [isa.name for isa in available() if isa.usable])
def test_every_kernel_has_rows_with_rates_and_bounds(isa):
    subject = choose_subject(arch="resnet18", resolutions=(32,), like=False)
    steps = []
    with backends.force(isa):
        rows = bench_kernels([subject], None, 1, lambda what, done: steps.append(done))
    assert steps == sorted(steps) and steps[-1] == 1.0
    kernels = set(backends.native().all_conv_kernels(isa))
    # No layer of a ResNet is depthwise, and this one is no integer network and reads no floats.
    assert {row.algorithm for row in rows} == kernels - {"depthwise", "direct_float", "image_bytes"}
    for row in rows:
        assert (row.arch, row.resolution, row.isa) == ("resnet18", 32, isa)
        assert row.gmacs >= row.median_gmacs > 0 and row.bound_gmacs > 0
        # Rates are to 0.01 GMAC/s, shares to a thousandth: the share is of rates somewhere within.
        off, half, thousandth = 0.0051 / row.gmacs, 0.005, 0.0005
        least = (row.gmacs - half) / (row.bound_gmacs + half)
        most = (row.gmacs + half) / (row.bound_gmacs - half)
        assert least - thousandth <= row.share_of_bound <= most + thousandth
        assert row.ms == 0.1
        macs = row.gmacs * 1e9 * row.ms / 1e3
        height, width = map(int, row.kernel.split("x"))
        taps = height * width * row.in_channels
        assert macs == pytest.approx(row.output**2 * row.out_channels * taps, rel=off)
