"""A step in parts, in 16 bits, and with blocks that run again."""

import dataclasses

import pytest
import torch
from torch import nn

import rsquant
from rsquant.config import TrainConfig
from rsquant.errors import ModelError
from rsquant.nn.recompute import blocks
from rsquant.train.precision import MixedPrecision
from rsquant.train.readings import Readings
from rsquant.train.step import Step

CPU = torch.device("cpu")
CONFIG = TrainConfig(lr=0.1, weight_decay=0.0)


def network(resolutions=(32,), **kwargs):
    torch.manual_seed(0)
    given = {"wbits": 2, "abits": 2, "num_classes": 5, "width": 8} | kwargs
    return rsquant.create("resnet10", resolutions=resolutions, **given).train()


def stepper(net, **changes):
    alpha = torch.ones(len(net.settings), requires_grad=True)
    optimizer = torch.optim.SGD([*net.parameters(), alpha], lr=0.1)
    return Step(net, alpha, optimizer, dataclasses.replace(CONFIG, **changes), CPU)


def batch(net, images=6):
    generator = torch.Generator().manual_seed(1)
    pixels = [
        torch.randint(0, 256, (images, 3, s, s), dtype=torch.uint8, generator=generator)
        for s in net.resolutions
    ]
    return pixels, torch.randint(0, 5, (images,), generator=generator)


def after(steps=2, resolutions=(32,), images=6, frozen=False, **changes):
    """The network's state after some steps, and the last figures."""
    net = network(resolutions)
    if frozen:  # a BatchNorm of a part is not that of the batch
        for module in net.modules():
            if "BatchNorm" in type(module).__name__:
                module.eval()
    step = stepper(net, **changes)
    for _ in range(steps):
        figures = step(*batch(net, images), 0.01)
    return net.state_dict(), {name: float(value) for name, value in figures.items()}


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_parts_of_a_batch_give_the_weights_and_bases_of_the_whole_batch(parts):
    whole, figures = after(frozen=True, images=9)
    in_parts, their_figures = after(frozen=True, images=9, accumulate=parts)
    # Sums of gradients in another order, in float32: some 1e-7 of them, over two steps.
    for name, value in whole.items():
        torch.testing.assert_close(in_parts[name], value, rtol=1e-4, atol=2e-6, msg=name)
    assert their_figures == pytest.approx(figures, rel=1e-4, abs=1e-6)


def test_bases_move_once_per_step_and_setting_however_many_parts():
    start = network((40, 32)).state_dict()
    state, _ = after(1, (40, 32), accumulate=3)
    moved = [name for name in state if name.endswith("basis")]
    assert moved and all(not torch.equal(state[name], start[name]) for name in moved)
    # Weights' bases do not depend on the images at all.
    whole, _ = after(1, (40, 32))
    weights = [name for name in moved if "weight_quantizer" in name]
    assert weights
    for name in weights:
        torch.testing.assert_close(state[name], whole[name], rtol=0, atol=0)


def test_too_few_images_for_the_parts_make_fewer():
    assert after(1, images=3, accumulate=3)[1] == after(1, images=3)[1]


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}])
def test_blocks_that_run_again_give_the_same_bits(changes):
    kept, figures = after(2, (40, 32), **changes)
    again, their_figures = after(2, (40, 32), recompute=True, **changes)
    assert their_figures == figures
    for name, value in kept.items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0, msg=name)


def test_blocks_run_again_in_backward_and_are_left_as_they_were():
    net = network()
    runs = []
    block = net.body.layer2[0]
    block.conv1.register_forward_hook(lambda *_: runs.append(1))
    stepper(net, recompute=True)(*batch(net), 0.01)
    assert len(runs) == 2
    assert "forward" not in vars(block)
    # One basic block per stage.
    assert len(blocks(net.body)) == 4


def test_a_network_without_blocks_is_refused():
    with pytest.raises(ModelError, match="recompute: Linear has no blocks"):
        blocks(nn.Linear(2, 2))


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_sixteen_bits_train_a_network_near_float32(amp):
    _, exact = after(1)
    state, figures = after(1, amp=amp)
    assert all(t.dtype == torch.float32 for t in state.values() if t.is_floating_point())
    assert figures["loss"] == pytest.approx(exact["loss"], rel=0.1)


def test_an_overflow_leaves_the_step_out_and_halves_the_scale_which_the_state_keeps():
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    precision = MixedPrecision("fp16", CPU)
    precision.backward((weight * float("inf")).sum())
    precision.update(optimizer)
    assert weight.item() == 1.0
    tensors = precision.tensors()
    assert tensors["scale"].item() == 2.0**15
    optimizer.zero_grad()
    precision.backward(weight.sum())
    precision.update(optimizer)
    assert weight.item() == 0.0
    other = MixedPrecision("fp16", CPU)
    other.load(precision.tensors())
    assert other.tensors() == {"scale": torch.tensor(2.0**15), "good_steps": torch.tensor(1.0)}
    assert not MixedPrecision("bf16", CPU).scales and not MixedPrecision("none", CPU).scales


def test_figures_are_read_in_order_and_once_after_some_steps():
    readings = Readings(torch.device("cuda"))  # names a device; nothing is on it
    for step in range(15):
        readings.add(step, 4, {"loss": torch.tensor(0.1 * step), "other": 2.0})
        assert not readings.are_due
    readings.add(15, 4, {"loss": torch.tensor(float("nan")), "other": 3.0})
    assert readings.are_due
    read = list(readings.read())
    assert [r.step for r in read] == list(range(16)) and {r.images for r in read} == {4}
    assert read[3].figures == {"loss": torch.tensor(0.3).item(), "other": 2.0}
    assert read[15].figures["loss"] != read[15].figures["loss"]
    assert list(readings.read()) == []


def test_a_step_reads_no_value_from_the_device(monkeypatch):
    net = network((40, 32))
    step = stepper(net)
    step(*batch(net), 0.01)

    def refuse(self, *_):
        raise AssertionError("a step waits for the device")

    for name in ("item", "tolist", "__float__", "__bool__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    # The kernels of the CPU take the levels' ends as numbers; those of a GPU do not.
    monkeypatch.setattr("rsquant.quantizers.rounding._native", lambda x: False)
    step(*batch(net), 0.01)
