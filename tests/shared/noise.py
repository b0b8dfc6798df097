"""A split of random images."""

import numpy as np
import torch

from rsquant.data.images import UnreadableImage


class Noise:
    """Split of random images; those listed in `bad` cannot be read."""

    def __init__(self, count: int, bad: tuple[int, ...] = ()) -> None:
        self.count, self.bad = count, bad

    def __len__(self) -> int:
        return self.count

    def label(self, i: int) -> int:
        return i % 5

    def name(self, i: int) -> str:
        return f"noise/{i}"

    def image(self, i: int, min_side: int | None = None) -> torch.Tensor:
        if i in self.bad:
            raise UnreadableImage("empty file")
        pixels = np.random.default_rng(i).integers(0, 256, (50, 40, 3), dtype=np.uint8)
        return torch.from_numpy(pixels).permute(2, 0, 1)
