"""Layers of an integer network: what they round in training, and what their gradients are."""

import dataclasses
import math

import pytest
import torch
from shallow import RESNET10

import rsquant
from rsquant.data.transforms import normalise
from rsquant.nn.active import ActiveSetting
from rsquant.nn.integer.byte_scale import MOMENTUM, Bytes, ByteScale
from rsquant.nn.integer.endings import IntegerLinear
from rsquant.nn.integer.exact import codes_of, level_weights, step_of, sums, worth
from rsquant.nn.integer.layers import IntegerConv, IntegerImageConv, IntegerModule, WindowAverage
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.settings import Blend, of_sizes

SIZES = (64, 32)


def network():
    torch.manual_seed(0)
    return rsquant.create(RESNET10, 2, 2, SIZES, 5, width=4, integer=True)


def pixels(size, count=2):
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def scale():
    return ByteScale(ActiveSetting(of_sizes(SIZES)))


def test_bytes_are_integers_times_the_step_within_a_byte():
    x = torch.linspace(-20, 20, 1001)
    for unsigned, low, high in ((True, 0, 255), (False, -128, 127)):
        out = Bytes(scale(), unsigned).eval()
        step = float(out.scale.step[0])
        codes = out(x) / step
        assert torch.equal(codes.round(), (x / step).round().clamp(low, high))
        assert torch.allclose(codes, codes.round(), 0, 1e-4)
        assert out.zero == -low


def test_a_relu6_limits_bytes_to_the_code_of_6():
    out = Bytes(scale(), unsigned=True, clip=6.0).eval()
    step = float(out.scale.step[0])
    assert float(out(torch.tensor([100.0]))) == pytest.approx(step * round(6 / step))


def test_gradients_of_bytes_are_1_within_their_range():
    x = torch.tensor([-9.0, -7.9, 0.0, 7.9, 9.0], requires_grad=True)
    Bytes(scale(), unsigned=False).eval()(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_maps_that_share_a_scale_fit_the_largest_of_them():
    shared = scale()
    signed, unsigned = Bytes(shared, unsigned=False), Bytes(shared, unsigned=True)
    shared.peak.copy_(torch.tensor([[1.0, 2.0], [3.0, 3.0]]))
    shared.refresh()
    assert shared.step.tolist() == pytest.approx([max(1 / 127, 3 / 255), 2 / 127])
    assert signed.scale is unsigned.scale
    assert [name for name, _ in unsigned.named_buffers()] == []  # the first has it in its state


def test_the_step_moves_between_forwards_and_follows_what_is_seen():
    shared = scale()
    first, second = Bytes(shared, unsigned=False).train(), Bytes(shared, unsigned=False).train()
    before = float(shared.step[0])
    large = torch.full((4,), 80.0)
    first(large)
    second(large)
    assert float(shared.step[0]) == before  # one forward, one step
    first(large)
    seen = MOMENTUM * 8 + (1 - MOMENTUM) * 80
    assert float(shared.step[0]) == pytest.approx(seen / 127)
    assert float(shared.step[1]) == before  # of the other setting


def test_steps_blend_as_batchnorms_do():
    shared = scale()
    Bytes(shared, unsigned=True)
    shared.peak.copy_(torch.tensor([[255.0, 510.0]]))
    shared.refresh()
    assert shared.at(shared.active.blend(48)) == 1.5


def test_calibration_starts_the_scales_and_moves_nothing_else_of_a_network():
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = rsquant.calibrate(model, normalise(pixels(64, 8)))
    moved = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert {name.rpartition(".")[2] for name in moved} == {"step", "peak", "basis"}
    assert len(result.bytes) == sum(isinstance(m, Bytes) for m in model.modules())
    # 8 bits: an error of 1/255 of the largest value at most, far below a thousandth in power.
    assert max(after for _, after in result.bytes.values()) < 1e-3
    assert "bases and scales" in str(result)


def test_pixels_are_recovered_from_any_normalised_image():
    model = network()
    model.spec = dataclasses.replace(model.spec, mean=(0.1, 0.5, 0.7), std=(0.3, 0.2, 0.25))
    conv = next(m for m in model.modules() if isinstance(m, IntegerImageConv))
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    found = conv.pixels(normalise(every, model.spec.mean, model.spec.std))
    assert conv.zero == round(255 * 1.3 / 3)
    assert torch.equal(found + conv.zero, every.float())


def test_weights_that_read_bytes_are_at_most_64():
    model = network()
    for module in model.modules():
        if isinstance(module, (IntegerImageConv, IntegerLinear)):
            *_, integers, weight_scale = module.byte_weights()
            assert torch.equal(integers, integers.round())
            assert integers.flatten(1).abs().amax(1).eq(64).all()
            assert weight_scale.shape == integers.shape[:1]


def test_the_training_form_differs_from_evaluation_by_roundings_of_a_and_b():
    """B is an integer: what comes before rounding moves by half of what one unit of n is worth. The
    multiplier of a code is rounded to 2^-15."""
    model = network()
    rsquant.calibrate(model, normalise(pixels(64, 8)))
    model.eval()
    seen = {}

    def note(module, args, result):
        seen[module] = args[0], result

    modules = [m for m in model.modules() if isinstance(m, IntegerModule)]
    handles = [m.register_forward_hook(note) for m in modules]
    with torch.no_grad():
        model(normalise(pixels(64)))
        for handle in handles:
            handle.remove()
        for module in modules:
            x, exact = seen[module]
            moved = 0.0
            if isinstance(module, IntegerConv):
                weights, scale = level_weights(module.layer)
                step = step_of(module.source, Blend.of_row(0))
                slope = worth(scale, step, None, module.norm, Blend.of_row(0))[0]
                moved = 0.51 * torch.from_numpy(slope).abs().float().view(-1, 1, 1)
                if isinstance(module.out, Bytes):  # a is off by up to 2^-15
                    n = sums(module.layer, codes_of(x, module.source, Blend.of_row(0)), weights)
                    moved = moved + n.abs() * step_of(module.out, Blend.of_row(0)) / 2**15
            real = {}
            if hasattr(module, "out"):
                handle = module.out.register_forward_pre_hook(
                    lambda m, args, real=real: real.update(value=args[0])
                )
                trained = module.trained(x)
                handle.remove()
                value = real["value"]
                low, high = module.out(value - moved - 1e-5), module.out(value + moved + 1e-5)
                assert (low <= exact + 1e-6).all()
                assert (exact <= high + 1e-6).all()
            else:
                trained = module.trained(x)
                assert torch.allclose(trained, exact, 1e-5, 1e-5)


def test_evaluation_gives_the_same_values_with_gradients():
    model = network().eval()
    images = normalise(pixels(64))
    with torch.no_grad():
        expected = model(images)
    logits = model(images)
    assert torch.equal(logits, expected)
    logits.square().sum().backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert not missing
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_every_parameter_learns_and_frozen_statistics_stay():
    model = network().train()
    rsquant.calibrate(model, normalise(pixels(64, 8)))
    norms = [m for m in model.modules() if isinstance(m, SwitchableBatchNorm2d)]
    norms[3].eval()
    before = norms[3].running_mean.clone()
    outputs = model.forward_all([normalise(pixels(size)) for size in SIZES])
    sum(output.square().sum() for output in outputs).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert torch.equal(norms[3].running_mean, before)
    assert all(norm.running_mean.abs().sum() > 0 for norm in norms if norm is not norms[3])


def test_a_cast_network_trains_and_its_scales_stay_float32():
    model = network().to(torch.bfloat16).train()
    images = [normalise(pixels(size)).bfloat16() for size in SIZES]
    outputs = model.forward_all(images)
    sum(output.sum() for output in outputs).backward()
    assert outputs[0].dtype == torch.bfloat16
    assert {m.step.dtype for m in model.modules() if isinstance(m, ByteScale)} == {torch.float32}


def test_evaluation_is_exact_under_autocast():
    model = network().eval()
    images = normalise(pixels(64))
    with torch.no_grad():
        expected = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model(images), expected)


def test_window_averages_count_their_pixels():
    pool = WindowAverage(2, 2)
    codes = torch.arange(16.0).view(1, 1, 4, 4)
    total, count = pool.sums(codes)
    assert torch.equal(total / count, pool(codes))
    assert math.prod((2, 2)) == count
