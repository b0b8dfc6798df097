"""Integer networks on every instruction set, with 1 and 3 threads, against docs/integer.md."""

from typing import NamedTuple

import integer_networks
import numpy as np
import pytest
from back_ends import ISAS, assert_equal_everywhere, pixels_of

from rsquant import runtime
from rsquant.errors import PackedFileError
from rsquant.kernels.backends import native
from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed
from rsquant.packed.format import write_packed
from rsquant.packed.program import run
from rsquant.packed.schema import to_json

# 20 x 19 has BatchNorms and scales between those of 24 and of 16.
SIZES = ((24, 24), (20, 19))
# Seed, whether BatchNorms are extreme, and channels: of odd number, of whole vectors, of more.
KINDS = {
    "plain": (0, False, 8),
    "extreme": (1, True, 17),
    "wide": (2, False, 64),
    "large": (3, True, 64),
}


class Example(NamedTuple):
    path: object
    pixels: tuple
    expected: tuple


@pytest.fixture(scope="module", params=KINDS)
def example(request, tmp_path_factory):
    """A file, images of SIZES, and all values of each."""
    plan, tensors = integer_networks.every_step(*KINDS[request.param])
    path = tmp_path_factory.mktemp("integers") / "net.rsq"
    write_packed(path, tensors, to_json(plan))
    pixels = tuple(pixels_of(2, *size) for size in SIZES)
    return Example(path, pixels, tuple(integer_networks.run(plan, tensors, x) for x in pixels))


def test_the_specification_computes_what_the_document_says(example):
    for pixels, expected in zip(example.pixels, example.expected, strict=True):
        program = build_program(open_packed(example.path), *pixels.shape[2:])
        _, values = run(program, pixels, every=True)
        assert len(values) == len(expected)
        for one, other in zip(values, expected, strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype


def test_values_are_not_all_the_same(example):
    """Else the other tests would say little."""
    for expected in example.expected:
        several = [len(np.unique(value)) > 1 for value in expected]
        assert np.mean(several) > 0.8


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 3])
def test_kernels_compute_the_same_bytes(example, isa, threads, memory):
    session = runtime.load(example.path, threads, memory, isa, tune=False)
    for pixels, expected in zip(example.pixels, example.expected, strict=True):
        # Memory is shared: the last value first, so that nothing is left of an earlier run.
        for number in reversed(range(len(expected))):
            for i in range(len(pixels)):
                found = session.value(pixels[i : i + 1], number)
                np.testing.assert_array_equal(found, expected[number][i])
        np.testing.assert_array_equal(session(pixels), expected[-1][:, 0, 0])


def first_kernels():
    return [
        (isa, kernel)
        for isa in ISAS
        for kernel in native().all_conv_kernels(isa)
        if kernel.startswith("image")
    ]


@pytest.mark.parametrize(("isa", "kernel"), first_kernels())
def test_every_kernel_of_the_image_computes_the_same_bytes(example, isa, kernel):
    session = runtime.load(example.path, 2, isa=isa, kernel=kernel, tune=False)
    for pixels, expected in zip(example.pixels, example.expected, strict=True):
        # Weights of some examples are too large for image_bytes.
        assert kernel in session.kernels(pixels.shape[2]).values() or kernel == "image_bytes"
        np.testing.assert_array_equal(session.value(pixels[:1], 1), expected[1][0])
        np.testing.assert_array_equal(session(pixels), expected[-1][:, 0, 0])


def whole_weights_of_bytes(folder, channels, version):
    """A file with a convolution of so many channels of bytes by int8 weights."""
    network = integer_networks.Network()
    stem, _ = network.conv("stem", 0, channels, 3, 2, keep=True, scale="sum", zero=128, relu=False)
    last, _ = network.conv("second", stem, 8, 3, 1, 1, keep=True, scale="sum2", zero=0, relu=True)
    rng = np.random.default_rng(0)
    network.tensors["second.weight"] = rng.integers(-64, 65, (8, 3, 3, channels)).astype(np.int8)
    del network.tensors["second.basis"]
    plan = {**to_json(network.finish(last, "fin")), "version": version}
    write_packed(folder / "bytes.rsq", network.tensors, plan)
    return folder / "bytes.rsq"


@pytest.mark.parametrize(
    ("channels", "version", "message"),
    [
        (8, 7, r"'second.weight' of int8 is of bytes from version 8 of the format on"),
        # Kernels know a convolution of the image by its four channels and whole weights.
        (4, 8, r"'second.weight' of int8 cannot be of 4 channels of bytes"),
    ],
)
def test_int8_weights_of_bytes_are_refused(tmp_path, channels, version, message):
    with pytest.raises(PackedFileError, match=message):
        open_packed(whole_weights_of_bytes(tmp_path, channels, version))


@pytest.mark.parametrize("channels", [3, 8])
def test_int8_weights_of_bytes(tmp_path, channels):
    assert_equal_everywhere(whole_weights_of_bytes(tmp_path, channels, 8), SIZES)
