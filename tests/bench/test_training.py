"""The training step: its peer without quantizers, its rows."""

import brevitas.nn
import pytest
import torch
import toy_segmentation

import rsquant
from rsquant.bench.brevitas_network import on_brevitas
from rsquant.bench.cuda.device import Host
from rsquant.bench.memory import added_by
from rsquant.bench.subject import Subject
from rsquant.bench.training import (
    FLOAT,
    PEERS,
    _Training,
    bench_training,
    with_quantizer,
    without_quantizers,
)
from rsquant.data.transforms import normalise
from rsquant.nn.freeze import freeze
from rsquant.nn.quantized import QUANTIZED_LAYERS
from rsquant.quantizers import Quantizer
from rsquant.quantizers.lq import LQActivationQuantizer, LQWeightQuantizer


@pytest.fixture
def network():
    torch.manual_seed(0)
    return rsquant.create("resnet10", 2, 2, (48, 32), 5, width=8).eval()


def test_the_peer_is_the_same_network_without_quantizers(network, vary):
    vary(network)
    twin = without_quantizers(network)
    assert sum(isinstance(m, LQActivationQuantizer) for m in network.modules()) > 0
    for module in twin.modules():
        assert not isinstance(module, (LQActivationQuantizer, LQWeightQuantizer))
    assert dict(twin.named_parameters()).keys() == dict(network.named_parameters()).keys()
    x = torch.randn(2, 3, 32, 32)
    # The float peer of the benchmark has quantized weights; give both those.
    with torch.no_grad():
        pairs = zip(network.modules(), without_quantizers(network).modules(), strict=False)
        assert any(isinstance(m, QUANTIZED_LAYERS) for m, _ in pairs)
        held = {
            name: layer.quantized_weight().clone()
            for name, layer in network.named_modules()
            if isinstance(layer, QUANTIZED_LAYERS)
        }
        for name, weight in held.items():
            twin.get_submodule(name).weight.copy_(weight)
        expected = freeze(network, 32, activation=False)(x)
        torch.testing.assert_close(twin(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("amp", [False, True])
def test_rows_hold_the_ratio_of_the_medians(network, amp):
    steps = []
    rows = bench_training(
        Subject(network, None, ""), Host(), 4, amp, 0.0, lambda what, done: steps.append(done)
    )
    assert steps == sorted(steps) and steps[-1] == 1.0
    low, peer = rows
    assert (low.engine, low.wbits, low.abits) == ("train_w2a2", 2, 2)
    assert (peer.engine, peer.wbits, peer.abits) == (FLOAT, 32, 32)
    for row in rows:
        assert (row.batch, row.resolutions, row.amp) == (4, (48, 32), amp)
        assert 0 < row.q1_ms <= row.median_ms <= row.q3_ms
    assert peer.ratio == 1.0
    assert low.ratio == pytest.approx(low.median_ms / peer.median_ms, rel=1e-3)


def test_labels_are_those_of_the_task(monkeypatch, network):
    toy_segmentation.registered(monkeypatch)
    segmented = toy_segmentation.network(sizes=(16, 12))
    images = [[torch.randn(2, 3, s, s) for s in (16, 12)]]
    training = _Training(segmented, Host(), images, amp=False)
    # A class for each pixel of the largest output, half as high and wide as its image.
    assert training.labels.shape == (2, 8, 8)
    assert training.labels.unique().tolist() == [0, 1, 2]
    training.step()
    rows = bench_training(Subject(segmented, None, ""), Host(), 2, False, 0.0)
    assert [row.arch for row in rows] == [segmented.spec.arch] * 2
    whole = _Training(
        network, Host(), [[torch.randn(4, 3, 48, 48), torch.randn(4, 3, 32, 32)]], False
    )
    assert whole.labels.shape == (4,) and int(whole.labels.max()) < 5


def test_peers_have_their_quantizers_at_the_same_places_and_bits(network):
    for name in ("lsq", "uniform"):
        twin = with_quantizer(network, name)
        for one, two in zip(network.modules(), twin.modules(), strict=True):
            assert isinstance(one, Quantizer) == isinstance(two, Quantizer)
            if isinstance(one, Quantizer):
                assert (two.kind, two.bits) == (name, one.bits)
    twin = on_brevitas(network).train()
    layers = [m for m in twin.modules() if isinstance(m, brevitas.nn.QuantConv2d)]
    places = [m for m in network.modules() if isinstance(m, LQActivationQuantizer)]
    assert len(layers) == sum(isinstance(m, QUANTIZED_LAYERS) for m in network.modules())
    assert sum(isinstance(m, brevitas.nn.QuantReLU) for m in twin.modules()) + sum(
        isinstance(m, brevitas.nn.QuantIdentity) for m in twin.modules()
    ) == len(places)
    for layer in layers:
        # A narrow range of two bits: three levels.
        weight = layer.quant_weight().value
        assert weight.unique().numel() <= 3 * len(weight)
    seen = []
    hooked = layers[1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    twin.forward_all([torch.randn(2, 3, s, s) for s in (48, 32)])
    hooked.remove()
    assert all(x.detach().unique().numel() <= 4 for x in seen)


def test_rows_of_peers_and_of_memory(network):
    rows = bench_training(Subject(network, None, ""), Host(), 2, budget=0.0, peers=PEERS)
    names = ["train_w2a2", FLOAT, *(f"train_{peer}" for peer in PEERS)]
    assert [row.engine for row in rows] == names
    for row in rows:
        assert row.threads == torch.get_num_threads() and row.fastest_ms <= row.median_ms
        assert row.peak_bytes is None or row.peak_bytes >= 0


def test_memory_of_a_call_is_what_it_adds_at_most():
    held = []

    def call():
        held.append(torch.zeros(2**24))
        held.clear()
        held.append(torch.zeros(2**20))

    added = added_by(call)
    # A little of it may be memory that was freed before.
    assert added is None or 0.9 * 2**26 < added < 2**26 + 2**25


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_small_run_on_a_device(network):
    from rsquant.bench.cuda.device import open_device

    rows = bench_training(Subject(network, None, ""), open_device("cuda"), 8, True, 1.0)
    assert all(row.median_ms > 0 for row in rows)


def test_a_step_moves_weights_and_bases_and_uses_other_images_in_turn(network):
    images = [
        [normalise(torch.randint(0, 256, (4, 3, s, s), dtype=torch.uint8)) for s in (48, 32)]
        for _ in range(2)
    ]
    training = _Training(network, Host(), images, amp=False)
    weights = [p.detach().clone() for p in network.parameters()]
    basis = next(m for m in network.modules() if isinstance(m, LQActivationQuantizer)).basis.clone()
    training.use(3)
    assert training.chosen is images[1]
    training.step()
    assert network.training
    assert any(not torch.equal(a, b) for a, b in zip(weights, network.parameters(), strict=True))
    moved = next(m for m in network.modules() if isinstance(m, LQActivationQuantizer)).basis
    assert not torch.equal(basis, moved)
