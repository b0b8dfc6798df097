"""Which instruction set the native kernels use, and why not another one.

The choice is automatic: the best this processor has. The environment variable RSQUANT_ISA or
`force` sets it; an instruction set that cannot be used is an error, never a silent change to a
slower one.
"""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType, TracebackType

from rsquant.errors import ConfigError
from rsquant.packages import install

ENVIRONMENT = "RSQUANT_ISA"
ISAS = ("avx512vnni", "avx512", "avx2", "neondot", "neon", "scalar")

_native: ModuleType | None
try:
    from rsquant.kernels import _cpu as _native
except ImportError as error:
    _native = None
    _import_error = str(error)
else:
    _import_error = ""


@dataclass(frozen=True)
class Isa:
    """An instruction set: its name, whether this machine can use it, and if not, why."""

    name: str
    usable: bool
    why_not: str = ""


class _Choice:
    """The one piece of state: the instruction set asked for; None leaves it to RSQUANT_ISA."""

    forced: str | None = None


def has_native() -> bool:
    """True when the compiled kernels import; without them every operation raises ConfigError."""
    return _native is not None


def available() -> tuple[Isa, ...]:
    """Every instruction set the kernels know, best first, usable here or not.

    Without the compiled extension none is usable, and `why_not` is the import's own message.
    """
    if _native is None:
        why = f"the compiled extension does not import: {_import_error}"
        return tuple(Isa(name, False, why) for name in ISAS)
    return _instruction_sets(_native)


@functools.cache
def _instruction_sets(native: ModuleType) -> tuple[Isa, ...]:
    """What the processor has never changes, and every call of a kernel asks for it."""
    return tuple(Isa(name, not why, why) for name, why in native.instruction_sets())


def active() -> str:
    """Name of the instruction set the next call uses.

    Raises:
        ConfigError: the one asked for is unknown or unusable here, or there is no extension.
    """
    if _Choice.forced is not None:
        return _Choice.forced
    asked = os.environ.get(ENVIRONMENT, "")
    if asked in ("", "auto"):
        native()
        return next(isa.name for isa in available() if isa.usable)
    return checked(asked, f"{ENVIRONMENT}={asked}")


def convolutions() -> tuple[str, ...]:
    """Names of the active instruction set's convolution kernels; raises as `active`."""
    isa = active()
    return tuple(native().all_conv_kernels(isa))


class force:
    """Use this instruction set from now on; as a context manager, until the block ends.

    `force(None)` goes back to RSQUANT_ISA or the automatic choice. It acts on all threads.

    Args:
        isa: a usable name from `available`, or None.
    Raises:
        ConfigError: the instruction set is unknown, or this machine cannot use it.
    """

    def __init__(self, isa: str | None) -> None:
        self._before = _Choice.forced
        _Choice.forced = None if isa is None else checked(isa, f"force('{isa}')")

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _Choice.forced = self._before


def native() -> ModuleType:
    """The compiled extension. Raises ConfigError, with what to do, when it does not import."""
    if _native is None:
        raise ConfigError(
            f"rsquant.kernels: the compiled extension does not import ({_import_error}); "
            "reinstall with a C++ compiler at hand (pip install -e .), or test "
            "rsquant.kernels.has_native() first"
        )
    return _native


def checked(name: str, who: str) -> str:
    """The name of a usable instruction set. Raises ConfigError, beginning with `who`."""
    isas = {isa.name: isa for isa in available()}
    if name not in isas:
        raise ConfigError(f"{who}: must be one of {', '.join(isas)}, got '{name}'")
    if not isas[name].usable:
        usable = ", ".join(isa.name for isa in isas.values() if isa.usable) or "none"
        raise ConfigError(f"{who}: {isas[name].why_not}; usable here: {usable}")
    return name


def gpu_why_not(device: str = "cuda") -> str:
    """Why the GPU kernels cannot run on a device, "" where they can; imports torch."""
    if find_spec("torch") is None:
        return f"PyTorch is not installed; {install('gpu')}"
    from rsquant.kernels.gpu import support

    return support.why_not(device)


def pick_device(name: str) -> str:
    """ "cpu", or the CUDA device to run a packed network on.

    Args:
        name: "cpu", "cuda", "cuda:N", or "auto": a GPU where the kernels can run, else the CPU.
    Raises:
        ConfigError: no such device, or its kernels cannot run here.
    """
    if name == "cpu":
        return name
    if name == "auto":
        return "cpu" if gpu_why_not() else "cuda"
    if not re.fullmatch(r"cuda(:\d+)?", name):
        raise ConfigError(f"device: must be cpu, cuda, cuda:N or auto, got '{name}'")
    why = gpu_why_not(name)
    if why:
        raise ConfigError(f"device: {name} has no GPU kernels here: {why}")
    return name
