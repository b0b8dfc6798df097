"""The container: what is written is read, and nothing else is."""

import json
import zlib

import numpy as np
import pytest
from safetensors.numpy import load_file

from rsquant.errors import PackedFileError
from rsquant.packed.format import read_as, read_packed, write_packed

TENSORS = {
    "a.weight": np.arange(7, dtype=np.uint8),
    "b": np.arange(-30, 30, dtype=np.int8).reshape(3, 4, 5),
    "c": np.linspace(-1, 1, 65, dtype=np.float32),
    "padding.weight": np.ones(64, np.uint8),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "x.rsq"
    write_packed(path, TENSORS, {"answer": [1, 2.5, "ä"]})
    return path


def rewrite(path, change):
    """Change the header of a file, and repair its length and checksum."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = change(data[8 : 8 + length].decode())
    text = header.encode()
    text += b" " * (-(8 + len(text)) % 64)
    seal(path, len(text).to_bytes(8, "little") + text + data[8 + length :])


def seal(path, data):
    body = data[:-4]
    path.write_bytes(body + zlib.crc32(body).to_bytes(4, "little"))


def change_entry(name, **fields):
    def change(text):
        header = json.loads(text)
        header[name].update(fields)
        return json.dumps(header)

    return change


def test_what_is_written_is_read(path):
    tensors, metadata = read_packed(path)
    assert metadata == {"answer": [1, 2.5, "ä"]}
    assert list(tensors) == list(TENSORS)
    for name, array in TENSORS.items():
        assert tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(tensors[name], array)
        assert tensors[name].ctypes.data % 64 == 0
        assert not tensors[name].flags.writeable


def test_the_safetensors_library_reads_it(path):
    tensors = load_file(path)
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(tensors[name], array)
    assert tensors["checksum"][0] == zlib.crc32(path.read_bytes()[:-4])


def test_tensors_outlive_the_call_that_mapped_them(path):
    weight = read_packed(path)[0]["c"]
    path.unlink()
    np.testing.assert_array_equal(weight, TENSORS["c"])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(3, np.float64),
        np.zeros((0, 3), np.uint8),
        np.zeros((1,) * 5, np.int8),
        np.array(1, np.int8),
    ],
)
def test_what_the_format_does_not_hold_is_not_written(tmp_path, array):
    with pytest.raises(ValueError, match="write_packed: a must be uint8, int8, int16 or float32"):
        write_packed(tmp_path / "x.rsq", {"a": array}, {})
    assert not list(tmp_path.iterdir())


def test_every_altered_byte_is_noticed(path):
    data = bytearray(path.read_bytes())
    for position in range(0, len(data), 7):
        data[position] ^= 16
        path.write_bytes(data)
        with pytest.raises(PackedFileError, match=r"x\.rsq: .*(altered|not a packed network)"):
            read_packed(path)
        data[position] ^= 16


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_made_of_an_altered_file_is_dropped(path, fails):
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)

    def use(tensors, metadata, checksum):
        assert metadata == {"answer": [1, 2.5, "ä"]}
        if fails:
            raise RuntimeError("of a number that nobody wrote")

    with pytest.raises(PackedFileError, match=r"altered or truncated \(its checksum differs\)"):
        read_as(path, use)


def test_what_is_made_of_a_file_is_returned_and_what_is_raised_is_raised(path):
    found = read_as(path, lambda tensors, metadata, checksum: (tensors["b"].sum(), checksum))
    assert found == (TENSORS["b"].sum(), zlib.crc32(path.read_bytes()[:-4]))
    with pytest.raises(KeyError, match="d"):
        read_as(path, lambda tensors, metadata, checksum: tensors["d"])


def test_every_truncation_is_noticed(path):
    data = path.read_bytes()
    for length in range(0, len(data), 13):
        path.write_bytes(data[:length])
        with pytest.raises(PackedFileError, match="altered or truncated"):
            read_packed(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(PackedFileError, match="belong to no tensor"):
        read_packed(path)


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"dtype": "F64"}, "has the type 'F64'"),
        ({"dtype": ["U8"]}, "has the type"),
        ({"shape": [-1, -60]}, "an invalid shape"),
        ({"shape": [60.0]}, "an invalid shape"),
        ({"shape": [True, 60]}, "an invalid shape"),
        ({"shape": 60}, "an invalid shape"),
        ({"shape": []}, "an invalid shape"),
        ({"shape": [0, 60]}, "an invalid shape"),
        ({"shape": [1, 1, 1, 1, 60]}, "an invalid shape"),
        ({"shape": [2**62, 4]}, "a size that does not match its shape"),
        ({"shape": [2**64 + 60]}, "a size that does not match its shape"),
        ({"shape": [59]}, "a size that does not match its shape"),
        ({"data_offsets": [0, 60]}, "overlaps another, leaves a hole or exceeds the data"),
        ({"data_offsets": [65, 125]}, "overlaps another, leaves a hole or exceeds the data"),
        ({"data_offsets": [-60, 0]}, "invalid offsets"),
        ({"data_offsets": [124, 64]}, "a size that does not match"),
        (
            {"data_offsets": [2**70, 2**70 + 60]},
            "overlaps another, leaves a hole or exceeds the data",
        ),
        ({"data_offsets": [64]}, "invalid offsets"),
        ({"data_offsets": None}, "invalid offsets"),
        ({"more": 1}, "not described as a tensor"),
    ],
)
def test_a_hostile_entry_is_refused(path, fields, message):
    rewrite(path, change_entry("b", **fields))
    with pytest.raises(PackedFileError, match=message):
        read_packed(path)


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda t: "[" * 100_000, "cannot be read"),
        (lambda t: "[]", "its header is not a JSON object"),
        (lambda t: t.replace('"b":', '"c":'), "a name occurs twice"),
        (lambda t: t.replace("[3,4,5]", "[3,4,NaN]"), "a number is not finite"),
        (lambda t: t.replace("[3,4,5]", "[3,4,1e999]"), "a number is not finite"),
        (lambda t: t.replace("[3,4,5]", "[3,4," + "9" * 5000 + "]"), "cannot be read"),
        (lambda t: t.replace("2.5", "-Infinity"), "a number is not finite"),
        (lambda t: t.replace("[1, 2.5", "[" * 50_000 + "[1, 2.5"), "cannot be read"),
        (lambda t: t.replace('"rsquant"', '"other"'), "no rsquant metadata"),
        (lambda t: t.replace('"__metadata__":{', '"b":{'), "a name occurs twice"),
        (lambda t: t.replace('"checksum"', '"check"'), "it has no checksum"),
        (lambda t: t.rstrip()[:-1], "cannot be read"),
    ],
)
def test_a_hostile_header_is_refused(path, change, message):
    rewrite(path, change)
    with pytest.raises(PackedFileError, match=message):
        read_packed(path)


def test_a_header_of_any_length_is_refused_without_reading_it(path):
    data = path.read_bytes()
    for length in (0, 1, len(data) - 7, 2**31, 2**63, 2**64 - 1):
        path.write_bytes(length.to_bytes(8, "little") + data[8:])
        with pytest.raises(PackedFileError, match="is not a packed network, or was altered"):
            read_packed(path)


def test_an_unaligned_header_is_refused(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    longer = (length + 1).to_bytes(8, "little") + data[8 : 8 + length] + b" "
    seal(path, longer + data[8 + length :])
    with pytest.raises(PackedFileError, match="not aligned to 64 bytes"):
        read_packed(path)


def test_files_that_are_none_are_named(tmp_path):
    with pytest.raises(PackedFileError, match="no such file; write one with 'rsquant pack'"):
        read_packed(tmp_path / "none.rsq")
    with pytest.raises(PackedFileError, match="is a folder, not a file"):
        read_packed(tmp_path)
    (tmp_path / "text.rsq").write_text("hello, this is no packed network at all")
    with pytest.raises(PackedFileError, match="is not a packed network"):
        read_packed(tmp_path / "text.rsq")
