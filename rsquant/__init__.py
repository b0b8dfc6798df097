"""Low-bit convolutional networks that can be run at several resolutions."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsquant.export.onnx import export_onnx
    from rsquant.models import create
    from rsquant.models.checkpoint import load, save
    from rsquant.nn.calibrate import calibrate
    from rsquant.nn.convert import convert
    from rsquant.packing.write import pack
    from rsquant.train.losses import mred

__version__ = "0.2.0"
__all__ = ["calibrate", "convert", "create", "export_onnx", "load", "mred", "pack", "save"]

# Public name -> module. Loaded on first use: the command line and the runtime start without torch.
_HOMES = {
    "calibrate": "rsquant.nn.calibrate",
    "convert": "rsquant.nn.convert",
    "create": "rsquant.models",
    "export_onnx": "rsquant.export.onnx",
    "load": "rsquant.models.checkpoint",
    "mred": "rsquant.train.losses",
    "pack": "rsquant.packing.write",
    "save": "rsquant.models.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    try:
        return importlib.import_module(f"rsquant.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"rsquant.{name}":
            raise
        raise AttributeError(f"module 'rsquant' has no attribute '{name}'") from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
