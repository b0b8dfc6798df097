"""The quantizers' fused form against the plain one, natively or in Triton's interpreter."""

import subprocess
import sys

import pytest
import torch

from rsquant import kernels
from rsquant.models import factory
from rsquant.nn import QuantConv2d
from rsquant.quantizers import fused
from rsquant.quantizers.lq import LQActivationQuantizer, LQWeightQuantizer

# Sums differ by at most 8 * 2**-24 of the absolute values (kernels/gpu/quantize.py); the inverse
# of B'B per value, below 20 for normal values and 4 bits, magnifies that to 1e-5; a tenth of it
# moves, but steps add up.
BASIS = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture
def forced(monkeypatch, gpu):
    """forced(True): all values go through the kernels, wherever they run; False: none do."""

    def force(on):
        monkeypatch.setattr(fused, "suits", lambda x, basis: on)

    return force


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run(make, inputs, force, gpu, on):
    """Outputs, gradients and the final basis of a quantizer over several training steps."""
    force(on)
    quantizer = make().to(gpu)
    outputs, gradients = [], []
    for seed, x in enumerate(inputs):
        x = x.to(gpu).requires_grad_()
        out = quantizer(x)
        out.backward(random(*x.shape, seed=seed).to(gpu, out.dtype))
        outputs.append(out.detach())
        gradients.append(x.grad)
    return outputs, gradients, quantizer.basis


def assert_same_training(make, inputs, force, gpu):
    plain = run(make, inputs, force, gpu, False)
    ours = run(make, inputs, force, gpu, True)
    torch.testing.assert_close(ours[2], plain[2], **BASIS)
    for got, expected in zip(ours[0], plain[0], strict=True):
        torch.testing.assert_close(got, expected, **BASIS)
    for got, expected in zip(ours[1], plain[1], strict=True):
        # A value between the two top levels, 1e-6 apart, may fall on either side.
        assert (got != expected).float().mean() < 1e-3
    return ours, plain


@pytest.mark.parametrize(
    ("bits", "grid"), [(1, None), (1, 15), (2, None), (2, 15), (3, None), (4, 15), (4, 127)]
)
def test_activations_train_as_in_the_plain_form(forced, gpu, bits, grid):
    inputs = [random(2, 5, 11, 13, seed=seed).relu() for seed in range(3)]
    inputs[1] = inputs[1].contiguous(memory_format=torch.channels_last)
    inputs[2] = inputs[2].transpose(1, 2)
    ours, plain = assert_same_training(
        lambda: LQActivationQuantizer(bits, grid=grid), inputs, forced, gpu
    )
    assert not torch.equal(ours[2].cpu(), LQActivationQuantizer(bits).basis)
    # The first step starts from the same basis: the same levels up to their additions.
    torch.testing.assert_close(ours[0][0], plain[0][0], rtol=3 * 2**-23, atol=1e-7)


def test_signed_activations_train_as_in_the_plain_form(forced, gpu):
    inputs = [random(1000, seed=seed) for seed in range(3)]
    assert_same_training(lambda: LQActivationQuantizer(3, signed=True), inputs, forced, gpu)


@pytest.mark.parametrize(
    ("bits", "grid"), [(1, None), (1, 14), (2, None), (2, 14), (3, None), (4, 15), (4, 127)]
)
def test_weights_train_as_in_the_plain_form(forced, gpu, bits, grid):
    inputs = [random(3, 9, 3, 3, seed=seed) * 0.2 for seed in range(3)]
    inputs[1] = inputs[1].contiguous(memory_format=torch.channels_last)
    inputs[2] = inputs[2].transpose(2, 3)
    ours, _ = assert_same_training(
        lambda: LQWeightQuantizer(3, bits, 27, grid=grid), inputs, forced, gpu
    )
    assert ours[0][1].is_contiguous(memory_format=torch.channels_last)


def test_the_weight_gradient_is_straight_through(forced, gpu):
    forced(True)
    weight = random(4, 8).to(gpu).requires_grad_()
    upstream = random(4, 8, seed=1).to(gpu)
    LQWeightQuantizer(4, 2, 4).to(gpu)(weight).backward(upstream)
    assert torch.equal(weight.grad, upstream)


def test_the_activation_gradient_stops_above_the_top_level(forced, gpu):
    forced(True)
    quantizer = LQActivationQuantizer(2).to(gpu)
    top = quantizer.levels()[-1]
    x = torch.stack([top, torch.nextafter(top, top + 1), top * 3, top * 0.5, -top, top * 0])
    x.requires_grad_()
    quantizer(x).backward(torch.arange(1.0, 7.0, device=gpu))
    assert x.grad.tolist() == [1.0, 0.0, 0.0, 4.0, 5.0, 6.0]


def test_a_gradient_in_another_order_of_memory_is_put_in_order(forced, gpu):
    forced(True)
    quantizer = LQActivationQuantizer(2).to(gpu)
    top = quantizer.levels()[-1]
    x = (random(2, 4, 5, 6) * 2).contiguous(memory_format=torch.channels_last).to(gpu)
    x.requires_grad_()
    for upstream in (
        random(2, 4, 5, 6, seed=3).to(gpu),
        torch.ones((), device=gpu).expand(x.shape),
    ):
        x.grad = None
        quantizer.eval()(x).backward(upstream)
        assert torch.equal(x.grad, torch.where(x <= top, upstream, 0.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_values_stay_16_bit_and_move_the_basis_alike(forced, gpu, dtype):
    x = random(3000).relu().to(dtype)
    forced(True)
    ours, plain = (LQActivationQuantizer(2).to(gpu) for _ in range(2))
    moved = x.to(gpu).requires_grad_()
    out = ours(moved)
    assert out.dtype == dtype
    out.backward(torch.ones_like(out))
    assert moved.grad.dtype == dtype
    forced(False)
    expected = plain(x.to(gpu))
    torch.testing.assert_close(ours.basis, plain.basis, **BASIS)
    # One rounding to 8 (bfloat16) or 11 bits; the interpreter cuts off instead.
    assert expected.dtype == dtype
    torch.testing.assert_close(
        out.float(), expected.float(), rtol=2 * torch.finfo(dtype).eps, atol=0
    )


def test_other_types_come_back_with_levels_in_float32(forced, gpu):
    forced(True)
    x = random(100).double().to(gpu)
    for quantizer, values in (
        (LQActivationQuantizer(2).to(gpu).eval(), x),
        (LQWeightQuantizer(4, 2, 9).to(gpu).eval(), x.view(4, 25)),
    ):
        assert torch.equal(quantizer(values), quantizer(values.float()).double())


def test_nothing_moves_in_evaluation_or_when_updating_is_off(forced, gpu):
    forced(True)
    activations, weights = LQActivationQuantizer(2).to(gpu), LQWeightQuantizer(4, 2, 9).to(gpu)
    before = activations.basis.clone(), weights.basis.clone()
    activations.updating = False
    activations(random(70).to(gpu))
    activations.updating = True
    activations.eval()(random(70).to(gpu))
    weights.eval()(random(4, 9).to(gpu))
    assert torch.equal(activations.basis, before[0])
    assert torch.equal(weights.basis, before[1])


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(64),
        torch.full((64,), 1e9),
        torch.full((64,), float("nan")),
        torch.empty(0),
        torch.full((8,), 0.01),
    ],
    ids=["zero", "huge", "nan", "empty", "tiny"],
)
def test_hostile_activations_never_break_the_basis(forced, gpu, x):
    forced(True)
    quantizer = LQActivationQuantizer(2).to(gpu)
    for _ in range(10):
        quantizer(x.to(gpu))
    assert torch.isfinite(quantizer.basis).all()


def test_an_output_nobody_uses_has_no_gradient(forced, gpu):
    forced(True)
    x = random(70).to(gpu).requires_grad_()
    (LQActivationQuantizer(2).to(gpu)(x).detach().sum() + x.sum()).backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_a_layer_learns_as_in_the_plain_form(forced, gpu):
    losses = []
    for on in (False, True):
        forced(on)
        torch.manual_seed(0)
        layer = QuantConv2d(4, 6, 3, padding=1, wbits=2, abits=2, grid="coarse").to(gpu)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        x, target = random(2, 4, 7, 9).relu().to(gpu), random(2, 6, 7, 9, seed=1).to(gpu)
        history = []
        for _ in range(3):
            loss = (layer(x) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        losses.append(history)
    assert losses[0][2] < losses[0][0]
    # Levels agree to 1e-5, products of weights and inputs to twice that.
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
def test_a_network_takes_a_step_as_in_the_plain_form(forced, gpu):
    bases = []
    for on in (False, True):
        forced(on)
        torch.manual_seed(0)
        network = factory.create("resnet18", 2, 2, (32,), 3, width=4).to(gpu)
        logits = network.train().forward_all([random(2, 3, 32, 32).to(gpu)])
        logits[0].square().sum().backward()
        bases.append({k: v for k, v in network.state_dict().items() if k.endswith("basis")})
        assert all(p.grad is not None for p in network.parameters())
    assert len(bases[0]) > 30
    for name, expected in bases[0].items():
        # Deeper layers see values that fell on the other side of a threshold.
        torch.testing.assert_close(bases[1][name], expected, rtol=1e-3, atol=1e-4)


def test_the_kernels_are_taken_for_cuda_tensors_alone(monkeypatch):
    basis = torch.tensor([0.4, 0.9])
    assert not fused.suits(torch.ones(3), basis)
    monkeypatch.setattr(fused, "_runs_on", lambda device: True)
    assert fused.suits(torch.ones(3), basis)
    assert not fused.suits(torch.ones(3), basis.double())
    assert not fused.suits(torch.ones(3), basis.to("meta"))


@pytest.mark.parametrize(
    "make", [lambda: LQActivationQuantizer(2), lambda: LQWeightQuantizer(3, 2, 9)]
)
def test_torch_compile_traces_the_plain_form(make, monkeypatch):
    monkeypatch.setattr(kernels, "has_native", lambda: False)
    eager, compiled = make(), make()
    expected = eager(random(3, 70))
    # On a GPU the kernels would run: not in what is traced.
    monkeypatch.setattr(fused, "_runs_on", lambda device: True)
    traced = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    x = random(3, 70).requires_grad_()
    got = traced(x)
    got.sum().backward()
    assert torch.equal(got, expected)
    assert torch.equal(compiled.basis, eager.basis)
    assert x.grad is not None


def test_without_a_gpu_triton_is_not_imported():
    code = """
import sys, torch
from rsquant.quantizers.lq import LQActivationQuantizer, LQWeightQuantizer
LQActivationQuantizer(2)(torch.randn(100))
LQWeightQuantizer(4, 2, 9)(torch.randn(4, 9))
print("triton" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_and_a_captured_graph_train_as_eager_does(gpu, dtype):
    if gpu.type != "cuda":
        pytest.skip("no CUDA device")
    layer = QuantConv2d(64, 64, 3, padding=1, wbits=2, abits=2).to(gpu)
    x = random(8, 64, 28, 28).relu().to(gpu, memory_format=torch.channels_last)
    start = {name: value.clone() for name, value in layer.state_dict().items()}

    def step():
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            return layer(x.to(dtype) if dtype != torch.float32 else x)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side), torch.no_grad():
        step()
        layer.load_state_dict(start)
        eager = [step() for _ in range(3)][-1].clone()
        bases = {k: v.clone() for k, v in layer.state_dict().items() if k.endswith("basis")}
        layer.load_state_dict(start)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        captured = step()
    layer.load_state_dict(start)
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    # The same kernels in the same order: the same bits but for what cuDNN picks.
    for name, expected in bases.items():
        assert torch.equal(layer.state_dict()[name], expected)
    torch.testing.assert_close(captured, eager)
