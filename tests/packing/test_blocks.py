"""The image in blocks of pixels, as TResNet reads it."""

import copy

import numpy as np
import pytest
import torch
from back_ends import assert_equal_everywhere, converted, packed_file
from torch import nn
from torch.nn import functional

from rsquant.errors import PackError
from rsquant.packed.file import open_packed
from rsquant.packed.format import read_packed


def space_to_depth(x, side=4):
    """As timm's SpaceToDepth."""
    n, c, h, w = x.size()
    x = x.view(n, c, h // side, side, w // side, side)
    x = x.permute(0, 3, 5, 1, 2, 4).contiguous()
    return x.view(n, c * side * side, h // side, w // side)


class Network(nn.Module):
    """The image in blocks, a convolution of them, and a low-bit one."""

    def __init__(self, blocks, side, kernel=3, stride=1, later=None, **options):
        super().__init__()
        options = {"padding": 1, **options}
        self.conv = nn.Conv2d(3 * side * side, 8, kernel, stride, **options)
        self.bn, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.fc, self.blocks, self.later = nn.Linear(8, 4), blocks, later

    def forward(self, x):
        x = functional.relu(self.bn(self.conv(self.blocks(x))))
        x = self.conv2(x if self.later is None else self.later(x))
        return self.fc(functional.relu(x).mean((2, 3)))


NETWORKS = {
    "by hand": lambda: Network(space_to_depth, 4),
    "the module": lambda: Network(nn.PixelUnshuffle(2), 2, stride=2),
    "the function": lambda: Network(lambda x: functional.pixel_unshuffle(x, 3), 3, 1, padding=0),
    "unequal": lambda: Network(lambda x: space_to_depth(x, 2), 2, (1, 3), (1, 2), padding=(0, 1)),
}


def of_the_image(network, side, order):
    """The same network with a convolution of the image: each of its weights put in its place."""
    conv = network.conv
    kernel, stride, padding = (
        tuple(side * n for n in pair) for pair in (conv.kernel_size, conv.stride, conv.padding)
    )
    wide = nn.Conv2d(3, 8, kernel, stride, padding)
    with torch.no_grad():
        wide.bias.copy_(conv.bias)
        for place, tap in enumerate(order(side)):
            channel, y, x = tap
            for i in range(conv.kernel_size[0]):
                for j in range(conv.kernel_size[1]):
                    wide.weight[:, channel, side * i + y, side * j + x] = conv.weight[
                        :, place, i, j
                    ]
    changed = copy.deepcopy(network)
    changed.conv, changed.blocks = wide, nn.Identity()
    return changed


def pixels_first(side):
    return [(c, y, x) for y in range(side) for x in range(side) for c in range(3)]


def channels_first(side):
    return [(c, y, x) for c in range(3) for y in range(side) for x in range(side)]


ORDERS = {
    "by hand": (4, pixels_first),
    "the module": (2, channels_first),
    "the function": (3, channels_first),
    "unequal": (2, pixels_first),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_image_in_blocks_packs_as_a_larger_convolution(name, compare, pixels, vary, tmp_path):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    other = of_the_image(network, *ORDERS[name])
    x = torch.rand(2, 3, 24, 36, dtype=torch.float64)
    torch.testing.assert_close(other.eval().double()(x), network.eval().double()(x))
    files = []
    for body in (network.float(), other.float()):
        made = converted(body, (48, 24), vary)
        (tmp_path / str(len(files))).mkdir()
        files.append(read_packed(packed_file(made, tmp_path / str(len(files)))))
    compare(made, pixels(2, 24, 36))
    (tensors, metadata), (others, other_metadata) = files
    assert metadata == other_metadata
    assert tensors.keys() == others.keys()
    for key in tensors:
        np.testing.assert_array_equal(tensors[key], others[key], key)


def test_every_back_end_reads_blocks(vary, tmp_path, gpu):
    path = packed_file(converted(NETWORKS["by hand"](), (24,), vary), tmp_path)
    assert_equal_everywhere(path, ((24, 32),), gpu)
    first = open_packed(path).plan.steps[0]
    assert (first.kernel, first.stride, first.padding) == ((12, 12), (4, 4), (4, 4))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            lambda: Network(lambda x: x, 1, later=lambda x: space_to_depth(x, 2)[:, :8]),
            "moves pixels of a map into channels; only those of the image can be",
        ),
        (lambda: Network(space_to_depth, 4, 9, padding=4), "kernel of more than 31 pixels of the"),
        (lambda: Network(space_to_depth, 4, groups=2), "with groups, dilation or a kernel"),
        (lambda: Network(space_to_depth, 4, dilation=2), "with groups, dilation or a kernel"),
        (
            lambda: Network(
                lambda x: (
                    x.view(*x.shape[:2], 4, x.shape[2] // 4, 4, x.shape[3] // 4)
                    .permute(0, 2, 4, 1, 3, 5)
                    .reshape(x.shape[0], 48, x.shape[2] // 4, -1)
                ),
                4,
            ),
            r"view: is .view\(\), which the runtime does not have",
        ),
    ],
)
def test_other_blocks_are_refused(network, message, vary, tmp_path):
    with pytest.raises(PackError, match=message):
        packed_file(converted(network(), (48, 24), vary), tmp_path)
