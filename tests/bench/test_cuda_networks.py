"""Whole networks on a fake session: rows, checks of the logits, errors."""

import pytest
import torch
from torch import fx, nn

import rsquant
from rsquant.bench.cuda import networks
from rsquant.bench.cuda.device import Host
from rsquant.bench.cuda.inputs import random_pixels, settle
from rsquant.bench.cuda.networks import bench_networks, check, check_batches
from rsquant.bench.cuda.values import value_bytes
from rsquant.bench.engines import cudnn, packed
from rsquant.bench.engines.base import CudaCase, CudaRun
from rsquant.bench.engines.choice import check_engines, cuda_engines, unfitting
from rsquant.bench.engines.cudnn import difference
from rsquant.bench.subject import Subject
from rsquant.data.transforms import normalise
from rsquant.errors import ConfigError, RsquantError
from rsquant.nn.freeze import freeze

ENGINES = cuda_engines()


@pytest.fixture
def network():
    torch.manual_seed(0)
    return rsquant.create("resnet10", 2, 2, (48, 32), 5, width=8).eval()


def case(network, folder, **changes):
    given = {"resolution": 32, "batch": 2, **changes}
    pixels = random_pixels(Host(), given["batch"], given["resolution"])
    sizes = given["resolution"], given["batch"]
    return CudaCase(network, *sizes, folder, device=Host(), pixels=pixels)


def test_rows_cover_every_setup(network, sessions):
    steps = []
    rows = bench_networks(
        Subject(network, None, ""),
        Host(),
        None,
        (1, 3),
        ("gpu", "cudnn_bf16"),
        0.0,
        lambda what, done: steps.append(done),
    )
    setups = {(r.engine, r.resolution, r.batch) for r in rows}
    assert setups == {(e, s, b) for e in ("gpu", "cudnn_bf16") for s in (48, 32) for b in (1, 3)}
    assert steps == sorted(steps) and steps[-1] == 1.0
    medians = {(r.engine, r.resolution, r.batch): r.median_ms for r in rows}
    for row in rows:
        assert (row.arch, row.wbits, row.abits) == ("resnet10", 2, 2)
        assert row.threads is row.peak_rss_bytes is None
        assert 0 < row.q1_ms <= row.median_ms <= row.q3_ms and row.samples >= 3
        reference = medians["cudnn_bf16", row.resolution, row.batch]
        # Milliseconds are given to 1e-4, speedups to 1e-3.
        if min(reference, row.median_ms) > 0.1:
            expected = reference / row.median_ms
            assert row.speedup == pytest.approx(expected, rel=2e-3, abs=2e-3)
        ours = row.engine == "gpu"
        assert (row.file_bytes is not None) == (row.load_ms is not None) == ours
        assert (row.switch_ms is not None) == ours
        assert row.activation_bytes == (4321 if ours else 0)
        assert row.value_bytes == 4321 if ours else row.value_bytes > 4321
    # One session serves all sizes and batches; the others were opened to be timed.
    assert len(sessions) == 1 + 4
    assert set(sessions[0].graphs) == {(48, 1), (48, 3), (32, 1), (32, 3)}
    assert all(len(session.graphs) == 1 for session in sessions[1:])


def test_images_change_from_visit_to_visit(network, sessions, monkeypatch):
    seen = []
    original = networks._filler

    def filler(ready, images):
        fill = original(ready, images)
        return lambda number: (fill(number), seen.append(ready.replay.__self__.images.sum()))

    monkeypatch.setattr(networks, "_filler", filler)
    bench_networks(Subject(network, None, ""), Host(), (32,), (2,), ("gpu",), budget=0.0)
    assert len({int(s) for s in seen}) == 3


def test_one_size_has_no_switch(network, sessions):
    (row,) = bench_networks(Subject(network, None, ""), Host(), (32,), (1,), ("gpu",), 0.0)
    assert row.switch_ms is None and row.speedup is None


def test_all_engines_that_fit_are_timed_where_none_are_named(network, sessions):
    rows = bench_networks(Subject(network, None, ""), Host(), (32,), (1,), None, 0.0)
    assert [row.engine for row in rows] == list(ENGINES)
    assert not unfitting(network, ENGINES)


def test_the_float_engines_compute_the_float_peer(network, tmp_path, short):
    settle(network, Host())
    given = case(network, tmp_path)
    images = normalise(given.pixels[1], network.spec.mean, network.spec.std)
    with torch.no_grad():
        expected = freeze(network, 32, activation=False)(images)
    for name in ("cudnn_bf16", "cudnn_fp16"):
        ready = ENGINES[name](given)
        ready.fill(given.pixels[1])
        ready.replay()
        assert difference(ready.logits, expected) < ready.tolerance
        assert ready.form in ("plain", "fused")
    # Sixteen significant bits of bfloat16 fewer than float32's show.
    assert difference(ENGINES["cudnn_bf16"](given).logits, expected) > 0


def test_the_post_activation_peer_is_torchvisions_and_settled_once(
    network, tmp_path, monkeypatch, short
):
    calls = []
    original = cudnn.settle
    monkeypatch.setattr(cudnn, "settle", lambda *a: calls.append(a) or original(*a))
    given = case(network, tmp_path)
    for name in ("cudnn_bf16_post", "cudnn_fp16_post"):
        check(name, ENGINES[name](given), given.pixels[0])
    assert len(calls) == 1
    post = given.kept["post"]
    assert type(post.body).__name__ == "ResNet" and post.resolutions == (48, 32)


def test_the_post_activation_peer_of_an_integer_network_computes_floats(tmp_path, short):
    network = rsquant.create("resnet10", 2, 2, (48, 32), 5, width=8, integer=True).eval()
    given = case(network, tmp_path)
    ENGINES["cudnn_bf16_post"](given)
    spec = given.kept["post"].spec
    assert (spec.wbits, spec.integer, spec.grid) == (32, False, "none")


def test_settling_moves_norms_and_leaves_evaluation_mode(network, short):
    before = {n: b.clone() for n, b in network.named_buffers()}
    assert settle(network, Host()) is network and not network.training
    means = [n for n in before if n.endswith("running_mean")]
    assert means and all(
        not torch.equal(before[n], b) for n, b in network.named_buffers() if n in means
    )


def test_random_pixels_are_seeded_and_differ():
    sets = random_pixels(Host(), 2, 8)
    assert len(sets) == 4 and sets[0].shape == (2, 3, 8, 8) and sets[0].dtype == torch.uint8
    assert torch.equal(sets[0], random_pixels(Host(), 2, 8)[0])
    assert len({int(x.sum()) for x in sets}) == 4
    assert 0 <= int(sets[0].min()) < 30 and 225 < int(sets[0].max()) <= 255


def test_values_are_counted_while_they_live():
    class Network(nn.Module):
        """Eight channels; the first value is read twice, the last but one in place."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(i, 8, 1) for i in (3, 8, 8))
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x):
            x = self.a(x)
            y = self.relu(self.b(x))
            return self.relu(self.c(y) + x).flatten(1)

    traced = fx.symbolic_trace(Network().eval())
    one = 2 * 8 * 5 * 5 * 4
    # The sum is written while both its terms are there; nothing else is.
    assert value_bytes(traced, torch.randn(2, 3, 5, 5)) == 3 * one


def ready(replayed, eager, tolerance):
    logits = torch.zeros(2, 3)
    return CudaRun(
        lambda: logits.copy_(replayed),
        lambda pixels: None,
        logits,
        lambda: eager,
        tolerance,
        0,
        None,
        "",
    )


def test_logits_must_be_finite_and_those_without_a_graph():
    right = torch.tensor([[1.0, -2.0, 4.0], [0.5, 0.0, 1.0]])
    pixels = torch.zeros(1)
    check("it", ready(right, right, 0.0), pixels)
    off = right + torch.tensor([0.0, 0.0, 0.4])
    check("it", ready(right, off, 0.11), pixels)
    with pytest.raises(RsquantError, match=r"it: the graph's logits differ .* by 0\.1 of"):
        check("it", ready(right, off, 0.09), pixels)
    with pytest.raises(RsquantError, match="differ from those without a graph by inf"):
        check("it", ready(right, right * float("nan"), 0.5), pixels)
    with pytest.raises(RsquantError, match="not finite"):
        check("it", ready(right / 0, right, 0.5), pixels)

    class Silent:
        """A graph that writes nothing."""

        logits = torch.zeros(2, 3)

    unwritten = CudaRun(
        lambda: None, lambda pixels: None, Silent.logits, lambda: right, 1.0, 0, None, ""
    )
    with pytest.raises(RsquantError, match="not finite"):
        check("it", unwritten, pixels)


@pytest.mark.usefixtures("undrawn")
def test_engines_fit_the_network():
    def refused(*given):
        return unfitting(rsquant.create(*given, resolutions=(64,), num_classes=2), ENGINES)

    assert refused("resnet18", 2, 2) == {}
    assert list(refused("resnet18", 2, 32)) == ["gpu"]
    assert list(refused("torchvision:resnet18", 2, 2)) == ["cudnn_bf16_post", "cudnn_fp16_post"]


@pytest.mark.parametrize(
    "names,message",
    [
        (("cudnn_bf1",), "'cudnn_bf1' is not an engine here; did you mean 'cudnn_bf16'"),
        (("int8",), "'int8' is timed for single convolutions only"),
        (("gpu",), "'gpu' cannot run this network: why not. Leave it out; .*cudnn_bf16"),
        ((), "engines: none given"),
    ],
)
def test_impossible_engines_are_named(names, message):
    with pytest.raises(ConfigError, match=message):
        check_engines(names, ENGINES, {"gpu": "why not"})


def test_impossible_batches_are_named():
    assert check_batches((8, 1, 8)) == (8, 1)
    for batches in ((), (0,), (4, -1)):
        with pytest.raises(ConfigError, match="batch: must be 1 or more"):
            check_batches(batches)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_small_run_on_a_device():
    from rsquant.bench.cuda.device import open_device

    torch.manual_seed(0)
    network = rsquant.create("resnet18", 2, 2, (64, 48), 5, width=16).eval()
    rows = bench_networks(Subject(network, None, ""), open_device("cuda"), None, (1, 20), None, 1.0)
    assert len(rows) == 2 * 2 * len(ENGINES)
    for row in rows:
        assert row.median_ms > 0 and row.activation_bytes > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_a_real_session_has_what_the_benchmark_reads(network, tmp_path):
    """The fake session of the other tests is a stand-in for this one."""
    rsquant.pack(network, tmp_path / "a.rsq")
    session = packed.open_session(tmp_path / "a.rsq", Host())
    graph = session.graph(32, 2)
    assert graph.images.shape == (2, 3, 32, 32) and graph.images.dtype == torch.uint8
    assert graph.logits.shape == (2, 5) and graph.logits.dtype == torch.float32
    assert graph.activation_bytes > 0 and callable(graph.replay)
    steps = session.program(32).steps
    launched = [launch.step for launch in graph.launches if launch.step is not None]
    assert [step.name for step in launched] == [step.name for step in steps]
    for launch in graph.launches:
        assert callable(launch.run) and launch.bytes > 0
