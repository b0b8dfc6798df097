"""Statistics that are estimated again: those of each size, and nothing else."""

import pytest
import torch
from shallow import RESNET10

import rsquant
from rsquant.errors import ModelError
from rsquant.nn.reestimate import reestimate

SIZES = (64, 32)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return rsquant.create(RESNET10, 2, 2, SIZES, 3, width=4).train()


def batches(*counts):
    generator = torch.Generator().manual_seed(2)
    return [[torch.randn(n, 3, r, r, generator=generator) for r in SIZES] for n in counts]


def test_statistics_of_the_first_layer_are_the_mean_over_batches(network):
    given = batches(4, 2, 1)
    before = {k: v.clone() for k, v in network.state_dict().items() if "running" not in k}
    assert reestimate(network, iter(given)) == 2  # the third has a single image
    for row in range(2):
        maps = [network.body.conv1(batch[row]).double().detach() for batch in given[:2]]
        mean = torch.stack([x.mean((0, 2, 3)) for x in maps]).mean(0)
        var = torch.stack([x.var((0, 2, 3), unbiased=True) for x in maps]).mean(0)
        norm = network.body.bn1
        torch.testing.assert_close(norm.running_mean[row].double(), mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var[row].double(), var, rtol=1e-4, atol=1e-5)
        assert norm.momentum == 0.1 and norm.training
    for name, tensor in before.items():
        assert torch.equal(network.state_dict()[name], tensor), name


def test_frozen_norms_and_failures_leave_statistics_as_they_were(network):
    network.body.bn1.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ModelError, match="one batch per resolution"):
        reestimate(network, [*batches(2), [torch.randn(2, 3, 64, 64)]])
    with pytest.raises(ModelError, match="needs a batch of 2 or more images"):
        reestimate(network, batches(1))
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    reestimate(network, batches(2))
    assert torch.equal(network.body.bn1.running_mean, before["body.bn1.running_mean"])
    assert not torch.equal(
        network.body.layer1[0].bn.running_mean, before["body.layer1.0.bn.running_mean"]
    )


def test_integer_networks_have_statistics_too():
    torch.manual_seed(0)
    model = rsquant.create(RESNET10, 2, 2, SIZES, 3, width=4, integer=True)
    before = model.body.conv1.norm.running_mean.clone()
    assert reestimate(model, batches(2)) == 1
    assert not torch.equal(model.body.conv1.norm.running_mean, before)
    assert not model.body.conv1.training or model.training
