"""Tensors of a network that share memory: tied weights, layers under two names, expanded buffers.

A checkpoint has each of them whole. Reading it writes to the same memory several times, and the
last would win: so all must say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from rsquant.errors import CheckpointError


def is_expanded(tensor: Tensor) -> bool:
    """Whether one element in memory stands for several, as `Tensor.expand` gives it."""
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.numel() > 0 and any(side > 1 and stride == 0 for side, stride in sides)


def write_once(target: Tensor, value: Tensor) -> None:
    """Copy to an expanded tensor, which torch refuses: the first of equal elements are taken."""
    for axis, stride in enumerate(target.stride()):
        if stride == 0 and target.shape[axis] > 1:
            target, value = target.narrow(axis, 0, 1), value.narrow(axis, 0, 1)
    target.copy_(value)


@torch.no_grad()
def check_agree(path: Path, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError naming tensors that share memory in a network and differ in a file.

    Args:
        path: for messages.
        tensors: of the file.
        own: of the network, by the same names and of the same shapes.
    """
    for names in _groups(own):
        storage = own[names[0]].untyped_storage()
        memory = torch.UntypedStorage(storage.nbytes(), device=storage.device)
        views = {name: _placed(own[name], memory) for name in names}
        for name, view in views.items():
            write_once(view, tensors[name])
        for name, view in views.items():
            if not _equal(view, tensors[name].to(view)):
                raise CheckpointError(f"{path}: {_difference(name, names, own)}")


def _groups(own: Mapping[str, Tensor]) -> list[list[str]]:
    """Names of tensors that share memory with each other, or with themselves."""
    groups: dict[int, list[str]] = {}
    for name, tensor in own.items():
        # Conjugate and negative views read their memory in another way.
        plain = tensor.layout == torch.strided and not tensor.is_conj() and not tensor.is_neg()
        if plain and tensor.device.type != "meta" and tensor.numel():
            groups.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
    return [names for names in groups.values() if len(names) > 1 or _overlaps(own[names[0]])]


def _overlaps(tensor: Tensor) -> bool:
    """Whether its elements may share memory."""
    first, last = _range(tensor)
    return last - first < tensor.numel() * tensor.element_size()


def _range(tensor: Tensor) -> tuple[int, int]:
    """The bytes of its storage that it lies in."""
    size, first = tensor.element_size(), int(tensor.storage_offset())
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    last = first + sum(int((side - 1) * stride) for side, stride in sides)
    return first * size, (last + 1) * size


def _placed(tensor: Tensor, memory: torch.UntypedStorage) -> Tensor:
    """A tensor of the same form in other memory."""
    empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return empty.set_(memory, tensor.storage_offset(), tensor.shape, tensor.stride())


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.is_floating_point() and one.element_size() == 1:  # torch compares no values of 8 bits
        one, other = one.float(), other.float()
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _difference(name: str, names: list[str], own: Mapping[str, Tensor]) -> str:
    first, last = _range(own[name])
    for other in names:
        start, end = _range(own[other])
        if other != name and start < last and first < end:
            return (
                f"{other} and {name} share memory in the network given (tied weights, or a layer "
                "under two names), and differ in the file; load it into a network where they do not"
            )
    return (
        f"{name} repeats its elements in the network given (expand()), and they differ in the "
        "file; give the network a tensor of its own there (contiguous())"
    )
