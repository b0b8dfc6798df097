"""What `rsquant info` tells: versions, devices, back ends, runs."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

import rsquant
from rsquant import kernels, runs
from rsquant.errors import RsquantError
from rsquant.train.metrics import read_metrics

_LIBRARIES = ("torch", "torchvision", "numpy", "brevitas", "onnx", "onnxruntime")


def lines() -> list[str]:
    """The report, a line each."""
    return [
        f"rsquant      {rsquant.__version__}",
        f"python       {platform.python_version()} on {platform.system()} {platform.machine()}",
        *(f"{name:<12} {_version(name)}" for name in _LIBRARIES),
        *_devices(),
        *_kernels(),
        *_runs(),
    ]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _devices() -> list[str]:
    found = [f"cpu          {torch.get_num_threads()} threads"]
    if not torch.cuda.is_available():
        return [*found, "cuda         none found by torch"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        found.append(f"cuda:{index}       {properties.name}, {memory:.0f} GiB")
    return found


def _kernels() -> list[str]:
    return [*_cpu_kernels(), _gpu_kernels()]


def _gpu_kernels() -> str:
    why = kernels.gpu_why_not()
    return f"             {'not ' if why else ''}gpu/triton: {why or 'usable'}"


def _cpu_kernels() -> list[str]:
    try:
        chosen = kernels.active()
    except RsquantError as error:
        return [f"kernels      none: {error}"]
    found = [f"kernels      cpu/{chosen}: {', '.join(kernels.convolutions())}"]
    for isa in kernels.available():
        if isa.name != chosen:
            why = "slower here" if isa.usable else isa.why_not
            found.append(f"             not cpu/{isa.name}: {why}")
    return found


def _runs() -> list[str]:
    folder = runs.RUNS.resolve()
    found = runs.all_runs()
    if not found:
        return [f"runs         none yet in {folder}"]
    shown = [f"runs         {len(found)} in {folder}, newest first"]
    for run in found[:10]:
        rows = read_metrics(run)
        shown.append(f"             {run.name}: {len(rows)} epochs done")
    return shown
