"""Whether a network's tensors are numbers that it can compute with.

Neither the loss nor the accuracy tells: a quantizer maps NaN to a level like any other value.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Far above any value of a trained network, and far enough below float32's 3.4e38 that a layer's
# sum of products does not overflow.
LARGEST = 1e30


def first_bad(tensors: Iterable[tuple[str, Any]]) -> str | None:
    """The first tensor with values that no healthy network has, and what is wrong with it.

    Wrong are NaN, infinity, a size above LARGEST, and a running variance below 0. Integers and
    empty tensors pass.

    Args:
        tensors: names and tensors, as of `state_dict().items()`; what is no tensor passes.
    Returns:
        A clause like "body.conv1.weight has NaN values"; None if all is well.
    """
    for name, tensor in tensors:
        # An extra state may be anything; whoever writes it refuses it.
        if not isinstance(tensor, Tensor):
            continue
        # Of sparse ones and those without memory, too.
        if tensor.layout != torch.strided or tensor.device.type == "meta":
            continue
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        if tensor.element_size() == 1:  # torch compares no values of 8 bits
            tensor = tensor.float()
        # One pass, without a copy; NaN wins both.
        low, high = (float(end) for end in torch.aminmax(tensor.detach()))
        size = max(abs(low), abs(high))
        if low != low:
            return f"{name} has NaN values"
        if size == float("inf"):
            return f"{name} has infinite values"
        if size > LARGEST:
            return f"{name} has values of up to {size:.1e} (healthy ones stay below {LARGEST:.0e})"
        if name.rpartition(".")[2] == "running_var" and low < 0:
            return f"{name} has a negative variance, {low:.1e}"
    return None
