"""What `rsquant info` tells: versions, devices, back ends, runs."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from rsquant import kernels, runs
from rsquant.errors import RsquantError
from rsquant.packages import installed
from rsquant.processors import processors
from rsquant.version import __version__

_LIBRARIES = ("torch", "torchvision", "numpy", "brevitas", "onnx", "onnxruntime")
_SHOWN_RUNS = 10


@dataclass(frozen=True)
class Fact:
    """One thing about this installation.

    Attributes:
        kind: library, device, kernel (a back end) or run.
        name: of the library, device, back end or run folder.
        value: its version, size, convolutions or number of epochs; of a back end that cannot be
            used, or is not, why.
        used: False for a library, device or back end that is not there or not used.
    """

    kind: str
    name: str
    value: str
    used: bool = True


def facts() -> list[Fact]:
    """Everything `lines` tells, and all runs, the one last trained first."""
    return [
        Fact("library", "rsquant", __version__),
        Fact(
            "library",
            "python",
            f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        ),
        *map(_library, _LIBRARIES),
        *_devices(),
        *_cpu_kernels(),
        _gpu_kernels(),
        *_runs(),
    ]


def lines() -> list[str]:
    """The report, a line each."""
    every = facts()
    report = [f"{f.name:<12} {f.value}" for f in every if f.kind in ("library", "device")]
    backends = [
        f"{'' if f.used else 'not '}{f.name}: {f.value}" for f in every if f.kind == "kernel"
    ]
    report += _listed("kernels", backends)
    folder = runs.RUNS.resolve()
    trained = [f"{f.name}: {f.value}" for f in every if f.kind == "run"]
    if not trained:
        return [*report, f"runs         none yet in {folder}"]
    return [
        *report,
        f"runs         {len(trained)} in {folder}, newest first",
        *(f"             {line}" for line in trained[:_SHOWN_RUNS]),
    ]


def _listed(title: str, entries: list[str]) -> list[str]:
    return [f"{title if not index else '':<12} {entry}" for index, entry in enumerate(entries)]


def _library(name: str) -> Fact:
    try:
        return Fact("library", name, version(name))
    except PackageNotFoundError:
        return Fact("library", name, "not installed", used=False)


def _devices() -> list[Fact]:
    if not installed("torch"):
        return [Fact("device", "cpu", f"{processors()} threads")]
    import torch

    found = [Fact("device", "cpu", f"{torch.get_num_threads()} threads")]
    if not torch.cuda.is_available():
        return [*found, Fact("device", "cuda", "none found by torch", used=False)]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        found.append(Fact("device", f"cuda:{index}", f"{properties.name}, {memory:.0f} GiB"))
    return found


def _gpu_kernels() -> Fact:
    why = kernels.gpu_why_not()
    return Fact("kernel", "gpu/triton", why or "usable", used=not why)


def _cpu_kernels() -> list[Fact]:
    try:
        chosen = kernels.active()
    except RsquantError as error:
        return [Fact("kernel", "cpu", str(error), used=False)]
    others = [
        Fact("kernel", f"cpu/{isa.name}", "slower here" if isa.usable else isa.why_not, used=False)
        for isa in kernels.available()
        if isa.name != chosen
    ]
    return [Fact("kernel", f"cpu/{chosen}", ", ".join(kernels.convolutions())), *others]


def _runs() -> list[Fact]:
    trained = runs.all_runs()
    if not trained or not installed("torch"):
        return [Fact("run", run.name, "rsquant[train] is not installed") for run in trained]
    from rsquant.train.metrics import read_metrics

    return [Fact("run", run.name, f"{len(read_metrics(run))} epochs done") for run in trained]
