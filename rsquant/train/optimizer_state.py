"""What an optimizer remembers of each parameter, in a file: by slot and the parameter's number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from rsquant.packed.fields import FieldError, Fields

# Name in files -> torch's.
_SGD = {"momentum": "momentum_buffer"}
_ADAM = {"updates": "step", "mean": "exp_avg", "square": "exp_avg_sq"}
SLOTS = {*_SGD, *_ADAM}


def slots_of(optimizer: torch.optim.Optimizer) -> dict[str, str]:
    """Name in files -> torch's name, of what an optimizer keeps."""
    return _ADAM if isinstance(optimizer, torch.optim.Adam) else _SGD


def remembered(
    optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]
) -> Iterator[tuple[str, int, Tensor]]:
    """(slot, number of the parameter, value); a parameter without a gradient so far has none."""
    for slot, key in slots_of(optimizer).items():
        for index, parameter in enumerate(parameters):
            # Looking it up would make an entry, which Adam takes for one of an earlier step.
            value = optimizer.state[parameter].get(key) if parameter in optimizer.state else None
            if value is not None:
                yield slot, index, value


def listed_slots(
    fields: Fields, optimizer: torch.optim.Optimizer, parameters: int
) -> dict[str, tuple[int, ...]] | None:
    """From metadata: which parameters have a value, by slot; None: it does not say (before 0.2).

    Raises:
        FieldError: a wrong list, or one of another optimizer.
    """
    own = slots_of(optimizer)
    if foreign := [slot for slot in SLOTS - own.keys() if fields.has(slot)]:
        raise FieldError(f"it is of an optimizer with '{min(foreign)}', which this one has not")
    if own is _SGD and not fields.has("momentum"):
        return None
    found = {s: fields.integers(s, 0, parameters - 1, 0, parameters) for s in own}
    if len(set(found.values())) > 1:
        raise FieldError(f"its metadata: {', '.join(own)} are not of the same parameters")
    return found


def expected(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> dict[str, Tensor]:
    """A tensor like each that a file may have, by name."""
    count = torch.zeros((), device="meta")
    return {
        f"{slot}.{index}": count if slot == "updates" else parameter
        for slot in slots_of(optimizer)
        for index, parameter in enumerate(parameters)
    }


def restore(
    optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """Take back what `remembered` gave, by name; all of it, and of the right shapes.

    Raises:
        FieldError: a value that no training gives.
    """
    for slot, key in slots_of(optimizer).items():
        for index, parameter in enumerate(parameters):
            value = tensors.get(f"{slot}.{index}")
            if value is None:
                continue
            if slot in ("updates", "square") and bool((value < 0).any()):
                raise FieldError(f"{slot}.{index} has values below 0")
            if slot == "updates":
                copy = value.to("cpu", torch.float32).clone()
            else:
                # Same strides as the parameter, or the optimizer rounds in another order.
                copy = torch.empty_like(parameter).copy_(value)
            optimizer.state[parameter][key] = copy
