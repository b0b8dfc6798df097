"""Tensors that several files have in common, in one file beside them.

ONNX calls it external data: a tensor names a file in the same folder, an offset and a length.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import onnx
from onnx import TensorProto

from rsquant.errors import ExportError

# Smaller tensors stay where they are: their entry would be as long.
_SMALLEST = 256
_ALIGNMENT = 64

# Type, shape and the hash of the content: the content itself is not kept.
_Key = tuple[int, tuple[int, ...], bytes]


class SharedTensors:
    """What at least two of several graphs have in common, as the content of one file.

    All graphs are added first, then each is told where its tensors are, so that one of them at a
    time need be in memory.

    Args:
        name: of the file, which must lie in the folder of the graphs' own.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.content = bytearray()
        self._offsets: dict[_Key, int | None] = {}  # None: one graph has it so far

    def add(self, proto: onnx.ModelProto) -> None:
        """Take into the content what a graph before this one has, too. Equal tensors once."""
        for key, data in {_key(t): t.raw_data for t in _large(proto)}.items():
            if key not in self._offsets:
                self._offsets[key] = None
            elif self._offsets[key] is None:
                self.content.extend(bytes(-len(self.content) % _ALIGNMENT))
                self._offsets[key] = len(self.content)
                self.content.extend(data)

    def move(self, proto: onnx.ModelProto) -> None:
        """Put places in the file into a graph that was added, for what the file has.

        Metadata "weights" and "weights_sha256" say which file it needs.
        """
        for tensor in _large(proto):
            if (offset := self._offsets[_key(tensor)]) is None:
                continue
            place = {"location": self.name, "offset": offset, "length": len(tensor.raw_data)}
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for entry, value in place.items():
                tensor.external_data.add(key=entry, value=str(value))
        proto.metadata_props.add(key="weights", value=self.name)
        proto.metadata_props.add(key="weights_sha256", value=self._digest)

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def _large(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    return (t for t in proto.graph.initializer if len(t.raw_data) >= _SMALLEST)


def _key(tensor: TensorProto) -> _Key:
    return tensor.data_type, tuple(tensor.dims), hashlib.sha256(tensor.raw_data).digest()


def check_not_needed(weights: Path, new: Sequence[Path]) -> None:
    """Raise ExportError if files that stay need the weight file that is to be replaced.

    Args:
        new: the files that are replaced with it.
    """
    if not os.path.exists(weights):
        return
    names = {path.name for path in new}
    for other in sorted(weights.parent.glob("*.onnx")):
        if other.name in names:
            continue
        try:
            proto = onnx.load(str(other), load_external_data=False)
        except Exception:  # not an ONNX file: it needs nothing
            continue
        places = {e.value for t in proto.graph.initializer for e in t.external_data}
        if weights.name in places:
            raise ExportError(
                f"{weights}: cannot be replaced, {other.name} needs it unchanged; export all sizes "
                "(`resolutions=()`), or choose another folder (`out`)"
            )
