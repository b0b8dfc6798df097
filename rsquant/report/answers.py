"""What a network says of every validation image at every size: what most sections are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsquant.data.split import Split
from rsquant.evaluate.accuracy import evaluate
from rsquant.nn.switchable import SwitchableNetwork


@dataclass(frozen=True)
class Answers:
    """Of N readable images.

    Attributes:
        logits: size in pixels -> (N, C) float32.
        labels: (N,) int64, positions in the classes.
        positions: (N,) int64, in the split, ascending.
    """

    logits: dict[int, NDArray[np.float32]]
    labels: NDArray[np.int64]
    positions: NDArray[np.int64]

    def right(self, size: int) -> NDArray[np.bool_]:
        """(N,), whether the highest logit is the label's."""
        found: NDArray[np.bool_] = self.logits[size].argmax(1) == self.labels
        return found

    def top1(self, size: int) -> float:
        """Percent of images that are right."""
        return 100.0 * float(self.right(size).mean())


def answers(
    network: SwitchableNetwork,
    split: Split,
    sizes: Sequence[int],
    workers: int = 1,
    batch: int = 64,
    device: torch.device | str = "cpu",
    tick: Callable[[int], None] = lambda images: None,
    log: Callable[[str], None] = lambda line: None,
) -> Answers:
    """Run a network on a split at some sizes, trained or not.

    Raises:
        DataError: more than 1 % of the images are unreadable, or all.
    """
    logits: dict[int, list[Tensor]] = {size: [] for size in sizes}
    labels: list[Tensor] = []
    positions: list[Tensor] = []

    def note(size: int, outputs: Tensor, of: Tensor, where: Tensor) -> None:
        logits[size].append(outputs.cpu())
        if size == sizes[0]:
            labels.append(of.cpu())
            positions.append(where)

    evaluate(
        network,
        split,
        sizes,
        batch=batch,
        workers=workers,
        device=device,
        tick=tick,
        log=log,
        each=note,
    )
    return Answers(
        {size: torch.cat(parts).numpy() for size, parts in logits.items()},
        torch.cat(labels).numpy(),
        torch.cat(positions).numpy(),
    )
