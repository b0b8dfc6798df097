"""Resized maps: torch's values, on every back end, and what a file may say of them."""

import numpy as np
import pytest
import torch
from back_ends import assert_equal_everywhere, changed_file, converted, packed_file
from one_operation import Around
from torch import nn
from torch.nn import functional

from rsquant.errors import ModelError, PackedFileError, PackError
from rsquant.kernels import reference
from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed
from rsquant.packed.resampling import linear, nearest, scaled_side

# A result of fixed size counts as a large stride, below which no size is trained.
SIZES = (64, 48)
SIDES = ((16, 16), (9, 14))
interpolate = functional.interpolate


def up(**options):
    """Of the smaller map, so that there is one to take the size of."""
    return lambda x, y: interpolate(y, **options)


RESIZED = {
    "nearest": up(scale_factor=2),
    "nearest not whole": up(scale_factor=(1.3, 0.7)),
    "nearest recomputed": up(scale_factor=1.7, recompute_scale_factor=True),
    "nearest exact": up(scale_factor=1.6, mode="nearest-exact"),
    "bilinear": up(scale_factor=2.0, mode="bilinear"),
    "bilinear aligned": up(scale_factor=(2, 3), mode="bilinear", align_corners=True),
    "bilinear not whole": up(scale_factor=1.45, mode="bilinear"),
    "bilinear shrinks": up(scale_factor=0.6, mode="bilinear", align_corners=False),
    "fixed": up(size=(5, 12), mode="bilinear"),
    "fixed square": up(size=7),
    "like": lambda x, y: interpolate(y, size=x.shape[-2:], mode="nearest") + x,
    "like, by size()": lambda x, y: interpolate(y, x.size()[2:], None, "bilinear", True) + x,
    "like, by numbers": lambda x, y: interpolate(y, (x.shape[2], x.size(3)), mode="bilinear") + x,
    "a multiple": lambda x, y: interpolate(y, size=(2 * y.shape[2], y.shape[3] * 3)),
    "computed": lambda x, y: interpolate(y, size=[int(s) for s in x.shape[2:]]) + x,
    "module": nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    "module nearest": nn.UpsamplingNearest2d(scale_factor=1.5),
    "module bilinear": nn.UpsamplingBilinear2d(size=(13, 6)),
}


@pytest.mark.parametrize("name", RESIZED)
def test_the_values_are_torchs(name, compare, pixels, vary, tmp_path):
    network = converted(Around(RESIZED[name]), SIZES, vary)
    for side in SIDES:
        assert compare(network, pixels(1, *side))[0] > 10
    packed = open_packed(packed_file(network, tmp_path))
    assert packed.plan.format_version == 4
    assert [step.OP for step in packed.plan.steps].count("resize") == 1


@pytest.mark.parametrize(
    ("name", "channels"), [("nearest not whole", 17), ("like, by size()", 33), ("fixed", 1)]
)
def test_every_back_end_gives_the_values_of_the_specification(name, channels, vary, tmp_path, gpu):
    network = converted(Around(RESIZED[name], channels), SIZES, vary)
    assert_equal_everywhere(packed_file(network, tmp_path), ((9, 14),), gpu)


@pytest.mark.parametrize("scale", [None, 0.3, 0.7, 1.05, 1.5, 2.0, 7 / 3, 3.7])
def test_tables_are_torchs_at_many_sizes(scale):
    rng = np.random.default_rng(0)
    for side in (1, 2, 3, 5, 7, 8, 13, 28, 33, 56):
        x = rng.normal(size=(1, 1, side, 2)).astype(np.float32)
        outs = (1, 2, 5, 9, 14, 2 * side, 31, 64) if scale is None else (scaled_side(side, scale),)
        for out in (out for out in outs if out):
            given = {"size": (out, 2)} if scale is None else {"scale_factor": (scale, 1)}
            picked = torch.from_numpy(x)
            for mode in ("nearest", "nearest-exact"):
                (rows, _) = nearest(side, out, scale, mode == "nearest-exact")
                expected = interpolate(picked, mode=mode, **given).numpy()
                np.testing.assert_array_equal(x[:, :, rows[:, 0]], expected)
            for aligned in (False, True):
                columns = linear(2, 2, 1.0, aligned)
                found = reference.blend(
                    x.transpose(0, 2, 3, 1), *linear(side, out, scale, aligned), *columns
                )
                expected = interpolate(picked, mode="bilinear", align_corners=aligned, **given)
                found = found.transpose(0, 3, 1, 2)
                bound = rounding(x, side)
                np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=bound)


def rounding(x, side):
    """How far two blends of neighbours may be apart that round differently, u = 2**-24.

    Places step (i + 0.5) - 0.5 are below `side`; with the product and the difference rounded, or
    as one fused operation, they are at most 3 u side apart, and so are the weights 1 - w and w,
    which are exact differences of them. A blend is continuous in its place and moves by at most
    the neighbours' difference per pixel. Each of two blends rounds 1 - w, two products and a sum,
    4 u of the largest value.
    """
    neighbours = np.abs(np.diff(x, axis=2)).max(initial=0)
    return float(2**-24 * (3 * side * neighbours + 8 * np.abs(x).max()))


@pytest.mark.parametrize(
    ("resized", "message"),
    [
        (up(scale_factor=2, mode="bicubic"), "resizes in mode 'bicubic'; use one of nearest"),
        (up(size=9, mode="bilinear", antialias=True), "resizes with antialias"),
        (up(scale_factor=2, mode="area"), "resizes in mode 'area'"),
    ],
)
def test_what_is_not_supported_is_named(resized, message, vary, tmp_path):
    with pytest.raises(PackError, match=message):
        packed_file(converted(Around(resized), SIZES, vary), tmp_path)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    network = converted(Around(RESIZED["nearest"]), SIZES, lambda network: None)
    return packed_file(network, tmp_path_factory.mktemp("packed"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "cubic"}, "'mode' must be one of nearest"),
        ({"scale": None}, "has not one of 'size', 'like' and 'scale'"),
        ({"size": [4, 4]}, "has not one of"),
        ({"scale": [0.0, 2.0]}, "'scale' must be a positive number"),
        ({"scale": [2.0]}, "'scale' must be a list of 2"),
        ({"scale": None, "size": [0, 4]}, "'size' must be an integer from 1"),
        ({"scale": None, "like": 99}, "reads value 99 before it is written"),
        ({"align_corners": 0}, "'align_corners' must be true or false"),
        ({"extra": 1}, "unknown field 'extra'"),
    ],
)
def test_a_bad_file_is_named(change, message, file, tmp_path):
    path = changed_file(file, "resize", change, tmp_path)
    with pytest.raises(PackedFileError, match=message):
        open_packed(path)


def test_a_map_that_would_be_too_large_is_refused(file, tmp_path):
    path = changed_file(file, "resize", {"scale": None, "size": [65536, 65536]}, tmp_path)
    with pytest.raises(ModelError, match="more than 2147483648 values"):
        build_program(open_packed(path), 16, 16)
