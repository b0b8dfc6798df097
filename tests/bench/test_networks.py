"""The whole benchmark on a tiny network: every engine, its rows, its files, its errors."""

import numpy as np
import onnx
import pytest
import torch

import rsquant
from rsquant import runs
from rsquant.bench import networks
from rsquant.bench import subject as subjects
from rsquant.bench.engines.base import CpuCase
from rsquant.bench.engines.choice import cpu_engines, unfitting
from rsquant.bench.engines.onnxruntime import float_file, open_session
from rsquant.bench.memory import peak_rss
from rsquant.bench.networks import bench, check_settings
from rsquant.bench.subject import Subject, choose_subject
from rsquant.errors import CheckpointError, ConfigError
from rsquant.nn import SwitchableBatchNorm2d
from rsquant.nn.freeze import freeze
from rsquant.nn.variant import at_variant

ENGINES = cpu_engines()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return rsquant.create("resnet10", 2, 2, (48, 32), 5, width=8).eval()


@pytest.fixture
def case(network, tmp_path):
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return CpuCase(network, 32, 2, tmp_path, images=images)


def test_threads_of_onnxruntime_do_not_spin_while_another_engine_is_timed(case):
    options = open_session(float_file(case), 2).get_session_options()
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"


def test_every_width_is_timed(monkeypatch):
    monkeypatch.setattr(networks, "peak_rss", lambda *_: 1234)
    torch.manual_seed(0)
    given = {"resolutions": (32,), "num_classes": 5, "width": 8}
    whole = rsquant.create("resnet10", widths=(1.0, 0.5), **given).eval()
    others = {one: at_variant(whole, one) for one in whole.variants[1:]}
    subject = Subject(at_variant(whole), None, "", others)
    rows = bench(subject, threads=(1,), engines=["packed"], budget=0.0)
    found = [(row.width, row.wbits, row.abits) for row in rows]
    assert found == [(1.0, 2, 2), (0.5, 2, 2)]
    assert rows[1].file_bytes < rows[0].file_bytes


def test_rows_cover_every_setup_and_hold_plain_numbers(network, monkeypatch):
    monkeypatch.setattr(networks, "peak_rss", lambda *_: 1234)
    threads = torch.get_num_threads()
    steps = []
    rows = bench(
        Subject(network, None, ""),
        threads=(1,),
        budget=0.0,
        step=lambda what, done: steps.append(done),
    )
    assert torch.get_num_threads() == threads
    assert {(r.engine, r.resolution, r.threads) for r in rows} == {
        (name, size, 1) for name in ENGINES for size in (48, 32)
    }
    for row in rows:
        assert (row.arch, row.wbits, row.abits, row.batch) == ("resnet10", 2, 2, 1)
        assert 0 < row.q1_ms <= row.median_ms <= row.q3_ms
        runs_a_file = row.engine != "torch"
        assert (row.file_bytes is not None) == runs_a_file
        assert row.peak_rss_bytes == (1234 if runs_a_file else None)
        if row.engine == "ort_float32":
            assert row.speedup == 1.0
    assert steps == sorted(steps) and steps[-1] == 1.0


def test_the_float_engines_compute_the_float_peer(network, case):
    with torch.no_grad():
        expected = freeze(network, 32, activation=False)(case.inputs()).numpy()
    got = ENGINES["torch"](case).load(1)().numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * abs(expected).max())
    (got,) = ENGINES["ort_float32"](case).load(1)()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * abs(expected).max())


def test_int8_is_int8_per_channel_and_near_the_float_peer(network, case):
    prepared = ENGINES["ort_int8"](case)
    model = onnx.load(prepared.file)
    stored = {t.name: t for t in model.graph.initializer}
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    decoded = {n.output[0]: n for n in model.graph.node if n.op_type == "DequantizeLinear"}
    assert len(convolutions) == 12
    for node in convolutions:
        weight = decoded[node.input[1]]
        assert stored[weight.input[0]].data_type == onnx.TensorProto.INT8
        assert stored[weight.input[1]].dims[0] == stored[weight.input[0]].dims[0]
    (got,) = prepared.load(1)()
    (expected,) = ENGINES["ort_float32"](case).load(1)()
    # Rounding has an rms of 0.29 of a step. The step is 3 sigma / 127 of a channel's weights and
    # some 6 rms / 255 of activations: each is off by 0.7 %, a layer's sums by 1.0 %, and after
    # twenty layers by sqrt(20) times that, 4.4 % of the logits' rms (measured: 1.2 to 2.5 %). The
    # largest of ten such errors is twice as much, and the largest logit 1.6 rms: 5.5 % of it. A
    # tenth leaves room; a wrong layer moves the logits by as much as they are.
    assert np.abs(got - expected).max() < 0.1 * np.abs(expected).max()


def test_the_exported_engines_store_codes_and_differ_in_arithmetic(case):
    for name, kind in (("ort_codebook", "Where"), ("ort_codes_int8", "QuantizeLinear")):
        prepared = ENGINES[name](case)
        proto = onnx.load(prepared.file)
        assert any(t.data_type == onnx.TensorProto.UINT2 for t in proto.graph.initializer)
        assert any(node.op_type == kind for node in proto.graph.node)
        (logits,) = prepared.load(1)()
        assert logits.shape == (2, 5)


def test_engines_of_a_segmentation_network_give_its_maps(vary, tmp_path):
    torch.manual_seed(0)
    given = {"num_classes": 5, "width": 4, "task": "segmentation"}
    network = vary(rsquant.create("refinenet_lw_bn_resnet10", 2, 2, (32,), **given))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    case = CpuCase(network, 32, 2, tmp_path, images=images)
    with torch.no_grad():
        low_bit = network(case.inputs()).numpy()
        plain = freeze(network, 32, activation=False)(case.inputs()).numpy()
    assert low_bit.shape == plain.shape == (2, 5, 8, 8)
    for engine, expected in (("ort_codebook", low_bit), ("ort_float32", plain)):
        (got,) = ENGINES[engine](case).load(1)()
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2.5e-5 * abs(expected).max())
    assert ENGINES["packed"](case).load(1)().shape == low_bit.shape


def test_every_engine_that_runs_a_file_keeps_its_own_beside_the_others(case):
    files = {name: ENGINES[name](case).file for name in ENGINES}
    assert files.pop("torch") is None
    # The packed file is made for every use of it; the rest differ in what they hold.
    assert files["packed"] == files.pop("packed_low")
    assert len(set(files.values())) == len(files) == 5
    kinds = {
        name: {t.data_type for t in onnx.load(files[name]).graph.initializer}
        for name in files
        if name.startswith("ort")
    }
    codes, integers = onnx.TensorProto.UINT2, onnx.TensorProto.INT8
    assert {name for name in kinds if codes in kinds[name]} == {"ort_codebook", "ort_codes_int8"}
    assert {name for name in kinds if integers in kinds[name]} == {"ort_int8", "ort_codes_int8"}


def test_a_batch_larger_than_the_images_repeats_them(network, tmp_path):
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 8, 8)
    inputs = CpuCase(network, 8, 7, tmp_path, images=images).inputs()
    assert inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_peak_memory_is_that_of_a_process_of_its_own(case):
    # This process holds far more than onnxruntime and a small file need.
    ballast = np.ones(60_000_000)
    peak = peak_rss(float_file(case), 32, 1, 1)
    assert peak is None or 10e6 < peak < ballast.nbytes
    assert peak_rss(case.folder / "missing.onnx", 32, 1, 1) is None


def test_without_a_run_a_fresh_resnet18_is_timed_and_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Its own test is below; at 224 pixels it takes seconds.
    monkeypatch.setattr(subjects, "like_trained", lambda network: None)
    subject = choose_subject(width=8)
    assert subject.what == "a freshly initialised resnet18 2/2 (as asked)"
    assert subject.network.resolutions == (224, 192, 160, 128, 96)
    create = rsquant.create
    monkeypatch.setattr(subjects, "create", lambda *a, **k: create(*a[:4], num_classes=5, width=8))
    subject = choose_subject()
    assert subject.what == "a freshly initialised resnet18 2/2 (no run here)"
    assert subject.checkpoint is None and not subject.network.training


@pytest.mark.parametrize("abits", [2, 32])
def test_a_fresh_network_is_timed_with_settings_that_differ_as_after_training(abits):
    """Published sizes are of such networks: equal BatchNorms would be stored once."""
    network = rsquant.create("resnet18", 2, abits, (64, 48, 32), num_classes=3, width=8)
    subjects.like_trained(network)
    assert not network.training
    for name, module in network.named_modules():
        if isinstance(module, SwitchableBatchNorm2d):
            assert module.momentum == 0.1
            for table in (module.weight, module.bias, module.running_mean, module.running_var):
                assert torch.isfinite(table).all(), name
                differing = (table[0] != table[1]) & (table[1] != table[2])
                assert differing.float().mean() > 0.9, name
    with torch.no_grad():
        assert torch.isfinite(network(torch.randn(1, 3, 48, 48))).all()


def test_the_newest_run_is_taken(network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = runs.RUNS / "mine"
    folder.mkdir(parents=True)
    (folder / runs.CONFIG).write_text("")
    rsquant.save(network, folder / runs.BEST)
    subject = choose_subject()
    assert subject.checkpoint.run == folder and "runs/mine" in subject.what
    with pytest.raises(ConfigError, match="leave out `arch`, `width`, or leave out the run"):
        choose_subject("mine", arch="resnet18", width=8)
    with pytest.raises(CheckpointError, match="no such run folder"):
        choose_subject("other")


def test_an_engine_that_cannot_run_the_network_is_refused(tmp_path):
    network = rsquant.create("resnet10", 2, 2, (32,), 5, width=8, integer=True).eval()
    with pytest.raises(
        ConfigError, match=r"'ort_codebook' cannot run this network: it is an integer.*ort_int8"
    ):
        bench(Subject(network, None, ""), engines=["ort_codebook"], threads=(1,), budget=0.0)


@pytest.mark.usefixtures("undrawn")
def test_engines_fit_the_network():
    def left_out(wbits, abits, **more):
        return set(unfitting(rsquant.create("resnet18", wbits, abits, (64,), 2, **more), ENGINES))

    assert left_out(2, 2) == set()
    assert left_out(2, 2, integer=True) == {"ort_codebook"}
    assert left_out(2, 32) == {"packed", "packed_low"}
    assert left_out(32, 32) == {"packed", "packed_low", "ort_codebook", "ort_codes_int8"}


@pytest.mark.parametrize(
    "engines,threads,batch,message",
    [
        (["ort_float"], [1], 1, "'ort_float' is not an engine here; did you mean 'ort_float32'"),
        (["torch"], [0], 1, "threads: must be 1 to"),
        (["torch"], [10_000], 1, "threads: must be 1 to"),
        (["torch"], [1], 0, "batch: must be 1 or more"),
    ],
)
def test_impossible_settings_are_named(engines, threads, batch, message):
    with pytest.raises(ConfigError, match=message):
        check_settings(engines, threads, batch)
