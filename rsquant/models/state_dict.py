"""The tensors of a checkpoint into a network with the same ones, or the first difference."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rsquant.errors import CheckpointError
from rsquant.models.shared_memory import check_agree, is_expanded, write_once


def versions_of(state: Mapping[str, Any]) -> dict[str, int]:
    """The version of each module's part of a state dict, by the module's name; 1 is left out.

    Modules that changed their state once (torchvision's MNASNet) ask for it when they load.
    """
    metadata: Mapping[str, Mapping[str, Any]] = getattr(state, "_metadata", {})
    versions = {name: entry.get("version") for name, entry in metadata.items()}
    return {name: v for name, v in versions.items() if isinstance(v, int) and v != 1}


def load_into(
    model: nn.Module,
    tensors: dict[str, Tensor],
    path: Path,
    versions: Mapping[str, int] | None = None,
) -> None:
    """Copy tensors into a network. Raises CheckpointError naming the first difference.

    Args:
        path: where the tensors are from, for messages.
        versions: as `versions_of` the state when it was saved; None takes the network's own.
    """
    own = model.state_dict()
    check_tensors(path, tensors, own)
    check_agree(path, tensors, own)
    state: OrderedDict[str, Tensor] = OrderedDict(tensors)
    metadata = copy.deepcopy(getattr(own, "_metadata", {}))
    if versions is not None:
        if unknown := versions.keys() - metadata.keys():
            raise CheckpointError(
                f"{path}: its versions of modules are damaged: the network has no module "
                f"'{min(unknown):.100}'"
            )
        for name, entry in metadata.items():
            entry["version"] = versions.get(name, 1)
    # Where load_state_dict looks for versions; it has no argument for them.
    state._metadata = metadata  # type: ignore[attr-defined]
    # torch does not copy to these.
    expanded = {name for name, tensor in own.items() if is_expanded(tensor)}
    for name in expanded:
        del state[name]
    try:
        result = model.load_state_dict(state, strict=False)
        if left := sorted({*result.missing_keys, *result.unexpected_keys} - expanded):
            raise KeyError(f"{left[0]} is missing or surplus")
        for name in expanded:
            write_once(own[name], tensors[name])
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: the network does not accept its tensors: {reason:.300}"
        ) from error


def check_tensors(path: Path, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError naming the first tensor that the network does not have like that."""
    missing = sorted(own.keys() - tensors.keys())
    surplus = sorted(tensors.keys() - own.keys())
    if missing or surplus:
        what = f"lacks {missing[0]}" if missing else f"has {surplus[0]:.100} that the network lacks"
        raise CheckpointError(
            f"{path}: has a different architecture: {what} "
            f"({len(missing)} missing, {len(surplus)} surplus tensors)"
        )
    for name, tensor in own.items():
        check_shape(path, name, tensors, tensor.shape)
        if _kind(tensor) != _kind(tensors[name]):
            raise CheckpointError(
                f"{path}: is damaged: {name} holds {tensors[name].dtype}, the network's is "
                f"{tensor.dtype}"
            )


def check_shape(path: Path, name: str, tensors: Mapping[str, Tensor], shape: Sequence[int]) -> None:
    tensor = tensors.get(name)
    if tensor is None or tuple(tensor.shape) != tuple(shape):
        found = f"lacks {name}" if tensor is None else f"{name} is {tuple(tensor.shape)}"
        raise CheckpointError(
            f"{path}: has a different architecture: {found}, the network's is {tuple(shape)}"
        )


def _kind(tensor: Tensor) -> str:
    """Numbers of one kind are converted (a half becomes a float), others would be made up."""
    if tensor.is_complex():
        return "complex"
    return "float" if tensor.is_floating_point() else str(tensor.dtype)
