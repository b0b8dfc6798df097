"""Files of several widths and those that end in maps: the C library gives the bits of Python."""

import ctypes
import itertools
import subprocess

import c_library
import every_operation
import numpy as np
import pytest

from rsquant.packed.file import open_packed
from rsquant.runtime import evaluation_square, load

NAMES = ("several", "narrow", "pixels")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Paths of packed networks, by name."""
    return every_operation.write(tmp_path_factory.mktemp("c"), NAMES)


def images(count, height, width):
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, 256, (count, 3, height, width), dtype=np.uint8)


@pytest.mark.parametrize("name", ("several", "narrow"))
def test_each_width_and_pair_of_bits_is_that_of_python(name, files, library):
    ours, theirs = load(files[name], 1, tune=False), library.open(files[name])
    known = [(one.width, *one.bits) for one in open_packed(files[name]).variants]
    assert theirs.settings == (*known,)
    assert len(known) == len(ours.widths) * len(ours.bits)
    for number, (width, *bits) in reversed([*enumerate(known)]):
        theirs.use(number)
        for size in (32, 29):
            pixels = images(2, size, size)
            expected = ours(pixels, width=width, bits=(*bits,))
            np.testing.assert_array_equal(theirs(pixels), expected, strict=True)


@pytest.mark.parametrize("options", ({"low_memory": 1}, {"kernel": b"direct"}))
def test_memory_and_kernels_change_no_bit_of_a_width(options, files, library):
    pixels = images(1, 32, 32)
    for name in ("several", "narrow"):
        theirs = library.open(files[name], **options)
        theirs.use(len(theirs.settings) - 1)
        width, *bits = theirs.settings[-1]
        expected = load(files[name], 1, tune=False)(pixels, width=width, bits=(*bits,))
        np.testing.assert_array_equal(theirs(pixels), expected)


def test_maps_and_masks_are_those_of_python(files, library):
    ours, theirs = load(files["pixels"], 1, tune=False), library.open(files["pixels"])
    assert library.c.rsq_gives_maps(theirs.handle) == 1
    # The map's own size, the images', larger, smaller, one side the same, one pixel.
    for (height, width), size in itertools.product(
        ((32, 32), (24, 24), (27, 34)), ((16, 16), (27, 34), (61, 50), (5, 16), (16, 3), (1, 1))
    ):
        pixels = images(2, height, width)
        assert theirs.map_size(height, width) == ours(pixels).shape[2:]
        np.testing.assert_array_equal(theirs.maps(pixels, size), ours.maps(pixels, size))
        np.testing.assert_array_equal(theirs.masks(pixels, size), ours.masks(pixels, size))


def test_logits_of_maps_are_those_at_their_own_size(files, library):
    ours, theirs = load(files["pixels"], 1, tune=False), library.open(files["pixels"])
    pixels = images(1, 26, 40)
    np.testing.assert_array_equal(theirs.maps(pixels, theirs.map_size(26, 40)), ours(pixels))


def test_calls_for_the_other_kind_of_network_are_refused(files, library):
    of_pixels, of_images = library.open(files["pixels"]), library.open(files["narrow"])
    assert library.c.rsq_gives_maps(of_images.handle) == library.c.rsq_gives_maps(None) == 0
    assert of_images.map_size(32, 32) == (1, 1)
    pixels = images(1, 32, 32)
    for call, message in (
        (lambda: of_pixels(pixels), "gives one prediction per pixel; call rsq_maps or rsq_masks"),
        (lambda: of_images.maps(pixels, (4, 4)), "gives one prediction per image; call rsq_run"),
        (lambda: of_images.masks(pixels, (4, 4)), "gives one prediction per image; call rsq_run"),
        (lambda: of_pixels.masks(pixels, (0, 4)), "map_height, map_width: must be 1 to 65536"),
        (lambda: of_pixels.maps(pixels, (4, 65537)), "map_height, map_width: must be 1 to 65536"),
    ):
        with pytest.raises(c_library.Refused, match=message) as caught:
            call()
        assert caught.value.status == c_library.ARGUMENT
    handle, c = of_pixels.handle, library.c
    data = pixels.ctypes.data_as(ctypes.c_void_p)
    for status in (
        c.rsq_maps(handle, data, 1, 32, 32, 4, 4, None),
        c.rsq_masks(handle, data, 1, 32, 32, 4, 4, None),
        c.rsq_masks(handle, None, 1, 32, 32, 4, 4, data),
        c.rsq_masks(handle, data, 0, 32, 32, 4, 4, data),
        c.rsq_map_size(handle, 32, 32, None, None),
    ):
        assert status == c_library.ARGUMENT
    assert c.rsq_maps(handle, data, 1, 0, 32, 4, 4, data) == c_library.SIZE


def test_the_example_names_the_commonest_classes_and_writes_the_mask(tmp_path, files, library):
    photo = np.random.default_rng(2).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    image, mask = tmp_path / "photo.ppm", tmp_path / "mask.pgm"
    image.write_bytes(b"P6 70 50 255\n" + photo.tobytes())
    command = [c_library.BUILD / "rsq-run", files["pixels"], image, "24", mask]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    ours = load(files["pixels"], 1, tune=False)
    expected = ours.masks(evaluation_square(photo, 24)[None], photo.shape[:2])[0]
    assert mask.read_bytes() == b"P5\n70 50\n2\n" + expected.tobytes()
    counts = np.bincount(expected.ravel(), minlength=3)
    likeliest = [c for c in np.argsort(-counts, kind="stable") if counts[c]]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [int(line[2]) for line in lines] == likeliest
    shares = [float(line[0]) for line in lines]
    np.testing.assert_allclose(shares, 100 * counts[likeliest] / (50 * 70), atol=0.0051)


def version(metadata, tensors):
    metadata["version"] = 6


def order(metadata, tensors):
    metadata["widths"].append({"width": 0.75, "channels": {}})


def alike(metadata, tensors):
    metadata["widths"].append({"width": 0.4999999, "channels": {}})


def many(metadata, tensors):
    widths = [{"width": w / 100, "channels": {}} for w in range(99, 67, -1)]
    metadata["widths"] = widths


def more(metadata, tensors):
    metadata["widths"][0]["channels"]["fc"]["in_features"] += 1000


def field(metadata, tensors):
    metadata["widths"][0]["channels"]["fc"]["out_features"] = 2


def step(metadata, tensors):
    metadata["widths"][0]["channels"]["none"] = {"in_channels": 1}


def odd(metadata, tensors):
    conv = next(s for s in metadata["steps"] if s["op"] == "conv")
    metadata["widths"][0]["channels"][conv["name"]]["groups"] = 65537


def fewer(metadata, tensors):
    metadata["widths"][0]["channels"]["layer1.0.conv2"]["out_channels"] += 1


def table(metadata, tensors):
    del tensors[next(name for name in tensors if name.startswith("0.5/"))]


def rows(metadata, tensors):
    name = next(name for name in tensors if name.startswith("0.5/"))
    tensors[name] = tensors[name][:, :1]


def surplus(metadata, tensors):
    name = next(name for name in tensors if name.startswith("0.5/"))
    tensors["0.25/" + name] = tensors[name]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (version, "'widths' are known from version 7"),
        (order, "'widths' must be below 1 and descend"),
        (alike, "'widths' must differ in their first six digits"),
        (many, "'bits' and 'widths' must be at most 64 settings in all"),
        (more, r"width 0.5, step 'fc': in_features must be 1 to \d+, got"),
        (field, "width 0.5, step 'fc': out_features must be a number of its channels, got 2"),
        (step, "width 0.5: there is no step 'none'"),
        (odd, "'groups' must be an integer from 1 to 65536"),
        (fewer, "'layer1.0.bn.norm' must be "),
        (table, "there is no tensor '0.5/"),
        (rows, "must have 4 rows"),
        (surplus, "belongs to no step"),
    ],
)
def test_damaged_widths_are_refused_by_both(damage, message, files, refused_by_both):
    refused_by_both(files["several"], damage, message)


def small(metadata, tensors):
    metadata["version"] = 6


def cascade(metadata, tensors):
    stages = [{"resolution": 24, "threshold": 0.5}, {"resolution": 32, "threshold": None}]
    metadata["cascade"] = {"stages": stages, "model": 1, "data": "x", "images": 9, "top1": 0.5,
                           "madds": 1.0, "curve": []}  # fmt: skip


def classes(metadata, tensors):
    metadata["model"]["num_classes"] = 4


def levels(metadata, tensors):
    name = next(n for n, t in tensors.items() if t.dtype == np.int8 and t.ndim == 4)
    tensors[name] = np.full_like(tensors[name], -128)


def head(metadata, tensors):
    """Bit planes are expected where there is a basis."""
    name = next(n for n, t in tensors.items() if t.dtype == np.int8 and t.ndim == 4)
    tensors[name.replace(".weight", ".basis")] = np.ones((7, 1), np.int8)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (small, "from version 7|before version 7"),
        (cascade, "cascade: is of logits of whole images, but these are maps"),
        (classes, "must be a float one of 4 channels, the classes"),
        (levels, "has values beyond 127 in size"),
        (head, "must be|bits"),
    ],
)
def test_damaged_maps_are_refused_by_both(damage, message, files, refused_by_both):
    refused_by_both(files["pixels"], damage, message)
