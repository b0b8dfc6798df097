"""Optimizers by name against their formulas in float64, and what is kept of them in a state."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_network import SIZES, converted

from rsquant.config import TrainConfig
from rsquant.errors import CheckpointError
from rsquant.models.tensor_file import read_tensors, write_tensors
from rsquant.recipes import compose
from rsquant.train.optimizer import make_optimizer
from rsquant.train.state import TrainingState

LR, BETAS, DECAY = 0.01, (0.8, 0.95), 0.1


def make(optimizer):
    torch.manual_seed(0)
    network = converted().train()
    alpha = torch.ones(len(SIZES), requires_grad=True)
    train = dataclasses.replace(
        TrainConfig(), optimizer=optimizer, lr=LR, betas=BETAS, weight_decay=DECAY, momentum=0.5
    )
    return network, alpha, make_optimizer(network, alpha, train)


def gradients(parameters, step):
    """The same ones for every optimizer; the last parameter has none in the first step."""
    generator = torch.Generator().manual_seed(step)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator)
    if step == 0:
        parameters[-1].grad = None


def formula(kind, w, grads, decays):
    """A parameter after these gradients, by the papers, in float64."""
    w, m, s = w.astype(np.float64), 0.0, 0.0
    wd = DECAY if decays else 0.0
    for t, g in enumerate(grads, start=1):
        g = g.astype(np.float64) + (0 if kind == "adamw" else wd * w)
        if kind == "sgd":
            m = 0.5 * m + g
            w = w - LR * m
            continue
        m, s = BETAS[0] * m + (1 - BETAS[0]) * g, BETAS[1] * s + (1 - BETAS[1]) * g * g
        step = m / (1 - BETAS[0] ** t) / (np.sqrt(s / (1 - BETAS[1] ** t)) + 1e-8)
        w = w - LR * step - (LR * wd * w if kind == "adamw" else 0)
    return w


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_each_moves_parameters_by_its_formula_and_decays_weights_alone(kind):
    network, alpha, optimizer = make(kind)
    before = {n: p.detach().numpy().copy() for n, p in network.named_parameters()}
    given = {name: [] for name in before}
    for step in range(3):
        gradients([*network.parameters(), alpha], step)
        for name, p in network.named_parameters():
            given[name].append(p.grad.numpy().copy())
        optimizer.step()
    decaying = {f"body.{layer}.weight" for layer in ("stem", "middle", "fc")}
    for name, p in network.named_parameters():
        expected = formula(kind, before[name], given[name], name in decaying)
        # Three float32 steps of size 0.01 on values of size 1.
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-4, atol=1e-6)


def state_of(kind):
    network, alpha, optimizer = make(kind)
    return TrainingState(network, alpha, optimizer)


def stepped(state, step):
    parameters = [*state.model.parameters(), state.alpha]
    gradients(parameters, step)
    state.optimizer.step()
    return [p.detach().clone() for p in parameters]


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_what_adam_remembers_comes_back_to_the_bit_also_of_a_parameter_without_gradient(
    kind, tmp_path
):
    whole = state_of(kind)
    stepped(whole, 0)
    whole.save(tmp_path / "s")
    again = state_of(kind)
    again.load(tmp_path / "s")
    assert again.alpha not in again.optimizer.state
    expected, got = stepped(whole, 1), stepped(again, 1)
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


def test_states_that_no_adam_leaves_are_refused(tmp_path):
    state, path = state_of("adam"), tmp_path / "s"
    stepped(state, 1)
    state.save(path)
    tensors, metadata = read_tensors(path, TrainingState.FORMAT, TrainingState.VERSION)
    with pytest.raises(CheckpointError, match="of an optimizer with 'mean'"):
        state_of("sgd").load(path)
    for name, value, message in (
        ("square.0", -tensors["square.0"], r"square\.0 has values below 0"),
        ("updates.0", torch.ones(2), r"updates\.0 is torch\.float32 \(2,\)"),
        ("mean.0", tensors["mean.0"] * float("nan"), "mean of .* has NaN values"),
    ):
        write_tensors(path, {**tensors, name: value}, metadata)
        with pytest.raises(CheckpointError, match=message):
            state_of("adam").load(path)
    write_tensors(path, tensors, {**metadata, "mean": metadata["mean"][1:]})
    with pytest.raises(CheckpointError, match="are not of the same parameters"):
        state_of("adam").load(path)
    sgd = state_of("sgd")
    stepped(sgd, 1)
    sgd.save(path)
    with pytest.raises(CheckpointError, match="of an optimizer with 'momentum'"):
        state_of("adam").load(path)


def test_adam_starts_at_a_hundredth_of_the_recipes_rate_unless_a_rate_is_given():
    rates = [
        compose(None, {"train": train})[0].train.lr
        for train in (
            {},
            {"optimizer": "adam"},
            {"optimizer": "adamw", "lr": 0.5},
        )
    ]
    assert rates == [0.1, 0.001, 0.5]
