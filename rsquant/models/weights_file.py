"""State dicts of others from files: safetensors, and torch's own read without pickled objects."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from torch import Tensor

from rsquant.errors import CheckpointError
from rsquant.system import special

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
# Where training programs keep a state dict beside other things, the first that is there is taken.
_NESTED = (
    "state_dict",
    "model",
    "model_state_dict",
    "model_state",
    "net",
    "module",
    "state_dict_ema",
    "model_ema",
    "ema",
)
# In torch's message about a class that it does not make.
_OBJECT = re.compile(r"GLOBAL (\S+)")
# What wrappers put in front of every name: DistributedDataParallel, torch.compile, Lightning.
_WRAPPERS = ("module.", "_orig_mod.", "model.")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of somebody else's, by the names of the network alone.

    Of a file with more in it the state dict is taken (under state_dict, model, ema and the like),
    and what a wrapper puts before every name ("module.") is left out.

    Raises:
        CheckpointError: missing, damaged, not such a file, or one that holds Python objects.
    """
    if kind := special(path):
        raise CheckpointError(f"{path}: is {kind}; name a file of weights")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file of weights")
    raw = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    tensors = _state_dict(raw)
    if not tensors:
        keys = ", ".join(map(str, list(raw)[:5])) if isinstance(raw, Mapping) else ""
        what = f"a {type(raw).__name__}" + (f" with {keys}" if keys else "")
        raise CheckpointError(
            f"{path}: has no state dict, but {what}; save one with "
            "torch.save(network.state_dict(), path)"
        )
    return _unwrapped(tensors)


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        # Its own bytes, not mapped: a file that is truncated meanwhile would end the process.
        return from_bytes(path.read_bytes())
    except (SafetensorError, OSError, ValueError, LookupError, RuntimeError) as error:
        raise CheckpointError(f"{path}: is no complete safetensors file: {_line(error)}") from error


def _torch_file(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    # Of a damaged file torch raises many kinds.
    except Exception as error:
        found = _OBJECT.search(str(error))
        if isinstance(error, pickle.UnpicklingError) and found:
            raise CheckpointError(
                f"{path}: cannot be read without running code: it holds a {found[1]:.100}; save "
                "the state dict alone: torch.save(network.state_dict(), path)"
            ) from error
        raise CheckpointError(f"{path}: is no complete file of torch.save") from error


def _line(error: BaseException, most: int = 200) -> str:
    return " ".join(str(error).split())[:most] or type(error).__name__


def _state_dict(raw: Any) -> dict[str, Tensor]:
    """The tensors of a state dict, or of the one that a file has among other things."""
    if not isinstance(raw, Mapping):
        return {}
    for name in _NESTED:
        if isinstance(raw.get(name), Mapping) and (found := _state_dict(raw[name])):
            return found
    return {str(name): value for name, value in raw.items() if isinstance(value, Tensor)}


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names without what a wrapper puts before all of them."""
    found = dict(tensors)
    again = True
    while again:
        again = False
        for prefix in _WRAPPERS:
            # n_averaged is torch's AveragedModel's own.
            inner = {k: v for k, v in found.items() if k != "n_averaged"}
            if inner and all(name.startswith(prefix) for name in inner):
                found = {name.removeprefix(prefix): value for name, value in inner.items()}
                again = True
    return found
