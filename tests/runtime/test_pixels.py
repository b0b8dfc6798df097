"""What users pass as images and as `out`: made right, or told in words of numpy."""

import warnings

import numpy as np
import pytest
import torch

from rsquant.errors import ImageRangeWarning
from rsquant.runtime import load
from rsquant.runtime.pixels import PixelReader, as_logits

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pixels(count=2, height=48, width=40):
    return np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8)


def floats(images):
    mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    return (images.astype(np.float32) / 255 - mean) / std


# The same numbers in every order of memory and bytes that numpy has.
LAYOUTS = {
    "channels last": lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "negative strides": lambda x: np.ascontiguousarray(x[:, :, ::-1, ::-1])[:, :, ::-1, ::-1],
    "a negative stride of one image": lambda x: x[:1][::-1],
    "Fortran order": np.asfortranarray,
    "every other column": lambda x: np.repeat(x, 2, 3)[..., ::2],
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("convert", [lambda x: x, floats], ids=["uint8", "float32"])
def test_every_layout_of_memory_gives_the_same_logits(make, convert, layout):
    session = load(make(), 1, tune=False)
    expected = session(pixels())
    given = LAYOUTS[layout](convert(pixels()))
    np.testing.assert_array_equal(session(given), expected[: len(given)])
    one = session.value(given[:1], 0)
    np.testing.assert_array_equal(one[..., :3], pixels()[0].transpose(1, 2, 0))


@pytest.mark.parametrize(
    "view",
    [
        lambda: np.zeros((2, 14), np.float32)[:, ::2],
        lambda: np.zeros((7, 2), np.float32).T,
        lambda: np.zeros((2, 7), np.float32)[::-1, ::-1],
    ],
)
def test_out_may_be_a_view(make, view):
    session = load(make(), 1, tune=False)
    out = view()
    assert session(pixels(), out) is out
    np.testing.assert_array_equal(out, session(pixels()))


@pytest.mark.parametrize(
    "wrong,message",
    [
        (torch.zeros(1, 3, 8, 8), r"torch\.Tensor; pass \.detach\(\)\.cpu\(\)\.numpy\(\) of it"),
        ([pixels()[0]] * 2, "got a list; pass np.stack of its images"),
        (memoryview(b"abc"), "got a memoryview"),
        (None, "got a NoneType"),
        (np.zeros((1, 3, 8, 8)), r"got float64; use \.astype\(np\.float32\)"),
        (np.zeros((1, 3, 8, 8), np.float16), r"got float16; use \.astype\(np\.float32\)"),
        (
            np.zeros((1, 3, 8, 8), int),
            r"got int64; for pixels of 0 to 255 use \.astype\(np\.uint8\)",
        ),
    ],
)
def test_what_is_no_array_of_pixels_is_named(wrong, message):
    with pytest.raises(TypeError, match=message):
        PixelReader(MEAN, STD)(wrong)


@pytest.mark.parametrize(
    "shape,message",
    [
        ((8, 8, 3), r"got \(8, 8, 3\); .* pass images\.transpose\(2, 0, 1\)\[None\]"),
        ((3, 8, 8), r"got \(3, 8, 8\); .* pass images\[None\]"),
        ((1, 8, 8, 3), r"channels come first: pass images\.transpose\(0, 3, 1, 2\)"),
        ((1, 1, 8, 8), r"got \(1, 1, 8, 8\)$"),
    ],
)
def test_another_shape_says_what_to_pass(shape, message):
    with pytest.raises(ValueError, match=message):
        PixelReader(MEAN, STD)(np.zeros(shape, np.uint8))


def test_an_out_that_cannot_be_written_is_named():
    read_only = np.zeros((1, 7), np.float32)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="out: must be writeable, got a read-only array"):
        as_logits(read_only, (1, 7))
    with pytest.raises(TypeError, match=r"out: must be a numpy array of float32, got a torch"):
        as_logits(torch.zeros(1, 7), (1, 7))
    for wrong in (np.zeros((1, 7)), np.zeros((1, 7), ">f4"), np.zeros(7, np.float32)):
        with pytest.raises(ValueError, match=r"out: must be float32 \(1, 7\), got"):
            as_logits(wrong, (1, 7))


def test_floats_that_look_like_pixels_are_warned_of_once_per_session(make):
    session = load(make(), 1, tune=False)
    message = "0 to 255 look like pixels .* pass them as uint8"
    with pytest.warns(ImageRangeWarning, match=message) as seen:
        session(pixels().astype(np.float32))
    assert seen[0].filename == __file__
    session(pixels().astype(np.float32))  # an error here, were it warned of again
    other = load(session.packed.path, 1, tune=False)
    message = r"0 to 1 look like shares .* pass \(images - mean\)"
    with pytest.warns(ImageRangeWarning, match=message):
        other(pixels().astype(np.float32) / 255)


@pytest.mark.parametrize(
    "mean,std,images",
    [
        (MEAN, STD, floats(pixels())),
        (MEAN, STD, np.zeros((1, 3, 8, 8), np.float32)),  # a warm-up
        (MEAN, STD, floats(np.full((1, 3, 8, 8), 150, np.uint8))),  # bright: above 0
        ((0.0,) * 3, (1.0,) * 3, pixels().astype(np.float32) / 255),  # shares are what it takes
        ((0.0,) * 3, (1 / 255,) * 3, pixels().astype(np.float32)),  # and here pixels
    ],
)
def test_normalised_floats_are_not_warned_of(mean, std, images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert PixelReader(mean, std)(images).dtype == np.uint8


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_names_its_image(value):
    images = floats(pixels(4))
    images[2, 1, 3, 5] = value
    with pytest.raises(ValueError, match=r"image 2 of 4 has NaN or infinity \(1 such\)"):
        PixelReader(MEAN, STD)(images)
