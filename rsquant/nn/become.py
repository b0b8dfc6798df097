"""Turn a module into another in place."""

from __future__ import annotations

from torch import nn


def become(module: nn.Module, new: nn.Module) -> None:
    """Make `module` what `new` is, for everything that refers to it.

    Networks also hold layers in plain lists and in attributes of other objects, where a new module
    in the parent's place would leave the old one running. `new` must not be used afterwards.
    """
    module.__dict__ = new.__dict__
    module.__class__ = type(new)
