"""Linear layers of a class of its own that add nothing: timm's, made for autocast, is one."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional

# Of float64, relative to the largest value.
_ROUNDING = 1e-12


def linear_form(linear: nn.Linear) -> nn.Linear | None:
    """A Linear of a class of its own as a plain one with its parameters; None if it is none.

    What the class computes is seen from its results, in evaluation and in training.
    """
    added = set(dir(type(linear))) - set(dir(nn.Linear))
    if any(not name.startswith("_") for name in added):
        return None  # the network's forward may call it
    own = {name for name, _ in (*linear.named_parameters(), *linear.named_buffers())}
    if "weight" not in own or own - {"weight", "bias"}:
        return None  # a mask, or weights that are computed
    try:
        if not _is_linear(linear):
            return None
    except Exception:  # whatever a user's forward raises on inputs it was not made for
        return None
    new = nn.Linear(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
    new.weight, new.bias = linear.weight, linear.bias
    return new


@torch.no_grad()
def _is_linear(linear: nn.Linear) -> bool:
    twin = copy.deepcopy(linear).cpu().double()
    generator = torch.Generator().manual_seed(0)
    for parameter in twin.parameters():
        parameter.normal_(generator=generator)
    for training in (False, True):
        twin.train(training)
        for shape in ((3,), (2, 3)):
            x = torch.randn(*shape, linear.in_features, dtype=torch.float64, generator=generator)
            wanted = functional.linear(x, twin.weight, twin.bias)
            got = twin.forward(x)
            largest = float(wanted.abs().max())
            same = got.shape == wanted.shape
            if not same or not float((got - wanted).abs().max()) <= _ROUNDING * largest:
                return False
    return True
