"""What a measurement was made on, and the JSON form of every table."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rsquant.atomic import replacing

_LIBRARIES = ("rsquant", "torch", "torchvision", "numpy", "onnx", "onnxruntime")


def describe() -> dict[str, Any]:
    """Processor, cores, operating system and library versions; no names of hosts or users."""
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in _LIBRARIES},
    }


def cpu_model() -> str:
    """The processor's own name for itself, "unknown" where the system does not say."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def write_json(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write {"machine": {...}, "rows": [...]}, whole or not at all; NaN and infinity as null.

    Raises:
        RsquantError: the file cannot be written.
    """

    def finite(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    table = {
        "machine": describe(),
        "rows": [{key: finite(value) for key, value in row.items()} for row in rows],
    }
    text = json.dumps(table, indent=1, allow_nan=False) + "\n"
    with replacing(Path(path)) as temporary:
        temporary.write_text(text)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
