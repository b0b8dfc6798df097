"""Tensors that several files have in common, in one file beside them.

ONNX calls it external data: a tensor names a file in the same folder, an offset and a length.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto

from rsquant.errors import ExportError

# Smaller tensors stay where they are: their entry would be as long.
_SMALLEST = 256
_ALIGNMENT = 64

_Key = tuple[int, tuple[int, ...], bytes]


def share_tensors(protos: Sequence[onnx.ModelProto], name: str) -> bytes:
    """Move what at least two graphs have in common into one file; returns its content.

    Equal tensors are stored once. Metadata "weights" and "weights_sha256" of each graph say which
    file it needs.

    Args:
        protos: changed in place.
        name: of the file, which must lie in the folder of the graphs' own.
    """
    counts = Counter(key for p in protos for key in {_key(t) for t in p.graph.initializer})
    content = bytearray()
    offsets: dict[_Key, int] = {}
    for proto in protos:
        for tensor in proto.graph.initializer:
            key = _key(tensor)
            if counts[key] < 2 or len(key[2]) < _SMALLEST:
                continue
            if key not in offsets:
                content.extend(bytes(-len(content) % _ALIGNMENT))
                offsets[key] = len(content)
                content.extend(key[2])
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            place = {"location": name, "offset": offsets[key], "length": len(key[2])}
            for entry, value in place.items():
                tensor.external_data.add(key=entry, value=str(value))
    digest = hashlib.sha256(content).hexdigest()
    for proto in protos:
        proto.metadata_props.add(key="weights", value=name)
        proto.metadata_props.add(key="weights_sha256", value=digest)
    return bytes(content)


def _key(tensor: TensorProto) -> _Key:
    return tensor.data_type, tuple(tensor.dims), tensor.raw_data


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
