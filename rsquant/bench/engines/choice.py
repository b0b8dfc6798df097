"""Which engines there are on a device, and which of them are timed."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from rsquant.bench.engines.base import CPU, CUDA, OnCpu, OnCuda, unfit
from rsquant.errors import ConfigError
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.text import did_you_mean

# A machine that times a GPU need not have onnxruntime.
_CPU_FILES = ("pytorch", "onnxruntime", "packed")
_CUDA_FILES = ("packed", "cudnn")
_Engine = TypeVar("_Engine", OnCpu, OnCuda)


def cpu_engines() -> Mapping[str, OnCpu]:
    """The engines of whole networks on the CPU, by name."""
    return _in_order(CPU, _CPU_FILES)


def cuda_engines() -> Mapping[str, OnCuda]:
    """The engines of whole networks on a GPU, by name."""
    return _in_order(CUDA, _CUDA_FILES)


def unfitting(network: SwitchableNetwork, names: Iterable[str]) -> dict[str, str]:
    """Those of some engines that cannot run a network, and why."""
    return {name: why for name in names if (why := unfit(name, network))}


def check_engines(
    names: Sequence[str], known: Iterable[str], refused: Mapping[str, str] | None = None
) -> None:
    """Raise ConfigError for an engine that is not among `known`, or is refused.

    Args:
        known: engines of the device and of what is timed.
        refused: those of them that cannot run the network, and why.
    """
    known, refused = tuple(known), refused or {}
    for name in names:
        if name in refused:
            raise ConfigError(
                f"engines: '{name}' cannot run this network: {refused[name]}. Leave it out; "
                f"{', '.join(k for k in known if k not in refused)} can"
            )
        if name in known:
            continue
        if name == "int8":
            raise ConfigError(
                "engines: 'int8' is timed for single convolutions only, on a GPU: PyTorch has no "
                "int8 network to compare with; leave it out"
            )
        hint = did_you_mean(name, known)
        raise ConfigError(
            f"engines: '{name}' is not an engine here; {hint}known: {', '.join(known)}"
        )
    if not names:
        raise ConfigError("engines: none given")


def _in_order(engines: Mapping[str, _Engine], files: Sequence[str]) -> dict[str, _Engine]:
    """All engines, those of some files first, whatever was imported before."""
    modules = [f"rsquant.bench.engines.{file}" for file in files]
    for module in modules:
        importlib.import_module(module)

    def place(name: str) -> int:
        home = engines[name].__module__
        return modules.index(home) if home in modules else len(modules)

    return {name: engines[name] for name in sorted(engines, key=place)}
