"""The container of a packed network: a safetensors file that is aligned and checksummed.

    8 bytes   length of the header, little endian
    header    JSON, padded with spaces; {"__metadata__": {"rsquant": JSON text}, name: {"dtype",
              "shape", "data_offsets"}}; data begins at a multiple of 64
    data      tensors without holes; each begins at a multiple of 64, behind a filler tensor
              "padding.N" where one is needed (the safetensors library accepts no holes)
    checksum  the last tensor, U32 [1]: CRC-32 of every byte of the file before it

Nothing in a file is believed before it is checked: a file that is read is right in every offset,
or a PackedFileError. What is checked is a copy in memory, and it is the copy that is used: a mapped
file would change under the network when somebody writes to it, and end the process (SIGBUS) when
somebody truncates it.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rsquant.atomic import replacing
from rsquant.beside import beside
from rsquant.errors import PackedFileError
from rsquant.packed.strict_json import strict_json
from rsquant.system import special

ALIGNMENT = 64
# A ResNet-50's header has 60 KB.
MAX_HEADER = 16 * 2**20
MAX_RANK = 4
CHECKSUM, FILLER, METADATA = "checksum", "padding.", "__metadata__"
_DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "F32": np.dtype("<f4"),
    "U32": np.dtype("<u4"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

Tensors = dict[str, NDArray[Any]]


Used = TypeVar("Used")


def write_packed(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Any) -> None:
    """Write a file whole or not at all.

    Args:
        tensors: uint8, int8, int16 or float32, at most 4 dimensions, none of them 0; stored in
            this order.
        metadata: anything JSON can hold.
    Raises:
        ValueError: a tensor that the format does not hold.
        RsquantError: the file cannot be written; an older one of that name is kept.
    """
    stored: Tensors = {}
    offset = 0
    checksum = np.zeros(1, np.uint32)
    for name, given in {**tensors, CHECKSUM: checksum}.items():
        array = np.asarray(given, order="C")
        if array.dtype not in _NAMES or not 1 <= array.ndim <= MAX_RANK or array.size == 0:
            raise ValueError(
                f"write_packed: {name} must be uint8, int8, int16 or float32 with 1 to "
                f"{MAX_RANK} dimensions, none 0, got {array.dtype} {array.shape}"
            )
        if gap := -offset % ALIGNMENT:
            stored[f"{FILLER}{len(stored)}"] = np.zeros(gap, np.uint8)
        stored[name] = array
        offset += gap + array.nbytes
    header: dict[str, Any] = {METADATA: {"rsquant": json.dumps(metadata, allow_nan=False)}}
    offset = 0
    for name, array in stored.items():
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    if len(text) > MAX_HEADER:
        raise ValueError(f"write_packed: the header must have at most {MAX_HEADER} bytes")
    with replacing(Path(path)) as temporary, open(temporary, "wb") as file:
        crc = 0
        parts = [len(text).to_bytes(8, "little"), text]
        parts += [array.tobytes() for name, array in stored.items() if name != CHECKSUM]
        for part in parts:
            file.write(part)
            crc = zlib.crc32(part, crc)
        file.write(crc.to_bytes(4, "little"))


def read_packed(path: Path) -> tuple[Tensors, Any]:
    """Tensors and metadata of `read_as`."""
    return read_as(path, lambda tensors, metadata, _: (tensors, metadata))


def read_as(path: Path, use: Callable[[Tensors, Any, int], Used]) -> Used:
    """What `use` makes of a file written by `write_packed`, which is checked.

    Args:
        use: gets the tensors, read-only views of one copy of the file, which lives as long as one
            of them, so that what happens to the file afterwards changes nothing; the metadata as it
            was given, without NaN, infinity or a key twice; and the checksum, CRC-32 of the file,
            which tells it from others. The checksum is verified beside it: of another file than
            was written, what it makes and what it raises are dropped.
    Raises:
        PackedFileError: the file is missing, altered, truncated, or of another format.
    """
    path = Path(path)
    data = _contents(path)
    header, begin = _header(path, data)
    metadata = header.pop(METADATA, None)
    text = metadata.get("rsquant") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise PackedFileError(
            f"{path}: is not a packed network (no rsquant metadata); write one with 'rsquant pack'"
        )
    tensors = _tensors(path, header, data[begin:])
    stored = tensors.pop(CHECKSUM, None)
    if stored is None or stored.dtype != np.uint32 or stored.shape != (1,):
        raise damaged(path, "it has no checksum")
    end = data.size - stored.nbytes
    if stored.ctypes.data != data[end:].ctypes.data:
        raise damaged(path, "its checksum is not at its end")
    checksum, found = int(stored[0]), list[int]()
    try:
        # It would take a fifth of the time until a network is opened.
        with beside(lambda: zlib.crc32(data[:end].data)) as found:
            used = use(tensors, _json(path, text), checksum)
    except Exception:
        if found and found != [checksum]:
            raise damaged(path, "its checksum differs") from None
        raise
    if found != [checksum]:
        raise damaged(path, "its checksum differs")
    return used


def damaged(path: Path, what: str) -> PackedFileError:
    """The error for a file that is not what was written."""
    return PackedFileError(f"{path}: was altered or truncated ({what}); copy or pack it again")


def _contents(path: Path) -> NDArray[np.uint8]:
    """A copy of the file's bytes, read-only, at the beginning of a page."""
    if kind := special(path):
        raise PackedFileError(f"{path}: is {kind}, not a file; name a packed file")
    if not path.is_file():
        raise PackedFileError(f"{path}: no such file; write one with 'rsquant pack'")
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise damaged(path, "it is empty")
            # No page of it exists before it is written: a file that is much too large to be read
            # is refused here.
            copy = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if hasattr(mmap, "MADV_HUGEPAGE"):  # else each 4 KB take a fault: 5 of 7 ms
                with contextlib.suppress(OSError):  # a kernel without them
                    copy.madvise(mmap.MADV_HUGEPAGE)
            if file.readinto(copy) != size or file.read(1):
                raise damaged(path, "it changed while it was read")
    except OSError as error:
        raise PackedFileError(f"{path}: cannot be read ({error.strerror or error})") from error
    return np.frombuffer(memoryview(copy).toreadonly(), np.uint8)


def _header(path: Path, data: NDArray[np.uint8]) -> tuple[dict[str, Any], int]:
    """The header, and where the data begins."""
    length = int.from_bytes(data[:8].tobytes(), "little")
    if data.size < 8 or not 2 <= length <= min(MAX_HEADER, data.size - 8):
        raise PackedFileError(
            f"{path}: is not a packed network, or was altered or truncated (its header would have "
            f"{length} bytes, the file has {data.size}); write one with 'rsquant pack'"
        )
    try:
        text = data[8 : 8 + length].tobytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(path, "its header is not UTF-8") from error
    header = _json(path, text)
    if not isinstance(header, dict):
        raise damaged(path, "its header is not a JSON object")
    if (8 + length) % ALIGNMENT:
        raise PackedFileError(
            f"{path}: its data is not aligned to {ALIGNMENT} bytes; write it with 'rsquant pack'"
        )
    return header, 8 + length


def _tensors(path: Path, header: dict[str, Any], data: NDArray[np.uint8]) -> Tensors:
    """Views of the tensors but fillers; all must cover the data without hole or overlap."""
    found = []
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise damaged(path, f"tensor '{name}' is not described as a tensor")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise damaged(path, f"tensor '{name}' has the type {dtype!r:.20}")
        if not _sizes(shape) or not 1 <= len(shape) <= MAX_RANK or 0 in shape:
            raise damaged(path, f"tensor '{name}' has an invalid shape")
        if not _sizes(offsets) or len(offsets) != 2:
            raise damaged(path, f"tensor '{name}' has invalid offsets")
        # Python's integers: a product cannot overflow.
        if offsets[1] - offsets[0] != math.prod(shape) * _DTYPES[dtype].itemsize:
            raise damaged(path, f"tensor '{name}' has a size that does not match its shape")
        found.append((*offsets, name, _DTYPES[dtype], shape))
    end = 0
    tensors: Tensors = {}
    for begin, stop, name, dtype, shape in sorted(found, key=lambda one: one[:2]):
        if begin != end or stop > data.size:
            raise damaged(
                path, f"tensor '{name}' overlaps another, leaves a hole or exceeds the data"
            )
        if begin % ALIGNMENT and not _is_filler(name):
            raise damaged(path, f"tensor '{name}' is not aligned to {ALIGNMENT} bytes")
        if not _is_filler(name):
            tensors[name] = data[begin:stop].view(dtype).reshape(shape)
        end = stop
    if end != data.size:
        raise damaged(path, f"{data.size - end} bytes belong to no tensor")
    return tensors


def _is_filler(name: str) -> bool:
    return name.startswith(FILLER) and name.removeprefix(FILLER).isdigit()


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _json(path: Path, text: str) -> Any:
    """JSON without the extensions of Python's reader."""
    try:
        return strict_json(text)
    except ValueError as error:
        raise damaged(path, f"its description cannot be read: {error}") from error
