"""Splits, slices and shuffles of channels: torch's values, on every back end."""

import pytest
import torch
from back_ends import assert_equal_everywhere, changed_file, converted, packed_file
from torch import nn
from torch.nn import functional

from rsquant.errors import PackedFileError, PackError
from rsquant.packed.file import open_packed

SIZES = (24, 16)


def shuffle_by_hand(x, groups):
    """As torchvision's ShuffleNetV2."""
    n, channels, height, width = x.size()
    x = x.view(n, groups, channels // groups, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(n, channels, height, width)


def shuffle_by_permuting(x, groups):
    n, channels, height, width = x.shape
    x = x.reshape(n, groups, channels // groups, height, width)
    return x.permute(0, 2, 1, 3, 4).reshape(n, -1, height, width)


class Network(nn.Module):
    """Something done with 24 channels, and a convolution of all that it gives."""

    def __init__(self, change, channels):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.wide, self.bn_w = nn.Conv2d(8, 24, 1), nn.BatchNorm2d(24)
        self.join, self.bn_j = nn.Conv2d(channels, 9, 1, bias=False), nn.BatchNorm2d(9)
        self.fc = nn.Linear(9, 7)
        self.change = change

    def forward(self, x):
        x = functional.relu(self.bn(self.conv(x)))
        x = self.change(self.bn_w(self.wide(x)))
        x = functional.relu(self.bn_j(self.join(x)))
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


def halves(x):
    a, b = x.chunk(2, dim=1)
    return torch.cat([b, a, b], 1)


def unequal(x):
    a, b, c = torch.split(x, [5, 18, 1], 1)
    return torch.cat([c, a, b], 1)


def in_a_loop(x):
    total = None
    for part in torch.chunk(x, 5, 1)[:4]:  # 5, 5, 5, 5 and 4 channels
        total = part if total is None else total + part
    return total


CHANGES = {
    "chunk": (halves, 36),
    "split": (unequal, 24),
    "a loop over parts": (in_a_loop, 5),
    "split by size": (lambda x: x.split(10, 1)[2], 4),
    "the last part": (lambda x: torch.split(x, 7, dim=1)[-1], 3),
    "tensor_split": (lambda x: torch.tensor_split(x, 7, dim=1)[3], 3),
    "tensor_split at": (lambda x: x.tensor_split((3, 20), dim=1)[1], 17),
    "narrow": (lambda x: torch.narrow(x, 1, 3, 17), 17),
    "slice": (lambda x: x[:, 3:20], 17),
    "slice from the end": (lambda x: x[:, -5:, :, :], 5),
    "slice behind an ellipsis": (lambda x: x[..., 1:9, :, :], 8),
    "the function": (lambda x: functional.channel_shuffle(x, 4), 24),
    "the module": (nn.ChannelShuffle(3), 24),
    "by hand": (lambda x: shuffle_by_hand(x, 2), 24),
    "by permuting": (lambda x: shuffle_by_permuting(x, 6), 24),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_values_are_torchs(compare, pixels, vary, name):
    change, channels = CHANGES[name]
    network = converted(Network(change, channels), SIZES, vary)
    compared, _, _ = compare(network, pixels(2, 24, 17))
    assert compared > 1000


@pytest.mark.parametrize("name", ["split", "by hand"])
def test_every_back_end_has_the_same_values(vary, tmp_path, gpu, name):
    change, channels = CHANGES[name]
    path = packed_file(converted(Network(change, channels), SIZES, vary), tmp_path)
    program = assert_equal_everywhere(path, ((24, 24), (9, 17)), gpu)
    assert "ChannelsStep" in {type(step).__name__ for step in program.steps}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: torch.cat(x.chunk(2, dim=2), 2), "chunk: splits along another dimension"),
        (lambda x: torch.cat([x[:, ::2]] * 2, 1), "takes channels 0 to 24 by 2"),
        (lambda x: torch.cat([x[:, :, 1:]], 1), "takes some of the images or pixels"),
        (
            lambda x: x.view(-1, 2, 12, *x.shape[2:]).transpose(1, 3).reshape(x.shape),
            "join: reads a map as Nx2Hx12xW, which reshape makes of it; let it read",
        ),
    ],
)
def test_what_is_no_range_of_channels_is_refused(vary, tmp_path, change, message):
    network = converted(Network(change, 24), SIZES, vary, keep=())
    with pytest.raises(PackError, match=message):
        packed_file(network, tmp_path)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    network = converted(Network(*CHANGES["slice"]), SIZES, lambda network: None)
    return packed_file(network, tmp_path_factory.mktemp("packed"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": 20}, "takes channels 20 to 37 of 24"),
        ({"first": -1}, "'first' must be an integer from 0"),
        ({"count": 0}, "'count' must be an integer from 1"),
        ({"groups": 2}, "groups must divide the channels, got groups=2, count=17"),
        ({"count": 16}, r"reads 16 channels, in_channels=17"),
        ({"input": 99}, "reads value 99 before it is written"),
    ],
)
def test_a_bad_file_is_named(change, message, file, tmp_path):
    path = changed_file(file, "channels", change, tmp_path)
    with pytest.raises(PackedFileError, match=message):
        open_packed(path)
