"""Which parameters decay."""

import torch

import rsquant
from rsquant.train.parameter_groups import parameter_groups


def test_decay_on_weights_leaves_norms_biases_and_alpha_alone():
    network = rsquant.create("resnet18", 2, 2, (32,), width=4, num_classes=3)
    alpha = torch.ones(1, requires_grad=True)
    decaying, rest = parameter_groups(network, alpha, "weights")
    names = {id(p): name for name, p in network.named_parameters()}
    layers = {
        n for n, m in network.named_modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))
    }
    assert {names[id(p)] for p in decaying["params"]} == {f"{n}.weight" for n in layers}
    assert "weight_decay" not in decaying and rest["weight_decay"] == 0
    assert len(decaying["params"]) + len(rest["params"]) == len(names) + 1
    assert rest["params"][-1] is alpha
    everything, only_alpha = parameter_groups(network, alpha, "all")
    assert len(everything["params"]) == len(names)
    assert only_alpha == {"params": [alpha], "weight_decay": 0.0}
