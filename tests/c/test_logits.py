"""The C library gives the bits of the Python runtime."""

import subprocess

import c_library
import every_operation
import handmade_network
import integer_networks
import numpy as np
import pytest
import torch

import rsquant
from rsquant.packed.format import write_packed
from rsquant.packed.schema import to_json
from rsquant.packing.write import pack
from rsquant.runtime import evaluation_crop, evaluation_square, load

# Of the others: test_widths_and_maps.py, test_integer_maps.py.
OTHERS = {"several", "narrow", "pixels", "integer_pixels"}
PACKED = tuple(sorted(every_operation.NETWORKS.keys() - OTHERS))
NAMES = (*PACKED, "handmade", "integers", "extremes")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Paths of packed networks that have every operation between them, by name."""
    folder = tmp_path_factory.mktemp("c")
    found = every_operation.write(folder, PACKED)
    for name, (plan, tensors) in {
        "handmade": handmade_network.handmade(),
        "integers": integer_networks.every_step(),
        "extremes": integer_networks.every_step(1, extreme=True),
    }.items():
        found[name] = str(folder / f"{name}.rsq")
        write_packed(found[name], tensors, {**to_json(plan), "version": c_library.VERSION})
    return found


def images(count, height, width):
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, 256, (count, 3, height, width), dtype=np.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_python(name, files, library):
    ours = load(files[name], 1, tune=False)
    theirs = library.open(files[name])
    assert theirs.resolutions == ours.resolutions
    smallest, largest = min(ours.resolutions), max(ours.resolutions)
    sizes = [(size, size) for size in ours.resolutions]
    # Between two of its sizes, beyond them, and no square.
    sizes += [(smallest + 3, smallest + 3), (largest + 5, smallest + 1)]
    for height, width in sizes:
        pixels = images(2, height, width)
        np.testing.assert_array_equal(theirs(pixels), ours(pixels), strict=True)


@pytest.mark.parametrize("name", ("stem", "integer", "floats", "mobile"))
@pytest.mark.parametrize("options", ({"low_memory": 1}, {"threads": 3}, {"kernel": b"direct"}))
def test_memory_threads_and_kernels_change_no_bit(name, options, files, library):
    pixels = images(1, 32, 32)
    expected = load(files[name], 1, tune=False)(pixels)
    np.testing.assert_array_equal(library.open(files[name], **options)(pixels), expected)


def test_low_memory_of_small_and_large_layers_changes_no_bit(tmp_path, library):
    torch.manual_seed(0)
    network = rsquant.create("resnet10", 2, 2, (32,), 7, width=64, grid="coarse")
    path = pack(network.eval(), tmp_path / "wide.rsq").path
    pixels = images(2, 32, 32)
    expected = load(path, 1, tune=False)(pixels)
    np.testing.assert_array_equal(library.open(path, low_memory=1)(pixels), expected)


@pytest.fixture(scope="module")
def several_bits(tmp_path_factory):
    path = tmp_path_factory.mktemp("bits") / "bits.rsq"
    network = rsquant.create(
        "resnet18", resolutions=(32, 24), num_classes=3, width=4, bits=("4/4", "2/2", "1/2")
    )
    pack(network.eval(), path)
    return path


def test_each_setting_of_bits_is_that_of_python(several_bits, library):
    ours, theirs = load(several_bits, 1, tune=False), library.open(several_bits)
    assert ours.bits == ((4, 4), (2, 2), (1, 2))
    assert theirs.settings == tuple((1.0, *pair) for pair in ours.bits)
    for size in (32, 27, 24):
        pixels = images(1, size, size)
        for number in (1, 2, 0):
            theirs.use(number)
            expected = ours(pixels, bits=ours.bits[number])
            np.testing.assert_array_equal(theirs(pixels), expected)


def test_threads_may_share_a_session(files, library):
    session, ours = library.open(files["small"]), load(files["small"], 1, tune=False)
    sizes = [24, 32, 29, 40] * 3
    found = c_library.in_threads(
        [lambda size=size: session(images(1, size, size)) for size in sizes]
    )
    for size, logits in zip(sizes, found, strict=True):
        np.testing.assert_array_equal(logits, ours(images(1, size, size)))


def test_sizes_that_are_not_packed_are_forgotten_and_made_again(files, library):
    session = library.open(files["small"], keep_sizes=1)
    first = [session(images(1, size, size)) for size in (25, 26, 27)]
    again = [session(images(1, size, size)) for size in (25, 26, 27)]
    np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize("shape", [(40, 51), (90, 33), (500, 3), (32, 32)])
def test_a_photograph_is_cropped_as_in_evaluation(shape, library):
    photo = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = evaluation_crop(photo, 28)
    np.testing.assert_array_equal(c_library.crop(library, photo, 28), expected)


@pytest.mark.parametrize("shape", [(40, 51), (500, 3), (1, 1), (28, 28)])
def test_a_photograph_becomes_a_square_as_in_evaluation(shape, library):
    photo = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = evaluation_square(photo, 28)
    np.testing.assert_array_equal(c_library.square(library, photo, 28), expected)


def test_the_example_classifies_a_photograph(tmp_path, files, library):
    photo = np.random.default_rng(2).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    image, logits = tmp_path / "photo.ppm", tmp_path / "logits"
    image.write_bytes(b"P6\n# a comment\n70 50\n255\n" + photo.tobytes())
    command = [c_library.BUILD / "rsq-run", files["small"], image, "24", logits]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    pixels = evaluation_crop(photo, 24)[None]
    expected = load(files["small"], 1, tune=False)(pixels)[0]
    np.testing.assert_array_equal(np.fromfile(logits, np.float32), expected)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [int(line[2]) for line in lines] == list(np.argsort(-expected, kind="stable"))
    assert abs(sum(float(line[0]) for line in lines) - 100) < 0.05


def test_the_example_names_what_is_wrong(tmp_path, files, library):
    image = tmp_path / "photo.ppm"
    image.write_bytes(b"P6 4 4 255\n" + bytes(10))
    run = c_library.BUILD / "rsq-run"
    for arguments, message in [
        ([], "usage: rsq-run"),
        (["none.rsq", image], "none.rsq: no such file"),
        ([files["small"], tmp_path / "none.ppm"], "none.ppm: No such file or directory"),
        ([files["small"], tmp_path], f"{tmp_path}: Is a directory"),
        ([files["small"], files["small"]], "small.rsq: is no binary PPM"),
        ([files["small"], image], "photo.ppm: ends too early"),
        ([files["small"], image, "0"], "SIZE: must be 1 to 65536"),
        ([files["small"], image, "24x"], "SIZE: must be 1 to 65536"),
        ([files["small"], image, ""], "SIZE: must be 1 to 65536"),
    ]:
        done = subprocess.run([run, *arguments], capture_output=True, text=True)
        assert done.returncode == 1
        assert message in done.stderr
