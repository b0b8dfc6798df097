"""Single convolutions on a fake session and fake times: rows, rates, shares."""

import pytest
import torch

import rsquant
from rsquant.bench.cuda import layers
from rsquant.bench.cuda.ceilings import Rates
from rsquant.bench.cuda.device import Host
from rsquant.bench.cuda.forms import Form
from rsquant.bench.cuda.layers import LAYER_ENGINES, bench_layers, distinct
from rsquant.bench.engines.layer import LayerCall
from rsquant.bench.subject import Subject
from rsquant.bench.timing import Times
from rsquant.errors import PackError
from rsquant.packed.ops.conv import ConvStep


@pytest.fixture
def network():
    torch.manual_seed(0)
    return rsquant.create("resnet26", 2, 2, (64,), 5, width=8, stem="imagenet").eval()


def test_rows_cover_every_distinct_layer_and_batch(network, sessions):
    steps = []
    rows = bench_layers(
        [Subject(network, None, "")],
        Host(),
        None,
        (1, 2),
        budget=0.0,
        step=lambda what, done: steps.append(done),
        side=32,
        copied=1000,
    )
    assert steps == sorted(steps) and steps[-1] == 1.0
    graph = sessions[0].graphs[64, 1]
    found = distinct(graph, graph.program, 1)
    convolutions = [s for s in graph.program.steps if isinstance(s, ConvStep)]
    assert 20 < len(found) < len(convolutions) == 29
    names = [launch.step.name for launch in found.values()]
    assert len(set(names)) == len(names)
    for batch in (1, 2):
        ours = [r for r in rows if r.engine == "gpu" and r.batch == batch]
        assert [r.layer for r in ours] == names
    for row in rows:
        assert (row.arch, row.resolution) == ("resnet26", 64)
        assert row.kernel == "1x1" or row.engine != "int8"
        if row.engine == "gpu":
            assert row.bytes == 1000
    assert {r.engine for r in rows} == set(LAYER_ENGINES)
    # Warm and cold, each with an untimed call and the trials before.
    assert graph.replays == 1 and len(graph.runs) > len(names)


def test_rates_are_of_the_time_beyond_the_flushes(monkeypatch):
    monkeypatch.setattr(layers, "COPIES", 20)
    form = Form(1, 64, 64, (1, 1), (1, 1), (0, 0), (1, 1), 1, 50, 50, 50, 50, "codes")
    assert form.macs == 10_240_000
    calls = {
        "gpu": LayerCall(print, 500_000, "one kernel"),
        "cudnn_bf16": LayerCall(print, 4_000_000, "fused"),
    }
    measured = {
        "flush": Times(2.0, 2.1, 2.2, 2.3, 9),
        ("a", "gpu", "cold"): Times(2.4, 2.5, 2.6, 2.7, 9),
        ("a", "gpu", "warm"): Times(0.1, 0.2, 0.3, 0.4, 9),
        ("a", "cudnn_bf16", "cold"): Times(3.0, 3.1, 3.2, 3.3, 9),
        ("a", "cudnn_bf16", "warm"): Times(0.5, 0.6, 0.8, 0.9, 9),
    }
    ours, cudnn = layers._rows(("net", 50, "a"), form, calls, measured, Rates(4e12, 4e14, 8e14))
    # 0.4 ms more for 20 copies: 20 us each, by the median and by the fastest.
    assert (ours.ms, ours.median_ms, ours.warm_ms) == (0.02, 0.02, 0.015)
    assert ours.tmacs == 0.512 and ours.gbytes_per_s == 25.0
    assert ours.share_of_bytes == round(25 / 4000, 4)
    assert ours.share_of_operations == round(0.512 / 800, 4)
    assert (cudnn.ms, cudnn.median_ms, cudnn.warm_ms) == (0.05, 0.05, 0.04)
    assert (cudnn.peak_tmacs, ours.peak_tmacs) == (400.0, 800.0)
    assert cudnn.share_of_operations == round(10_240_000 / 50e-6 / 4e14, 4)
    assert (ours.speedup, cudnn.speedup) == (2.5, 1.0)
    # Without int8, and where noise ate the time, there is no share.
    measured["a", "gpu", "cold"] = measured["flush"]
    ours, _ = layers._rows(("net", 50, "a"), form, calls, measured, Rates(4e12, 4e14, None))
    for name in ("tmacs", "gbytes_per_s", "share_of_bytes", "share_of_operations", "speedup"):
        assert getattr(ours, name) is None
    (alone,) = layers._rows(
        ("net", 50, "a"), form, {"gpu": calls["gpu"]}, measured, Rates(4e12, 4e14, 8e14)
    )
    assert alone.speedup is None


def test_copies_lie_between_flushes():
    seen = []
    layers._times(lambda: seen.append("layer"), lambda: seen.append("flush"))()
    assert seen == ["flush", "layer"] * layers.COPIES
    layers._times(lambda: seen.append("alone"))()
    assert seen[-layers.COPIES - 1 :] == ["layer"] + ["alone"] * layers.COPIES


def test_a_flush_reads_twice_the_cache_and_at_least_128_mib(monkeypatch):
    sizes = []
    monkeypatch.setattr(torch, "amax", lambda buffer: sizes.append(buffer.nbytes))
    for cache in (10, 80 * 2**20):
        host = Host()
        host.cache_bytes = cache
        layers._flusher(host)()
    assert sizes == [128 * 2**20, 160 * 2**20]


def test_a_float_network_has_no_packed_layers(sessions):
    network = rsquant.create("resnet18", 32, 32, (32,), 5, width=8).eval()
    with pytest.raises(PackError):
        bench_layers([Subject(network, None, "")], Host(), None, (1,), budget=0.0, side=8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_small_run_on_a_device():
    from rsquant.bench.cuda.device import open_device

    torch.manual_seed(0)
    network = rsquant.create("resnet18", 2, 2, (64,), 5, width=16).eval()
    rows = bench_layers(
        [Subject(network, None, "")],
        open_device("cuda"),
        None,
        (1, 16),
        budget=1.0,
        side=512,
        copied=2**24,
    )
    assert {r.engine for r in rows} == set(LAYER_ENGINES)
    assert all(r.warm_ms > 0 for r in rows)
