"""Files that mean harm: the C library refuses what Python refuses, and runs what Python runs."""

import copy
import ctypes
import json
import zlib

import c_library
import handmade_network
import integer_maps
import integer_networks
import numpy as np
import pytest

from rsquant.errors import ModelError, PackedFileError
from rsquant.packed.format import write_packed
from rsquant.packed.schema import to_json
from rsquant.runtime import load

PIXELS = np.random.default_rng(1).integers(0, 256, (1, 3, 12, 14), dtype=np.uint8)

ODD = (
    *(None, True, -1, 0, 1, 2, 3, 127, 128, 255, 2**31, 2**70, -(2**70)),
    *(0.5, -0.0, 1e-400, 1e38, 1e308, "", "x" * 10_000, "first", "same", "\n\x1b[31m"),
    *([], [[]], {}, [1, 2], [1, 2, 3], [None, None]),
)


def paths(value, path=()):
    """Every place in a JSON value."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from paths(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from paths(value[index], (*path, index))


def with_value(tree, path, value):
    tree = copy.deepcopy(tree)
    *parents, last = path
    holder = tree
    for key in parents:
        holder = holder[key]
    holder[last] = value
    return tree


def python(path):
    """Logits, or maps of them, or the error."""
    try:
        return load(path, 1, tune=False)(PIXELS)
    except (PackedFileError, ModelError) as error:
        return error


def agree(library, path):
    """Compare both; whether the file was accepted."""
    expected = python(path)
    try:
        session = library.open(path)
        gives_maps = library.c.rsq_gives_maps(session.handle)
        size = session.map_size(*PIXELS.shape[2:])
        found = session.maps(PIXELS, size) if gives_maps else session(PIXELS)
    except c_library.Refused as error:
        assert isinstance(expected, Exception), f"Python runs what C refuses: {error}"
        assert error.status in (c_library.FILE, c_library.SIZE, c_library.UNSUPPORTED), error
        assert str(error).isprintable() and 10 < len(str(error)) <= 2100
        return False
    assert not isinstance(expected, Exception), f"C runs what Python refuses: {expected}"
    np.testing.assert_array_equal(found, expected)
    return True


MADE = {
    "handmade": handmade_network.handmade,
    "integers": integer_networks.every_step,
    "integer_maps": integer_maps.every_form,
}


@pytest.fixture(params=[*MADE])
def network(request):
    """(metadata, tensors), free to be changed."""
    return described(*MADE[request.param]())


def described(plan, tensors):
    """(metadata, tensors) of a version that the C library reads."""
    return json.loads(json.dumps(to_json(plan))) | {"version": c_library.VERSION}, tensors


def test_odd_values_in_the_metadata(network, library, tmp_path):
    metadata, tensors = network
    path, accepted, refused = tmp_path / "x.rsq", 0, 0
    for number, place in enumerate(list(paths(metadata))[1:]):
        # Every value everywhere would take a minute: at each place another one.
        value = ODD[number % len(ODD)]
        write_packed(path, tensors, with_value(metadata, place, value))
        if agree(library, path):
            accepted += 1
        else:
            refused += 1
    assert accepted > 3
    assert refused > 100


def test_odd_tensors(network, library, tmp_path):
    metadata, tensors = network
    path = tmp_path / "x.rsq"
    changes = (
        lambda a: a[:1],
        lambda a: np.full_like(a, 100),
        lambda a: np.zeros_like(a) - np.ones_like(a),
        lambda a: a.astype(np.int16),
        lambda a: (1e36 * a.astype(np.float32)).astype(np.float32),
        lambda a: np.full(a.shape, np.nan, np.float32),
    )
    refused = 0
    for number, name in enumerate(tensors):
        for change in (changes[number % 6], changes[(number + 1) % 6]):
            write_packed(path, {**tensors, name: change(tensors[name])}, metadata)
            refused += not agree(library, path)
        write_packed(path, {k: v for k, v in tensors.items() if k != name}, metadata)
        refused += not agree(library, path)
    assert refused > 20


def sealed(data):
    """Bytes with a checksum that is right."""
    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")


def with_header(data, change):
    length = int.from_bytes(data[:8], "little")
    text = change(data[8 : 8 + length].decode()).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return sealed(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.fixture
def data(tmp_path):
    metadata, tensors = described(*handmade_network.handmade())
    write_packed(tmp_path / "x.rsq", tensors, metadata)
    return (tmp_path / "x.rsq").read_bytes()


def refused(library, data):
    """The text with which a file is refused."""
    with pytest.raises(c_library.Refused) as caught:
        library.open(data)
    assert caught.value.status == c_library.FILE
    return str(caught.value)


def test_altered_and_cut_files(data, library):
    for position in range(0, len(data), 61):
        changed = bytearray(data)
        changed[position] ^= 16
        refused(library, bytes(changed))
    for length in range(1, len(data), 97):
        refused(library, data[:length])
    assert "belong to no tensor" in refused(library, data + b"\0")
    assert "it is empty" in refused(library, b"")


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda t: "[" * 100_000, "cannot be read"),
        (lambda t: "[]", "its header is not a JSON object"),
        (lambda t: t.replace('"n1.norm":', '"n2.norm":'), "a name occurs twice"),
        (lambda t: t.replace("[4,2,8]", "[4,2,NaN]", 1), "a number is not finite"),
        (lambda t: t.replace("[4,2,8]", "[4,2,1e999]", 1), "a number is not finite"),
        (lambda t: t.replace("[4,2,8]", "[4,2,08]", 1), "cannot be read"),
        (lambda t: t.replace("[4,2,8]", "[4,2,8.]", 1), "cannot be read"),
        (lambda t: t.replace("[4,2,8]", "[4,2,-8]", 1), "an invalid shape"),
        (lambda t: t.replace("[4,2,8]", f"[{2**62},4]", 1), "does not match its shape"),
        (lambda t: t.replace("[4,2,8]", "[4,2," + "9" * 5000 + "]", 1), "cannot be read"),
        (lambda t: t.replace('"F32"', '"F64"', 1), "unknown type"),
        (lambda t: t.replace('"rsquant"', '"other"', 1), "no rsquant metadata"),
        (lambda t: t.replace('"checksum"', '"check"'), "it has no checksum"),
        (lambda t: t.rstrip()[:-1], "cannot be read"),
        (lambda t: t.replace('"n1.norm"', '"n1.\\ud800norm"'), "belongs to no step|no tensor"),
    ],
)
def test_hostile_headers(change, message, data, library):
    text = refused(library, with_header(data, change))
    assert any(part in text for part in message.split("|")), text


def test_headers_of_any_length(data, library):
    for length in (0, 1, len(data) - 7, 2**31, 2**63, 2**64 - 1):
        text = refused(library, length.to_bytes(8, "little") + data[8:])
        assert "is not a packed network" in text


@pytest.mark.parametrize(
    "name,shown",
    [
        ("Grünfink \U0001f426", "Grünfink \U0001f426"),
        ("a\0b", "a\\x00b"),
        ("\x1b[31mred\n", "\\x1b[31mred\\x0a"),
        ("\u202eabc\x7f", "\\xe2\\x80\\xaeabc\\x7f"),
        ("\ud800x", "\\xed\\xa0\\x80x"),
        ("x" * 10_000, "x" * 2_000),
    ],
)
def test_names_of_classes_are_safe_to_show(name, shown, library, tmp_path):
    metadata, tensors = described(*handmade_network.handmade())
    metadata["model"]["classes"][0] = name
    write_packed(tmp_path / "x.rsq", tensors, metadata)
    session = library.open(tmp_path / "x.rsq")
    assert library.c.rsq_class_name(session.handle, 0).decode() == shown
    assert library.c.rsq_class_name(session.handle, 1) == b"b"


def test_newer_files_and_operations_are_named(library, tmp_path):
    metadata, tensors = described(*handmade_network.handmade())
    path = tmp_path / "x.rsq"
    write_packed(path, tensors, {**metadata, "version": 1000})
    with pytest.raises(c_library.Refused, match=r"version 1000, .* up to \d+: use") as caught:
        library.open(path)
    assert caught.value.status == c_library.UNSUPPORTED
    metadata["steps"][6]["op"] = "attention"
    write_packed(path, tensors, metadata)
    with pytest.raises(c_library.Refused, match="unsupported operation attention: use") as caught:
        library.open(path)
    assert caught.value.status == c_library.UNSUPPORTED


def test_files_that_are_none_are_named(library, tmp_path):
    for path, message in [(tmp_path / "none.rsq", "no such file"), (tmp_path, "is not a file")]:
        with pytest.raises(c_library.Refused, match=message) as caught:
            library.open(path)
        assert caught.value.status == c_library.FILE


def test_wrong_arguments_are_named(data, library):
    c, session = library.c, library.open(data)
    handle, pixels = session.handle, PIXELS.ctypes.data_as(ctypes.c_void_p)
    logits = (ctypes.c_float * 3)()

    def open_memory(size):
        opened = ctypes.byref(ctypes.c_void_p())
        return c.rsq_open_memory(data, ctypes.c_size_t(size), None, opened)

    calls = [
        (lambda: c.rsq_open(None, None, ctypes.byref(ctypes.c_void_p())), "path: must not be NULL"),
        (lambda: c.rsq_open(b"x", None, None), "session: must not be NULL"),
        (lambda: open_memory(2**64 - 1), "bytes: must be at most 9223372036854775807, got 18446"),
        (lambda: open_memory(2**63), "bytes: must be at most 9223372036854775807, got 9223372"),
        (lambda: c.rsq_run(None, pixels, 1, 12, 14, logits), "session: must not be NULL"),
        (lambda: c.rsq_run(handle, None, 1, 12, 14, logits), "images: must not be NULL"),
        (lambda: c.rsq_run(handle, pixels, 1, 12, 14, None), "logits: must not be NULL"),
        (lambda: c.rsq_run(handle, pixels, 0, 12, 14, logits), "count: must be 1 or more, got 0"),
        (lambda: c.rsq_use_setting(handle, 1), "index: must be 0 to 0, got 1"),
        (lambda: c.rsq_crop(pixels, 4, 0, 8, pixels), "must be 1 to 65536, got 0"),
    ]
    for call, message in calls:
        assert call() == c_library.ARGUMENT
        assert message in library.error()
    for options, message in [
        ({"threads": -1}, "threads: must be 0 to"),
        ({"keep_sizes": -1}, "keep_sizes: must be 0 or more"),
        ({"isa": b"mmx"}, "isa: must be one of scalar, got 'mmx'"),
        ({"kernel": b"magic"}, "kernel: scalar has .*direct"),
    ]:
        with pytest.raises(c_library.Refused, match=message) as caught:
            library.open(data, **options)
        assert caught.value.status == c_library.ARGUMENT
    c.rsq_close(None)
    assert c.rsq_class_name(handle, 3) is None and c.rsq_resolution(handle, 2) == 0
    assert c.rsq_class_name(handle, 0) == b"a"


def test_sizes_that_are_none_are_named(data, library):
    session = library.open(data)
    for shape in [(0, 5), (5, -1), (65537, 8)]:
        status = library.c.rsq_run(session.handle, b"", 1, *shape, (ctypes.c_float * 3)())
        assert status == c_library.SIZE
        assert "sides must be 1 to 65536" in library.error()
    with pytest.raises(c_library.Refused, match="20x20 is not packed") as caught:
        library.open(data, interpolate=0)(np.zeros((1, 3, 20, 20), np.uint8))
    assert caught.value.status == c_library.SIZE
