"""Branches and views that are no maps pack as torch computes them."""

import pytest
import torch
from around_map import SIZES, AroundMap, operations
from back_ends import assert_equal_everywhere, converted, packed_file
from torch import nn
from torch.nn import functional

from rsquant.errors import PackError
from rsquant.packed.file import open_packed


def branches(net, x, count=2):
    return [torch.relu(conv(x)) for conv in (net.a, net.b, net.c)[:count]]


def gates(net, x, count=2):
    """(N, count 17, 1, 1)."""
    x = functional.relu(net.down(x.mean((2, 3), keepdim=True)))
    return torch.cat([up(x) for up in (net.up1, net.up2, net.up3)[:count]], 1)


def selective(net, x):
    """As timm's SelectiveKernel."""
    x = torch.stack(branches(net, x), dim=1)
    attn = gates(net, x.sum(1))
    b, c, h, w = attn.shape
    attn = torch.softmax(attn.view(b, 2, c // 2, h, w), dim=1)
    return torch.sum(x * attn, dim=1)


def by_concatenating(net, x):
    """As the selective kernels of others: cat of unsqueezed maps, and a Softmax module."""
    joined = torch.cat([part.unsqueeze(1) for part in branches(net, x)], 1)
    attn = gates(net, torch.sum(joined, 1)).reshape(-1, 2, 17)
    return (net.softmax(attn)[..., None, None] * joined).sum(dim=1)


def split_attention(net, x, radix=2, groups=1):
    """As timm's SplitAttn."""
    x = torch.cat(branches(net, x, radix), 1)
    b, rc, h, w = x.shape
    x = x.reshape((b, radix, rc // radix, h, w))
    attn = gates(net, x.sum(dim=1), radix)
    attn = attn.view(b, groups, radix, -1).transpose(1, 2)
    attn = functional.softmax(attn, dim=1).reshape(b, -1).view(b, -1, 1, 1)
    return (x * attn.reshape((b, radix, rc // radix, 1, 1))).sum(dim=1).contiguous()


def three_with_groups(net, x):
    """17 channels go into one group only; of the first 16 there are two."""
    y = torch.cat([part[:, :16] for part in branches(net, x, 3)], 1)
    b, _, h, w = y.shape
    attn = torch.cat([part[:, :16] for part in gates(net, x, 3).chunk(3, 1)], 1)
    attn = attn.view(b, 2, 3, -1).transpose(1, 2)
    attn = functional.softmax(attn, dim=1).reshape(b, -1, 1, 1)
    y = (y.view(b, 3, 16, h, w) * attn.view(b, 3, 16, 1, 1)).sum(1)
    return torch.cat([y, x[:, :1]], 1)


def last_axis(net, x):
    joined = torch.stack(branches(net, x), -1)
    return joined.mean(-1) + joined[..., 1]


def unbound(net, x):
    one, other = torch.stack(branches(net, x), 2).unbind(2)
    return one - other


def added(net, x):
    joined = torch.stack(branches(net, x), 1) + torch.stack([x, x], 1)
    return joined[:, 0] * joined[:, -1]


def gated_sum(net, x):
    joined = torch.stack(branches(net, x), 1)
    return (joined + gates(net, x).view(-1, 2, 17, 1, 1)).sum(1)


def squeezed(net, x):
    """The average of a map whose pixels are one dimension."""
    n, c = x.shape[:2]
    return x * net.up1(net.down(x.view(n, c, -1).mean(2)[:, :, None, None])).sigmoid()


def permuted(net, x):
    """Three axes of channels in another order: no shuffle."""
    n, _, h, w = x.shape
    y = x[:, :12].reshape(n, 2, 3, 2, h, w).permute(0, 2, 1, 3, 4, 5).reshape(n, 12, h, w)
    return torch.cat([y, x[:, :5]], 1)


def with_the_images(net, x):
    """As some ShuffleNets: groups beside the images."""
    n, c, h, w = x[:, :16].shape
    y = x[:, :16].reshape(n * c // 2, 2, h * w).permute(1, 0, 2).reshape(2, -1, c // 2, h, w)
    return torch.cat([y[0], y[1], x[:, :1]], 1)


CHANGES = [
    selective,
    by_concatenating,
    split_attention,
    lambda net, x: split_attention(net, x, 3),
    three_with_groups,
    last_axis,
    unbound,
    added,
    gated_sum,
    squeezed,
    permuted,
    with_the_images,
    lambda net, x: torch.stack(branches(net, x), 1).flatten(1, 2)[:, 3:20],
    lambda net, x: torch.stack(branches(net, x), 2).flatten(1, 2)[:, 3:20],
]


def parts():
    convs = {name: nn.Conv2d(17, 17, 3, padding=1, groups=17) for name in "abc"}
    ups = {f"up{i}": nn.Conv2d(5, 17, 1) for i in (1, 2, 3)}
    return {**convs, **ups, "down": nn.Conv2d(17, 5, 1), "softmax": nn.Softmax(dim=1)}


@pytest.mark.parametrize("change", CHANGES)
def test_branches_are_torchs(change, compare, pixels, vary):
    network = converted(AroundMap(change, **parts()), SIZES, vary)
    for height, width in ((24, 24), (13, 19)):
        compare(network, pixels(2, height, width))


@pytest.mark.parametrize("change", [selective, three_with_groups])
def test_every_back_end_has_the_same_values(change, vary, tmp_path, gpu):
    network = converted(AroundMap(change, **parts()), SIZES, vary)
    assert_equal_everywhere(packed_file(network, tmp_path), ((13, 19),), gpu)


def test_stacked_maps_are_added_as_they_are(vary, tmp_path):
    """No copy of both is made where only their sum is needed."""
    body = AroundMap(lambda net, x: torch.stack(branches(net, x), 1).sum(1), **parts())
    packed = open_packed(packed_file(converted(body, SIZES, vary), tmp_path))
    assert not {"concat", "channels"} & set(operations(packed))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda net, x: torch.stack(branches(net, x), 1).relu().sum(1),
            r"relu\w*: reads a map as Nx2x17xHxW, which stack makes of it; let it read",
        ),
        (
            lambda net, x: x.view(x.shape[0], 17, -1).softmax(-1).view(x.shape),
            "softmax: is a softmax over channels or pixels; only one over branches packs",
        ),
        (lambda net, x: torch.softmax(x, 1), "softmax: is softmax, which the runtime does not"),
        (
            lambda net, x: x.view(x.shape[0], 1, 17, *x.shape[2:]).transpose(1, 2).sum(1) + x,
            "works on 17 branches, at most 16 are known",
        ),
        (
            lambda net, x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1)[:, :17, None, None] + x,
            "flattens a map of several pixels",
        ),
    ],
)
def test_what_is_not_supported_is_named(change, message, vary, tmp_path):
    with pytest.raises(PackError, match=message):
        packed_file(converted(AroundMap(change, **parts()), SIZES, vary), tmp_path)
