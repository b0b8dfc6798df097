"""Averages of weights against a loop in float64."""

import numpy as np
import pytest
import torch
from tiny_network import batches, converted

from rsquant.train.average import Average


def test_it_is_the_average_of_parameters_statistics_and_bases_by_the_formula():
    torch.manual_seed(0)
    network, decay = converted().train(), 0.3
    average = Average(network, decay)
    expected: dict[str, np.ndarray] = {}
    for step in range(6):
        network.forward_all(batches())  # moves statistics and bases
        with torch.no_grad():
            for p in network.parameters():
                p.add_(torch.randn(p.shape))
        average.update()
        keep = min(decay, (1 + step) / (10 + step)) if step else 0.0
        for name, value in network.state_dict().items():
            value = value.numpy().astype(np.float64)
            expected[name] = keep * expected.get(name, 0.0) + (1 - keep) * value
    got = average.network.state_dict()
    assert {"body.middle.weight_quantizer.basis", "body.bn.running_var"} <= got.keys()
    for name, value in got.items():
        if value.is_floating_point():
            # Six float32 operations on values of size 3.
            np.testing.assert_allclose(value.numpy(), expected[name], rtol=0, atol=1e-5)
        else:
            assert torch.equal(value, network.state_dict()[name])
    assert not average.network.training


@pytest.mark.parametrize("restarts", [False, True])
def test_its_first_update_and_the_one_after_a_restart_are_the_network_itself(restarts):
    network = converted()
    average = Average(network, 0.9)
    if restarts:
        average.update()
        average.restart()
    with torch.no_grad():
        network.body.middle.weight.add_(1)
    average.update()
    assert torch.equal(average.network.body.middle.weight, network.body.middle.weight)


def test_layers_that_share_a_weight_have_it_averaged_once():
    network = converted()
    network.body.bn2.weight = network.body.bn.weight
    average = Average(network, 0.5)
    average.update()
    with torch.no_grad():
        network.body.bn.weight.fill_(3.0)
    average.update()
    # (1 + 1) / (10 + 1) of 1, the rest of 3.
    assert average.network.body.bn2.weight[0, 0].item() == pytest.approx(3 - 2 * 2 / 11)
