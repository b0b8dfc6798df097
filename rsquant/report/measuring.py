"""How a report is measured, and on how many images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Measuring:
    """How a report is measured.

    Attributes:
        step: told what is being done, and with how many images.
        tick: told of images done.
        log: told of unreadable images.
    """

    workers: int = 1
    device: torch.device | str = "cpu"
    step: Callable[[str, int], None] = lambda what, images: None
    tick: Callable[[int], None] = lambda images: None
    log: Callable[[str], None] = lambda line: None


def affordable(cost: float, budget: float, low: int, high: int) -> int:
    """How many images a budget of multiply-adds suffices for, at `cost` each; low to high.

    Counted, and not timed: so that a report is of the same images whatever else the machine does. A
    narrow network in fake quantization makes some 1e10 a second on a slow processor.
    """
    return int(max(min(low, high), min(high, budget // max(1.0, cost))))
