"""Sums of several classifiers, and norms of one pixel, pack as torch computes them."""

import pytest
import torch
from back_ends import assert_equal_everywhere, converted, packed_file
from torch import nn
from torch.nn import functional

from rsquant.errors import PackError
from rsquant.packed.file import open_packed


class Heads(nn.Module):
    """A small network whose `end` makes logits of one pixel of 8 channels."""

    def __init__(self, end):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.norm2 = nn.BatchNorm1d(8), nn.BatchNorm1d(8)
        self.fc, self.fc2 = nn.Linear(8, 4), nn.Linear(8, 4, bias=False)
        self.last = nn.Conv2d(8, 4, 1)
        self.scales = nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 3.0]))
        self.end = end

    def forward(self, x):
        x = self.conv2(functional.relu(self.bn(self.conv(x))))
        return self.end(self, x.mean((2, 3)))


ENDS = {
    "distilled": lambda net, x: (net.fc(net.norm(x)) + net.fc2(net.norm2(x))) / 2,
    "one norm": lambda net, x: net.fc(net.norm(x)),
    "scaled": lambda net, x: 1 - 3 * net.fc(x),
    "of one value": lambda net, x: net.fc(x) - 0.5 * net.fc2(x),
    "a convolution and a layer": lambda net, x: (
        net.last(x[:, :, None, None]).flatten(1) + net.fc2(net.norm(x))
    ),
    "a number for each class": lambda net, x: net.fc(x) * net.scales + net.scales,
}


@pytest.mark.parametrize("name", ENDS)
def test_a_sum_of_heads_is_torchs(name, compare, pixels, vary):
    network = converted(Heads(ENDS[name]), (24, 16), vary)
    for side in (24, 16):
        compare(network, pixels(3, side, side), own_head=True)


def test_every_back_end_adds_heads(vary, tmp_path, gpu):
    path = packed_file(converted(Heads(ENDS["distilled"]), (16,), vary), tmp_path)
    assert_equal_everywhere(path, ((16, 16),), gpu)
    steps = open_packed(path).plan.steps
    assert [step.OP for step in steps].count("linear") == 1
    assert steps[-1].in_features == 16


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (lambda net, x: net.fc(x) * net.fc2(x), "must end in a Linear layer to be packed"),
        (lambda net, x: net.fc(x) + x[:, :4], "must end in a Linear layer to be packed"),
        (lambda net, x: torch.relu(net.fc(x)), "must end in a Linear layer to be packed"),
    ],
)
def test_another_end_is_refused(end, message, vary, tmp_path):
    with pytest.raises(PackError, match=message):
        packed_file(converted(Heads(end), (16,), vary), tmp_path)
