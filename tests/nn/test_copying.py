"""Networks are copied with what forwards left in them, or the line names what cannot be."""

import threading

import pytest
import torch
from tiny_network import batches, converted
from torch import nn

import rsquant
from rsquant.errors import ModelError


class Keeps(nn.Module):
    """Keeps its last input, in several ways."""

    def forward(self, x):
        self.last, self.all = x, {"inputs": [x, (x * 2,)]}
        return x + 0


def test_values_that_a_forward_kept_are_no_hindrance(tmp_path):
    layers = nn.Sequential(nn.Conv2d(8, 8, 3), Keeps())
    layers(torch.randn(1, 8, 5, 5))  # with a graph
    model = converted(layers)
    assert layers[1].last.grad_fn is not None
    model.forward_all(batches())
    assert rsquant.export_onnx(model.eval(), tmp_path / "a.onnx", 16, form="float").passed


class Locked(nn.Module):
    def __init__(self):
        super().__init__()
        self.guard = threading.Lock()

    def forward(self, x):
        return x


class Refuses(nn.Module):
    def __deepcopy__(self, memo):
        raise ValueError("one of a kind")

    def forward(self, x):
        return x


@pytest.mark.parametrize(
    "module,line",
    [
        (Locked(), r"^middle\.1 \(Locked\): its attribute 'guard' cannot be copied \(.*lock"),
        (Refuses(), r"^Tiny: it cannot be copied \(one of a kind\); remove it"),
    ],
)
def test_what_cannot_be_copied_is_named(module, line):
    with pytest.raises(ModelError, match=line):
        converted(nn.Sequential(nn.Conv2d(8, 8, 3), module))


def test_what_cannot_be_copied_is_named_where_it_came_after_the_conversion(tmp_path):
    model = converted().eval()
    model.body.bn.register_forward_hook(Locked())
    with pytest.raises(ModelError, match=r"bn \(SwitchableBatchNorm2d\): a hook cannot be copied"):
        rsquant.pack(model, tmp_path / "a.rsq")
