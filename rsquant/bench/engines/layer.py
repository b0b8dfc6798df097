"""One convolution in an engine, to be timed on its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rsquant.bench.timing import Call


@dataclass(frozen=True)
class LayerCall:
    """A call that computes a convolution once, and the fewest bytes it has to move.

    Attributes:
        form: which form of the engine it is, for the reader.
    """

    call: Call
    bytes: int
    form: str


def inferring(module: nn.Module, x: Tensor, z: Tensor | None) -> Callable[[], Tensor]:
    """A call of a module on some values, and on those it adds."""

    def call() -> Tensor:
        with torch.inference_mode():
            result: Tensor = module(x, z)
            return result

    return call
