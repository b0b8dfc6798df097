"""onnxruntime, with the options that a plain user has, and errors of one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from numpy.typing import NDArray

from rsquant.errors import ExportError
from rsquant.text import first_line


def session(model: str | Path | bytes) -> Any:
    """A session on the CPU with default options, but for threads and messages.

    Args:
        model: a file, or the bytes of one.
    Raises:
        ExportError: onnxruntime does not load it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # the error below says it
    # As many threads as the network runs on here; it changes the time, not the plan.
    options.intra_op_num_threads = torch.get_num_threads()
    # Its waiting threads would otherwise spin on the cores the network runs on next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    model = str(model) if isinstance(model, Path) else model
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base of their own
        raise ExportError(f"onnxruntime does not load the file: {first_line(error)}") from error


def run(
    engine: Any,
    images: NDArray[Any],
    names: list[str] | None = None,
    more: Mapping[str, NDArray[Any]] | None = None,
) -> list[NDArray[Any]]:
    """The named outputs (None: all) for a batch of images, the first input, and more inputs.

    Raises:
        ExportError: onnxruntime does not run it.
    """
    try:
        return engine.run(names, {engine.get_inputs()[0].name: images, **(more or {})})
    except Exception as error:
        raise ExportError(f"onnxruntime does not run the file: {first_line(error)}") from error
