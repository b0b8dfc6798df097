"""Frozen layers stay as they are to the bit; the others move as they would."""

import pytest
import torch

import rsquant
from rsquant.errors import ConfigError
from rsquant.nn.frozen import freeze_layers
from rsquant.nn.modes import training_mode


def network(**options):
    torch.manual_seed(0)
    return rsquant.create("resnet18", 2, 2, (32, 24), num_classes=3, width=8, **options)


def step(model):
    torch.manual_seed(1)
    images = [torch.randn(4, 3, size, size) for size in (32, 24)]
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=0.1)
    with training_mode(model):
        for _ in range(2):
            optimizer.zero_grad()
            sum(z.square().mean() for z in model.forward_all(images)).backward()
            optimizer.step()


@pytest.mark.parametrize("patterns", [("conv1", "layer1", "bn1"), ("layer[12].*", "*bn*"), ("fc",)])
def test_what_is_frozen_stays_and_the_rest_moves(patterns):
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    frozen = freeze_layers(model, patterns)
    step(model)
    parameters = {name for name, _ in model.named_parameters()}
    inside = {f"body.{name}" for name in frozen}
    still = 0
    for name, tensor in model.state_dict().items():
        owner = name.rpartition(".")[0]
        if owner in inside:
            assert torch.equal(tensor, before[name]), name
            still += 1
        elif name in parameters:
            assert not torch.equal(tensor, before[name]), name
    assert still >= len(frozen) > 0
    moved = [n for n, t in model.state_dict().items() if "basis" in n and not t.equal(before[n])]
    inside_layers = [n for n in moved if n.startswith(("body.layer1.", "body.layer2."))]
    if patterns[0] == "layer[12].*":
        assert moved and not inside_layers
    elif patterns[0] == "fc":
        assert inside_layers


@pytest.mark.parametrize(
    "patterns,message",
    [
        (["layr1"], "freeze: 'layr1' matches no layer; the nearest are layer1"),
        (["*"], "freeze: leaves nothing to train"),
        (["layer1", "head*"], r"freeze: 'head\*' matches no layer"),
    ],
)
def test_patterns_that_cannot_be_meant(patterns, message):
    model = network()
    with pytest.raises(ConfigError, match=message):
        freeze_layers(model, patterns)


def test_integer_networks_are_refused():
    with pytest.raises(ConfigError, match="freeze: layers of an integer network"):
        freeze_layers(network(integer=True), ["layer1"])
