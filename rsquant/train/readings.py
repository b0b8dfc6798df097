"""Figures of steps, read from the device some steps later, so that no step waits for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

# Steps between two readings: so many steps go on after a loss that is not finite, which is found
# before anything is saved.
INTERVAL = 16


class Reading(NamedTuple):
    """What a step gave: means over its images."""

    step: int
    images: int
    figures: dict[str, float]


class Readings:
    """Figures that were not read yet.

    Args:
        device: where they are. On the CPU there is nothing to wait for, so they are read each step.
    """

    def __init__(self, device: torch.device) -> None:
        self._interval = 1 if device.type == "cpu" else INTERVAL
        self._waiting: list[tuple[int, int, dict[str, Tensor | float]]] = []

    def add(self, step: int, images: int, figures: Mapping[str, Tensor | float]) -> None:
        """Note the figures of a step, scalars."""
        self._waiting.append((step, images, dict(figures)))

    @property
    def are_due(self) -> bool:
        """Whether it is time to read them."""
        return len(self._waiting) >= self._interval

    def read(self) -> Iterator[Reading]:
        """Each step's, in order, once; one transfer from the device for all."""
        waiting, self._waiting = self._waiting, []
        values = [value for _, _, figures in waiting for value in figures.values()]
        tensors = [value.detach().double() for value in values if isinstance(value, Tensor)]
        numbers = iter(torch.stack(tensors).tolist() if tensors else [])
        for step, images, figures in waiting:
            read = {
                name: next(numbers) if isinstance(value, Tensor) else float(value)
                for name, value in figures.items()
            }
            yield Reading(step, images, read)
