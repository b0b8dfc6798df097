"""Tensors and JSON in one safetensors file: written whole or not at all, read with suspicion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from rsquant.atomic import replacing
from rsquant.errors import CheckpointError
from rsquant.packed.plan import FORMAT
from rsquant.packed.strict_json import strict_json
from rsquant.system import special
from rsquant.text import brief

# As safetensors limits it, in bytes.
_LARGEST_HEADER = 100_000_000


def write_tensors(path: Path, tensors: Mapping[str, Any], metadata: dict[str, Any]) -> None:
    """Write a safetensors file whole or not at all; `metadata` is stored as JSON."""
    plain: dict[str, Tensor] = {}
    stored: set[int] = set()
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):  # what a module's get_extra_state returns
            raise CheckpointError(
                f"{path}: {name} is a {type(tensor).__name__}, and checkpoints hold tensors only; "
                "let get_extra_state return a tensor"
            )
        if reason := _unwritable(tensor):
            raise CheckpointError(
                f"{path}: {name} {reason}, which checkpoints do not hold; make it a dense tensor "
                "of another dtype, or register it with persistent=False"
            )
        value = tensor.detach().cpu().contiguous()
        storage = value.untyped_storage().data_ptr()
        # The library refuses tensors that share memory: a layer under two names is written twice.
        plain[name] = value.clone() if storage in stored else value
        stored.add(storage)
    # The library's own writing goes through a temporary file that a killed process leaves behind
    # under a name that says nothing, and makes files that their owner alone can read.
    content = to_bytes(plain, {"rsquant": json.dumps(metadata)})
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _unwritable(tensor: Tensor) -> str | None:
    """Why a tensor cannot be written; None if it can."""
    if tensor.layout != torch.strided:
        return f"is sparse ({tensor.layout})"
    if tensor.device.type == "meta":
        return "is on the meta device, without values"
    try:
        to_bytes({"": torch.empty(0, dtype=tensor.dtype)})
    except (KeyError, RuntimeError):
        return f"has the dtype {tensor.dtype}"
    return None


def read_tensors(path: Path, kind: str, version: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors and the metadata of a file written by `write_tensors`.

    Raises:
        CheckpointError: missing, truncated, not of this kind, or of a newer version.
    """
    if other := special(path):
        raise CheckpointError(f"{path}: is {other}; name a checkpoint file")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    try:
        # Its own bytes, not mapped: a file that is truncated meanwhile would end the process.
        data = path.read_bytes()
        tensors = from_bytes(data)
        header = strict_json(data[8 : 8 + int.from_bytes(data[:8], "little")].decode())
    # The library's own assertions, and dtypes it knows and torch does not.
    except (
        SafetensorError,
        OSError,
        ValueError,
        LookupError,
        RuntimeError,
        AssertionError,
    ) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: is not a complete safetensors file (truncated, or another format): "
            f"{reason:.200}"
        ) from error
    text = header.get("__metadata__", {}).get("rsquant", "{}")
    try:
        metadata = strict_json(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: its metadata is damaged: {error}") from error
    found = metadata.get("format") if isinstance(metadata, dict) else None
    if found == FORMAT:
        raise CheckpointError(
            f"{path}: is a packed file, where a checkpoint is needed; give the run or checkpoint "
            "that it was packed from"
        )
    if found != kind:
        raise CheckpointError(f"{path}: is a safetensors file, but not a {kind} file")
    given = metadata.get("version")
    if type(given) is not int or not 1 <= given <= version:
        raise CheckpointError(
            f"{path}: is {kind} version {brief(given)}, "
            f"this rsquant reads versions up to {version}; update rsquant"
        )
    return tensors, metadata


def metadata_of(path: Path) -> str | None:
    """The metadata that `write_tensors` stored in a safetensors file; None in all other files."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 2 <= size <= _LARGEST_HEADER:
                return None
            header = strict_json(file.read(size).decode())
        found = header["__metadata__"]["rsquant"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return found if isinstance(found, str) else None
