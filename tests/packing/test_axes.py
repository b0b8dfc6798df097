"""Axes of views name the numbers that torch's views hold."""

import numpy as np
import pytest
import torch

from rsquant.packing.axes import axes_of_map, channels_of, in_order, is_whole, reshaped

BATCH, CHANNELS, HEIGHT, WIDTH = 2, 12, 6, 8


def torch_index(axes):
    """Of each place the number of its element in the map, in the view's order."""
    parts = {"n": CHANNELS * HEIGHT * WIDTH, "c": HEIGHT * WIDTH, "h": WIDTH, "w": 1}
    index = np.zeros(1, np.int64)
    for axis in axes:
        for factor in axis:
            steps = np.arange(factor.size) * factor.stride * parts[factor.dim]
            index = (index[:, None] + steps).reshape(-1)
    return index


VIEWS = {
    "groups": [(2, 3, 4, 6, 8), (0, 2, 1, 3, 4), (2, 12, 6, 8)],
    "with the images": [(8, 3, 48), (1, 0, 2), (3, 2, 4, 6, 8)],
    "blocks": [(2, 12, 3, 2, 4, 2), (0, 3, 5, 1, 2, 4), (2, 48, 3, 4)],
    "cut twice": [(2, 6, 2, 6, 8), (2, 3, 2, 2, 6, 8), (0, 3, 2, 1, 4, 5), (2, 12, 6, 8)],
    "pixels as one": [(2, 12, 48), (0, 2, 1), (2, 576)],
    "sides of 1": [(2, 1, 12, 1, 6, 8), (0, 2, 1, 3, 4, 5), (2, 12, 6, 8, 1)],
}


@pytest.mark.parametrize("name", VIEWS)
def test_the_axes_are_torchs(name):
    x = torch.arange(BATCH * CHANNELS * HEIGHT * WIDTH).view(BATCH, CHANNELS, HEIGHT, WIDTH)
    axes = axes_of_map(BATCH, CHANNELS, (HEIGHT, WIDTH), 4)
    for place, sides in enumerate(VIEWS[name]):
        if sorted(sides) == list(range(len(axes))):
            x, axes = x.permute(sides), tuple(axes[side] for side in sides)
        else:
            x, axes = x.reshape(sides), reshaped(axes, sides, [True] * len(sides))
        np.testing.assert_array_equal(torch_index(axes), x.reshape(-1).numpy(), f"step {place}")


@pytest.mark.parametrize("shape", [(2, 12, 6, 9), (2, 5, 6, 8), (2, 12, 6), (3, 8, 6, 8), (576, 3)])
def test_what_is_no_view_of_whole_factors_is_none(shape):
    axes = axes_of_map(BATCH, CHANNELS, (HEIGHT, WIDTH), 4)
    assert reshaped(axes, shape, [True] * len(shape)) is None


def test_pixels_are_cut_by_fixed_numbers_only():
    axes = axes_of_map(BATCH, CHANNELS, (HEIGHT, WIDTH), 4)
    shape = (2, 12, 3, 2, 4, 2)
    assert reshaped(axes, shape, [False, False, False, True, False, True]) is not None
    # Two rows of blocks at every size: how large they are depends on it.
    assert reshaped(axes, shape, [False, False, True, False, False, True]) is None


def test_a_map_of_one_pixel_at_one_size_keeps_its_pixels():
    axes = axes_of_map(BATCH, CHANNELS, (1, 1), 4)
    flat = reshaped(axes, (2, 12), [False, False])
    assert is_whole(flat[1], "chw")


def test_channels_in_the_order_of_the_axes_are_numbered_anew():
    axes = axes_of_map(1, 12, (), 2)
    axes = reshaped(axes, (1, 3, 4), [True] * 3)
    turned = (axes[0], axes[2], axes[1])
    order = channels_of(turned)
    np.testing.assert_array_equal(order, np.arange(12).reshape(3, 4).T.reshape(-1))
    np.testing.assert_array_equal(channels_of(in_order(turned)), np.arange(12))
