"""The crop in C++ beside torch's, Pillow's and the one in an ONNX file."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from rsquant.data import evaluation_crop as torch_crop
from rsquant.kernels import available, backends
from rsquant.runtime import evaluation_crop

# Portrait, landscape, square; enlarged from almost nothing; strips longer than 64 times their short
# side; exactly the resized size; larger than a block of rows; margins of every remainder modulo 4.
SIZES = [
    (61, 83),
    (97, 60),
    (101, 333),
    (3, 5),
    (1, 1),
    (2, 133),
    (301, 4),
    (54, 54),
    (54, 71),
    (73, 54),
    (300, 257),
]


def noise(height, width):
    rng = np.random.default_rng([height, width])
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def in_torch(image, resolution):
    return torch_crop(torch.from_numpy(image).permute(2, 0, 1), resolution).numpy()


@pytest.mark.parametrize("resolution", [1, 7, 48, 96, 224])
@pytest.mark.parametrize("height,width", SIZES)
def test_pixels_are_torchs(height, width, resolution):
    """Exactly: both add up the same 16-bit weights in integers, in two passes, rounded alike."""
    image = noise(height, width)
    got = evaluation_crop(image, resolution)
    assert got.dtype == np.uint8 and got.flags.c_contiguous
    np.testing.assert_array_equal(got, in_torch(image, resolution))


@pytest.mark.parametrize("isa", [isa.name for isa in available() if isa.usable])
@pytest.mark.parametrize("height,width", [(97, 60), (1, 1), (700, 1024)])
def test_every_instruction_set_gives_the_same_pixels(isa, height, width):
    """One to thirty taps."""
    image = noise(height, width)
    with backends.force(isa):
        got = evaluation_crop(image, 61)
    np.testing.assert_array_equal(got, in_torch(image, 61))


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_stay_what_they_are(value):
    image = np.full((67, 45, 3), value, np.uint8)
    assert (evaluation_crop(image, 33) == value).all()


@pytest.mark.parametrize("height,width", [(375, 500), (40, 41)])
def test_pixels_are_pillows_within_one_level(height, width):
    """Pillow has 22 fractional bits where torch has 14 to 22: a near-tie may round otherwise.

    Twice, once per pass; the second pass averages what the first left, so the sum is one level.
    """
    image = noise(height, width)
    side = 109
    size = (side, side * height // width) if width < height else (side * width // height, side)
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR), int)
    top, left = (round((n - 96) / 2) for n in resized.shape[:2])
    expected = resized[top : top + 96, left : left + 96].transpose(2, 0, 1)
    assert np.abs(evaluation_crop(image, 96) - expected).max() <= 1


@pytest.mark.parametrize("view", ["flipped", "sliced", "planes", "read-only"])
def test_any_order_of_memory_will_do(view):
    image = noise(70, 91)
    if view == "flipped":
        image = image[::-1, ::-1]
    elif view == "sliced":
        image = image[3:60:2, 5:80]
    elif view == "planes":
        image = np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0)
    else:
        image.flags.writeable = False
    before = image.copy()
    got = evaluation_crop(image, 32)
    np.testing.assert_array_equal(got, in_torch(before, 32))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    "image,kind,message",
    [
        (np.zeros((9, 9, 3), np.float32), TypeError, "array of uint8, got float32"),
        ([[[0, 0, 0]]], TypeError, "array of uint8, got list"),
        (np.zeros((9, 9), np.uint8), ValueError, r"must be \(H, W, 3\), R G B, got \(9, 9\)"),
        (np.zeros((9, 9, 4), np.uint8), ValueError, r"R G B, got \(9, 9, 4\); convert"),
        (np.zeros((3, 9, 9), np.uint8), ValueError, r"got \(3, 9, 9\)"),
        (np.zeros((0, 9, 3), np.uint8), ValueError, "has no pixels"),
    ],
)
def test_what_is_no_image_is_named(image, kind, message):
    with pytest.raises(kind, match=message):
        evaluation_crop(image, 8)


@pytest.mark.parametrize("resolution", [0, -3])
def test_a_resolution_of_no_pixels_is_named(resolution):
    with pytest.raises(ValueError, match=f"resolution: must be 1 or more, got {resolution}"):
        evaluation_crop(noise(5, 5), resolution)


def test_it_needs_numpy_alone():
    code = (
        "import sys, numpy; from rsquant.runtime import evaluation_crop as crop;"
        "assert crop(numpy.zeros((9, 7, 3), 'u1'), 4).shape == (3, 4, 4);"
        "print([m for m in ('torch', 'PIL', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
