"""Integer networks that end in a map: the C library gives the bits of Python."""

import c_library
import every_operation
import integer_maps
import numpy as np
import pytest
import torch
from shallow import RESNET10

import rsquant
from rsquant.errors import PackedFileError
from rsquant.packed import program as packed_program
from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed
from rsquant.packed.format import read_packed, write_packed
from rsquant.packed.plan import BYTE_MAPS
from rsquant.packed.schema import to_json
from rsquant.packing.write import pack
from rsquant.runtime import load

NAMES = ("every_form", "integer_pixels")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Paths of packed networks, by name."""
    folder = tmp_path_factory.mktemp("c")
    plan, tensors = integer_maps.every_form()
    write_packed(folder / "every_form.rsq", tensors, to_json(plan))
    return {"every_form": folder / "every_form.rsq"} | every_operation.write(folder, NAMES[1:])


def images(count, height, width):
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, 256, (count, 3, height, width), dtype=np.uint8)


def assert_equal_to_python(path, library, sizes, **options):
    """Logits at the map's own size, and maps and masks at the images' and others."""
    ours, theirs = load(path, 1, tune=False), library.open(path, **options)
    for height, width in sizes:
        pixels = images(2, height, width)
        expected = ours(pixels)
        own = theirs.map_size(height, width)
        assert own == expected.shape[2:]
        assert len(np.unique(expected)) > expected.size // 10
        np.testing.assert_array_equal(theirs.maps(pixels, own), expected, strict=True)
        for size in ((height, width), (31, 50), (3, 1)):
            np.testing.assert_array_equal(theirs.maps(pixels, size), ours.maps(pixels, size))
            np.testing.assert_array_equal(theirs.masks(pixels, size), ours.masks(pixels, size))


@pytest.mark.parametrize("name", NAMES)
def test_logits_maps_and_masks_are_those_of_python(name, files, library):
    # Sizes of the file, one between, a rectangle.
    sizes = ((32, 32), (24, 24)) if name == "integer_pixels" else ((24, 24), (16, 16))
    assert_equal_to_python(files[name], library, (*sizes, (23, 23), (19, 27)))


@pytest.mark.parametrize("options", ({"low_memory": 1}, {"threads": 3}, {"kernel": b"direct"}))
def test_memory_threads_and_kernels_change_no_bit(options, files, library):
    for name in NAMES:
        assert_equal_to_python(files[name], library, ((24, 24),), **options)


@pytest.mark.parametrize("size", ((24, 24), (20, 17)))
def test_logits_are_those_of_the_specification(size, files, library):
    path = files["every_form"]
    pixels, session = images(1, *size), library.open(path)
    expected = packed_program.run(build_program(open_packed(path), *size), pixels)
    found = session.maps(pixels, session.map_size(*size))
    np.testing.assert_array_equal(found, expected)


def refinenet(arch, width, folder):
    """A file whose BatchNorms differ at each size and channel."""
    torch.manual_seed(0)
    given = {"task": "segmentation", "integer": True}
    network = rsquant.create(f"{arch}_{RESNET10}", 2, 2, (64, 32), 3, width=width, **given)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "bn" in name or "norm" in name:
                parameter += 0.3 * torch.randn_like(parameter)
    return pack(network.eval(), folder / "net.rsq").path


def test_a_light_refinenet_is_that_of_python(tmp_path, library):
    path = refinenet("refinenet_lw_bn", 2, tmp_path)
    assert read_packed(path)[1]["version"] == BYTE_MAPS
    assert_equal_to_python(path, library, ((32, 32), (35, 40)))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ("refinenet_lw", "refinenet", "refinenet_bn"))
def test_other_refinenets_too(arch, tmp_path, library):
    assert_equal_to_python(refinenet(arch, 5, tmp_path), library, ((64, 64), (32, 32), (47, 38)))


def step(metadata, name):
    return next(step for step in metadata["steps"] if step["name"] == name)


def resizes(metadata, tensors):
    """An older file whose first int8 weights of bytes are bit planes."""
    metadata["version"] = BYTE_MAPS - 1
    tensors["own.weight"] = np.zeros((1, 4, 8), np.uint8)
    tensors["own.basis"] = np.ones((4, 1), np.int8)


def whole(metadata, tensors):
    metadata["version"] = BYTE_MAPS - 1


def codes(metadata, tensors):
    step(metadata, "enlarged")["input"] = 2


def kind(metadata, tensors):
    """A resized value keeps its scale, and another's cannot be added."""
    step(metadata, "enlarged")["input"] = 1


def image(metadata, tensors):
    """Four channels of bytes, as the image has."""
    step(metadata, "own")["groups"] = 1
    tensors["own.weight"] = np.ones((4, 3, 3, 4), np.int8)


def planes(metadata, tensors):
    """Bit planes give no floats of bytes."""
    tensors["last.weight"] = np.zeros((1, 3, 16), np.uint8)
    tensors["last.basis"] = np.ones((3, 1), np.int8)


def levels(metadata, tensors):
    tensors["last.weight"] = np.full_like(tensors["last.weight"], -65)


def least(metadata, tensors):
    tensors["last.weight"] = np.full_like(tensors["last.weight"], -128)


def shape(metadata, tensors):
    tensors["last.weight"] = tensors["last.weight"][:, :1]


def scale(metadata, tensors):
    tensors["last.scale"] = -tensors["last.scale"]


def classes(metadata, tensors):
    metadata["model"]["num_classes"] = 4


def result(metadata, tensors):
    """A map of bytes at the end."""
    metadata["steps"] = metadata["steps"][:1]
    metadata["model"]["num_classes"] = 8
    for name in [name for name in tensors if not name.startswith("stem")]:
        del tensors[name]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (resizes, r"step \d+ \(enlarged\): resizes bytes, which is known from version 8 of the fo"),
        (whole, r"step \d+ \(own\): 'own.weight' of int8 is of bytes from version 8 of the format"),
        (codes, r"step \d+ \(enlarged\): needs a float value or bytes, 2 is codes"),
        (kind, "adds bytes of the scale 'stem' to ones of 'deep'"),
        (image, r"step \d+ \(own\): 'own.weight' of int8 cannot be of 4 channels of bytes"),
        (planes, r"step \d+ \(last\): 7 is bytes, and its epilogue has the other"),
        (levels, "reads bytes with levels up to 65, beyond 64"),
        (least, "'last.weight' has values beyond 127 in size"),
        (shape, r"'last.weight' must be (int8|I8) \(3, 3, 3, 8\)"),
        (scale, "'last.scale' has negative values"),
        (classes, "must be a float one of 4 channels, the classes, is float of 3"),
        (result, "must be a float one of 8 channels, the classes, is bytes of 8"),
    ],
)
def test_damaged_files_are_refused_by_both(damage, message, files, refused_by_both):
    refused_by_both(files["every_form"], damage, message)


@pytest.mark.parametrize(
    ("kernel", "end", "message"),
    [
        (31, {}, "131657 products of up to 16320 overflow 32 bits"),
        (7, {"keep": True, "scale": "x", "zero": 0}, r"sums of up to \d+, beyond 16777216"),
    ],
)
def test_sums_of_many_weights_are_refused_by_both(kernel, end, message, library, tmp_path):
    net = integer_maps.Network()
    stem, _ = net.conv("stem", 0, 137, 1, 1, 0, keep=True, scale="stem", zero=0)
    head = net.whole("head", stem, 3, kernel, **end)
    net.tensors["head.weight"][0, 0, 0, 0] = 64
    if end:
        net.whole("last", head, 3, 1)
    write_packed(tmp_path / "net.rsq", net.tensors, to_json(net.plan()))
    with pytest.raises(PackedFileError, match=message):
        open_packed(tmp_path / "net.rsq")
    with pytest.raises(c_library.Refused, match=message):
        library.open(tmp_path / "net.rsq")
