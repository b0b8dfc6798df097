"""torchvision's augmentations by name.

    trivialaugment  one of 14 changes, of a random strength: TrivialAugmentWide
    randaugment     two of them, of a fixed strength: RandAugment
    autoaugment     the policy learned on ImageNet: AutoAugment
    augmix          a mixture of chains of changes: AugMix
    colorjitter     brightness, contrast and saturation by up to 40 % each, in random order

They change the crop, after its flip and before it is resized, so that all sizes show the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from torch import Tensor

from rsquant.data.drawing import drawing_from


def augmented(image: Tensor, name: str, rng: np.random.Generator) -> Tensor:
    """An image with a random change, of the same size.

    Args:
        image: (3, H, W) uint8.
        name: see the module; "none" changes nothing, and draws nothing.
        rng: source of every random choice.
    """
    if name == "none":
        return image
    with drawing_from(int(rng.integers(2**63))):
        return _transform(name)(image)


@cache
def _transform(name: str) -> Callable[[Tensor], Tensor]:
    # It takes a second to import.
    from torchvision.transforms import v2

    bilinear = v2.InterpolationMode.BILINEAR
    made: Callable[[Tensor], Tensor] = {
        "trivialaugment": lambda: v2.TrivialAugmentWide(interpolation=bilinear),
        "randaugment": lambda: v2.RandAugment(interpolation=bilinear),
        "autoaugment": lambda: v2.AutoAugment(interpolation=bilinear),
        "augmix": lambda: v2.AugMix(interpolation=bilinear),
        "colorjitter": lambda: v2.ColorJitter(0.4, 0.4, 0.4),
    }[name]()
    return made
