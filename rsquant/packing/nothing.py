"""What gives its input in evaluation, and so is no operation: dropout in all its forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn
from torch.nn import functional
from torchvision.ops import drop_block2d, stochastic_depth

from rsquant.nn.tracer import argument

_MODULES = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
# Where the argument `training` is, and its value where it is not given.
_FUNCTIONS: dict[Callable[..., Any], tuple[int, bool]] = {
    functional.dropout: (2, True),
    functional.dropout1d: (2, True),
    functional.dropout2d: (2, True),
    functional.dropout3d: (2, True),
    functional.alpha_dropout: (2, False),
    functional.feature_alpha_dropout: (2, False),
    stochastic_depth: (3, True),
    drop_block2d: (5, True),
}


def is_nothing(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a call gives its input, in a network in evaluation mode.

    Functions that are told to drop in evaluation too are something.

    Args:
        module: that is called, if one is.
    """
    if module is not None:
        return isinstance(module, _MODULES)
    if node.op == "call_method":
        return node.target == "contiguous"
    target: Any = node.target
    where = _FUNCTIONS.get(target) if node.op == "call_function" else None
    return where is not None and not argument(node, where[0], "training", where[1])
