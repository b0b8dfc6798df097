"""Mixup and CutMix of a batch, the same at all of its sizes, by torchvision's transforms.

Images of a batch are mixed with their neighbours, and so are their labels, which become shares of
the classes, (N, classes). A CutMix box is drawn on the largest size; on the others it is the same
region, to the nearest pixel. Where both are asked for, a batch has either, as often. Chance is of
(seed, epoch, step) alone.

Source: mixup (arXiv 1710.09412), CutMix (arXiv 1905.04899).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rsquant.data.batch import Batch
from rsquant.data.drawing import drawing_from

if TYPE_CHECKING:
    from torchvision.transforms import v2

# Keeps the streams apart from those that order a split.
_STREAM = 1


class Mixing:
    """Mixes batches.

    Args:
        mixup, cutmix: alpha of the Beta distribution of shares; 0: none of it.
        classes: how many there are.
        seed: of the run.
        device: where to mix.
    """

    def __init__(
        self, mixup: float, cutmix: float, classes: int, seed: int, device: torch.device
    ) -> None:
        self._mixers: list[Any] = []
        self._seed, self._device = seed, device
        if mixup or cutmix:
            # It takes a second to import.
            from torchvision.transforms import v2

            if mixup:
                self._mixers.append(v2.MixUp(alpha=mixup, num_classes=classes))
            if cutmix:
                self._mixers.append(v2.CutMix(alpha=cutmix, num_classes=classes))

    def __call__(self, batch: Batch, epoch: int, step: int) -> Batch:
        """A mixed batch, on the device; the batch itself where nothing is to be mixed.

        Args:
            batch: with one class for each image.
            epoch, step: in which it is used.
        """
        if not self._mixers:
            return batch
        labels = batch.labels.to(self._device)
        images = [x.to(self._device, non_blocking=True) for x in batch.images]
        stream = np.random.SeedSequence(self._seed, spawn_key=(epoch, step, _STREAM))
        with drawing_from(int(stream.generate_state(1, np.uint64)[0] >> 1)):
            mixer = self._mixers[int(torch.randint(len(self._mixers), ()))]
            params = mixer.make_params(images[:1])
        params |= {"labels": labels, "batch_size": len(labels)}
        side = images[0].shape[-1]
        mixed = [_mixed(mixer, x, params, x.shape[-1] / side) for x in images]
        return dataclasses.replace(batch, images=mixed, labels=mixer.transform(labels, params))


def _mixed(
    mixer: v2.MixUp | v2.CutMix, images: Tensor, params: dict[str, Any], scale: float
) -> Tensor:
    """(N, 3, R, R) uint8, R `scale` times the size that `params` are of."""
    if "box" in params:
        box = tuple(round(side * scale) for side in params["box"])
        cut: Tensor = mixer.transform(images, params | {"box": box})
        return cut
    shares: Tensor = mixer.transform(images.float(), params)
    return shares.round_().to(torch.uint8)
