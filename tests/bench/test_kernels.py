"""The benchmark of single convolutions: its rows, on every instruction set of this machine."""

import pytest

from rsquant.bench.kernels import bench_kernels
from rsquant.bench.switching import switch_ms
from rsquant.kernels import available, backends


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RSQUANT_CACHE", str(tmp_path))


@pytest.mark.parametrize("isa", [isa.name for isa in available() if isa.usable])
def test_every_kernel_has_rows_with_rates_and_bounds(isa):
    steps = []
    with backends.force(isa):
        rows = bench_kernels(("resnet18",), (32,), 1, lambda what, done: steps.append(done))
    assert steps == sorted(steps) and steps[-1] == 1.0
    kernels = set(backends.native().all_conv_kernels(isa))
    # No layer of a ResNet is depthwise, and none of this one reads floats.
    assert {row["algorithm"] for row in rows} == kernels - {"depthwise", "direct_float"}
    for row in rows:
        assert (row["arch"], row["resolution"], row["isa"]) == ("resnet18", 32, isa)
        assert row["gmacs"] >= row["median_gmacs"] > 0 and row["bound_gmacs"] > 0
        # Rates are given to 0.01 GMAC/s, of 1 at the least: half a percent in each.
        share = row["gmacs"] / row["bound_gmacs"]
        assert row["share_of_bound"] == pytest.approx(share, rel=0.01, abs=0.001)
        macs = row["gmacs"] * 1e9 * row["ms"] / 1e3
        height, width = map(int, row["kernel"].split("x"))
        taps = height * width * row["in_channels"]
        assert macs == pytest.approx(row["output"] ** 2 * row["out_channels"] * taps, rel=0.05)


def test_switching_is_the_difference_to_a_second_call():
    calls = []

    class Session:
        def __call__(self, images):
            calls.append(images)

    found = switch_ms(Session(), {64: "a", 32: "b"}, rounds=3)
    assert calls == ["a", "a", "b", "b"] * 3
    assert set(found) == {64, 32}
