"""A checkpoint as a network of the predictor; imports torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rsquant.data.transforms import normalise
from rsquant.errors import ConfigError, ModelError
from rsquant.models.checkpoint import load
from rsquant.nn.finite import first_bad
from rsquant.serve.network import MAPS_TASK
from rsquant.tasks import DEFAULT


class CheckpointNetwork:
    """A trained network in PyTorch; see `rsquant.serve.network.Network`."""

    def __init__(self, path: Path, threads: int | None) -> None:
        self._model = load(path).eval()
        task = self._model.spec.task
        if task not in (DEFAULT, MAPS_TASK):
            raise ConfigError(
                f"{path}: predicts {task}; here are labels of pictures, and of their pixels "
                f"({MAPS_TASK})"
            )
        self.gives_maps = task == MAPS_TASK
        if bad := first_bad(self._model.state_dict().items()):
            raise ModelError(f"{path}: {bad}; its predictions are meaningless, train it again")
        if threads is not None:
            torch.set_num_threads(threads)
        self.resolutions = tuple(self._model.resolutions)
        self.classes = tuple(self._model.spec.classes)

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of pixels (N, 3, R, R), see `Network`."""
        spec = self._model.spec
        return self._model(normalise(torch.from_numpy(images), spec.mean, spec.std)).numpy()
