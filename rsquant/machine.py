"""What a measurement was made on, and the JSON form of every table."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rsquant.atomic import replacing
from rsquant.packages import installed
from rsquant.processors import processors
from rsquant.version import __version__

_LIBRARIES = ("torch", "torchvision", "numpy", "onnx", "onnxruntime")


def describe() -> dict[str, Any]:
    """Processor, cores, GPU, system and library versions; no names of hosts or users."""
    return {
        "cpu": cpu_model(),
        "cores": processors(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "rsquant": __version__,
        **{name: _version(name) for name in _LIBRARIES},
        **gpu(),
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


def gpu() -> dict[str, Any]:
    """The current CUDA device, its driver and libraries; empty without one, or without torch."""
    if not installed("torch"):
        return {}
    import torch

    if not torch.cuda.is_available():
        return {}
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "gpu": properties.name,
        "gpu_capability": f"{properties.major}.{properties.minor}",
        "gpu_memory_bytes": properties.total_memory,
        "gpu_multiprocessors": properties.multi_processor_count,
        "driver": driver_version(),
        "cuda": torch.version.cuda,
        "cudnn": _dotted(torch.backends.cudnn.version()),
        "triton": _version("triton"),
    }


def driver_version() -> str | None:
    """The NVIDIA driver's version, from nvidia-smi or the kernel; None where neither says."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        if re.fullmatch(r"[0-9.]+", line := done.stdout.strip().partition("\n")[0].strip()):
            return line
    except (OSError, subprocess.SubprocessError):
        pass
    try:
        found = re.search(r"\b\d+\.\d+(\.\d+)?\b", Path("/proc/driver/nvidia/version").read_text())
        return found.group() if found else None
    except OSError:
        return None


def _dotted(cudnn: int | None) -> str | None:
    """cuDNN's number as people write it: 91002 is 9.10.2, as 8902 was 8.9.2."""
    if cudnn is None:
        return None
    major, rest = divmod(cudnn, 10000 if cudnn >= 10000 else 1000)
    return f"{major}.{rest // 100}.{rest % 100}"


# OpenMP's threads wait for each other at the end of every loop. Spinning for good, as torch's own
# do, a thread that waits takes the processor from the one it waits for once other processes run
# beside: a step of 0.2 s then takes ten. docs/results.md has the measurement.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}


def wait_briefly() -> None:
    """Let OpenMP's threads spin for a moment, then sleep; what the user has set stays.

    Works until torch is imported: the library reads its environment when it is loaded.
    """
    if not any(name in os.environ for name in (*WAITING, "KMP_BLOCKTIME")):
        os.environ.update(WAITING)


def quiet_torch() -> None:
    """Leave torch's own warnings out in training of several processes, before torch is imported.

    It warns in each that DistributedDataParallel looks for unused parameters, which it must.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


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
