"""An exported ONNX file as a network of the predictor; imports onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from rsquant.errors import ConfigError
from rsquant.serve.network import MAPS_TASK


class OnnxNetwork:
    """A file of `rsquant export`, of one size or switchable; see `rsquant.serve.network.Network`.

    Files of one size that take pixels (exported with preprocessing) and crop them are refused: they
    do so by themselves. Those of maps resize a whole square to itself, and switchable ones only
    normalise.
    """

    def __init__(self, path: Path, threads: int | None) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has a class of its own for each kind of damage
            reason = " ".join(str(error).split())
            raise ConfigError(f"{path}: onnxruntime cannot load it: {reason}") from error
        known = self._session.get_modelmeta().custom_metadata_map
        if not {"rsquant_version", "resolution", "resolutions", "classes"} <= set(known):
            raise ConfigError(f"{path}: was not written by rsquant; export a network of rsquant")
        task = known.get("task")
        if task not in (None, MAPS_TASK):
            raise ConfigError(
                f"{path}: predicts {task}; here are labels of pictures, and of their pixels "
                f"({MAPS_TASK})"
            )
        self.gives_maps = task == MAPS_TASK
        (given,) = self._session.get_inputs()
        size = known["resolution"]
        self._takes_pixels = given.name != "images"
        if self._takes_pixels and size != "any" and not self.gives_maps:
            raise ConfigError(
                f"{path}: takes whole pictures, which it resizes itself; export it without "
                "preprocessing to predict with it here"
            )
        self._input = given.name
        every = tuple(json.loads(known["resolutions"]))
        self.resolutions: tuple[int, ...] = every if size == "any" else (int(size),)
        self.classes: tuple[str, ...] = tuple(json.loads(known["classes"]))
        mean, std = (np.array(json.loads(known[name]), np.float32) for name in ("mean", "std"))
        self._mean, self._std = mean[:, None, None], std[:, None, None]

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of pixels (N, 3, R, R), see `Network`."""
        given: NDArray[np.uint8] | NDArray[np.float32]
        if self._takes_pixels:
            given = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        else:
            given = (images.astype(np.float32) / np.float32(255) - self._mean) / self._std
        fixed = self._session.get_inputs()[0].shape[0] == 1
        parts = np.split(given, len(given)) if fixed else [given]
        return np.concatenate([self._session.run(None, {self._input: p})[0] for p in parts])
