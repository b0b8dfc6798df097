"""Copies of networks as users have them: after training steps, with hooks and kept values."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn

from rsquant.errors import ModelError
from rsquant.nn.flow import tensors
from rsquant.system import refusal

M = TypeVar("M", bound=nn.Module)


def copied(network: M) -> M:
    """A deep copy. Values kept in attributes, of modules and of their hooks, lose their graph.

    Raises:
        ModelError: something cannot be copied, naming the module and its attribute.
    """
    try:
        return copy.deepcopy(network, _memo(network))
    except Exception as error:  # whatever a user's modules raise
        if refusal(error):
            raise  # the machine's, not the network's
        reason = str(error).split("\n")[0].split(". ")[0].rstrip(". ") or type(error).__name__
        raise ModelError(
            f"{_culprit(network)} cannot be copied ({reason}); remove it, or give it a __deepcopy__"
        ) from error


def _memo(network: nn.Module) -> dict[int, Any]:
    """Copies of the tensors that deepcopy refuses, as its memo.

    Those are results of operations that gradients flow through, and lazy buffers whose shape is
    not known yet.
    """
    lazy: Any = nn.parameter.UninitializedBuffer
    memo: dict[int, Any] = {}
    for module in network.modules():
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        owners = [module, *(getattr(hook, "__self__", hook) for hook in hooks)]
        for value in tensors([getattr(owner, "__dict__", {}) for owner in owners]):
            if isinstance(value, lazy):
                memo[id(value)] = lazy(device=value.device, dtype=value.dtype)
            elif not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return memo


def _culprit(network: nn.Module) -> str:
    """The innermost attribute that cannot be copied, or the network if each can be."""
    who = type(network).__name__
    for name, module in reversed(list(network.named_modules())):
        for attribute, value in vars(module).items():
            if attribute == "_modules" or isinstance(value, (Tensor, nn.Module)):
                continue  # its parts have been tried, and tensors are copied by the memo
            try:
                copy.deepcopy(value, _memo(module))
            except Exception:
                what = "a hook" if "_hooks" in attribute else f"its attribute '{attribute}'"
                return f"{name or who} ({type(module).__name__}): {what}"
    return f"{who}: it"
