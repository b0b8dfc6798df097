"""Gradients whose norm is too large are scaled to the norm that was asked for."""

import dataclasses

import pytest
import torch
from tiny_network import SIZES, converted

from rsquant.config import TrainConfig
from rsquant.train.step import Step


def moved(clip_norm):
    """What one step of plain descent at a rate of 1 takes from the parameters, as float64."""
    torch.manual_seed(0)
    network = converted().train()
    before = [p.detach().double().clone() for p in network.parameters()]
    alpha = torch.ones(len(SIZES), requires_grad=True)
    optimizer = torch.optim.SGD([*network.parameters(), alpha], 1.0)
    train = dataclasses.replace(TrainConfig(), clip_norm=clip_norm)
    step = Step(network, alpha, optimizer, train, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (4, 3, s, s), generator=generator).to(torch.uint8) for s in SIZES
    ]
    step(images, torch.tensor([0, 1, 2, 0]), 1.0)
    after = [p.detach().double() for p in network.parameters()]
    return torch.cat([(a - b).flatten() for a, b in zip(before, after, strict=True)])


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_the_gradient_is_scaled_down_to_the_norm_and_never_up(share):
    plain = moved(None)
    limit = share * float(plain.norm())
    # The differences of float32 weights of size 1 have errors of 2**-24.
    torch.testing.assert_close(moved(limit), plain * min(1.0, share), rtol=1e-3, atol=1e-6)
