"""The float peer of an integer network is that of the network converted without `integer`."""

import narrow
import pytest
import torch
from shallow import RESNET10
from torchvision.models.resnet import BasicBlock, ResNet

import rsquant
from rsquant.nn.freeze import fold_batchnorms, freeze

SIZES = (48, 32)


def created(**form):
    return rsquant.create(RESNET10, 2, 2, SIZES, 5, width=8, grid="coarse", **form)


def converted(network):
    return lambda **form: rsquant.convert(network, 3, 3, SIZES, grid="coarse", **form)


def maps(**form):
    arch, task = f"refinenet_lw_bn_{RESNET10}", "segmentation"
    return rsquant.create(arch, 2, 2, SIZES, 5, width=2, grid="coarse", task=task, **form)


MAKERS = {
    "created": created,
    "resnet": converted(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5)),
    "mobilenet": converted(narrow.mobilenet_v2(5, 0.1)),
    "maps": maps,
}


@pytest.mark.parametrize("name", MAKERS)
def test_float_peers_are_equal(name):
    frozen = []
    for form in ({"integer": True}, {}):
        torch.manual_seed(0)
        frozen.append(freeze(MAKERS[name](**form), 32, activation=False))
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        integer, plain = (fold_batchnorms(one).module(x) for one in frozen)
    assert torch.equal(integer, plain)
    assert integer.abs().max() > 0
