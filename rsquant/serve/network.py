"""What a predictor asks of a network, and opening one from any of our files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rsquant import runs, runtime
from rsquant.errors import ConfigError
from rsquant.packages import require

PACKED, ONNX = ".rsq", ".onnx"
# The task whose networks give one prediction per pixel, by the name it has in files.
MAPS_TASK = "segmentation"


class Network(Protocol):
    """A network that runs at several sizes; `rsquant.runtime.Session` is one.

    Attributes:
        resolutions: sizes in pixels it was trained or exported at, largest first.
        classes: names, empty if it has none.
        gives_maps: whether it gives one prediction per pixel.
    """

    @property
    def resolutions(self) -> tuple[int, ...]: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def gives_maps(self) -> bool: ...
    def __call__(self, images: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Logits (N, classes), or maps of them (N, classes, h, w), of pixels (N, 3, R, R)."""


def find(model: str | Path | None) -> Path:
    """The file that is meant.

    Args:
        model: a .rsq or .onnx file, a checkpoint, a run's name or folder; None: the newest run. Of
            a run that was packed it is the packed file written last, else its best checkpoint.
    Raises:
        CheckpointError: there is no such run. ConfigError: no such file.
    """
    if model is not None and Path(model).suffix in (PACKED, ONNX):
        path = Path(model)
        if not path.is_file():
            raise ConfigError(f"{path}: there is no such file; name a .rsq or .onnx file, or a run")
        return path
    checkpoint = runs.resolve(model)
    is_run = model is None or Path(model).suffix != ".safetensors"
    if checkpoint.run is not None and is_run:
        packed = sorted(checkpoint.run.glob(f"*{PACKED}"), key=lambda path: path.stat().st_mtime)
        if packed:
            return packed[-1]
    return checkpoint.path


def open_network(path: Path, threads: int | None = None, **loading: Any) -> Network:
    """Open a packed file, an ONNX file or a checkpoint.

    Args:
        path: from `find`.
        threads: None: all processors the process may use.
        loading: further arguments of `rsquant.runtime.load`, for packed files.
    Raises:
        RsquantError: a file that is damaged or of another kind.
        MissingPackage: an ONNX file without onnxruntime, a checkpoint without torch.
    """
    if path.suffix == PACKED:
        return runtime.load(path, threads, **loading)
    if path.suffix == ONNX:
        require(f"the network {path}", "export", "onnxruntime")
        from rsquant.serve.onnx_file import OnnxNetwork

        return OnnxNetwork(path, threads)
    require(f"the network {path}", "train", "torch")
    from rsquant.serve.checkpoint import CheckpointNetwork

    return CheckpointNetwork(path, threads)
