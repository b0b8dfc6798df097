"""Low-bit convolutional networks that can be run at several resolutions."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rsquant.version import __version__ as __version__

if TYPE_CHECKING:
    from rsquant.export.onnx import export_onnx
    from rsquant.models import create
    from rsquant.models.checkpoint import load, save
    from rsquant.models.start_from import start_from
    from rsquant.nn.calibrate import calibrate
    from rsquant.nn.convert import convert
    from rsquant.packing.write import pack
    from rsquant.train.losses import mred

__all__ = [
    "calibrate",
    "convert",
    "create",
    "export_onnx",
    "load",
    "mred",
    "pack",
    "save",
    "start_from",
]

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
    "start_from": "rsquant.models.start_from",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    try:
        module = importlib.import_module(home or f"rsquant.{name}")
    except ImportError as error:
        if home is None and error.name == f"rsquant.{name}":
            raise AttributeError(f"module 'rsquant' has no attribute '{name}'") from error
        from rsquant.packages import NAMES, absent_modules, missing

        if absent := absent_modules(error):
            extra = NAMES.get(name, "train")
            raise missing(f"rsquant.{name}", absent, extra) from error
        raise
    return module if home is None else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
