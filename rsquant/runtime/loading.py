"""Open a packed network on a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from rsquant.errors import ConfigError
from rsquant.kernels import backends
from rsquant.packed.file import open_packed
from rsquant.processors import MOST_THREADS, processors
from rsquant.runtime.cpu.session import Memory, Session

# Sizes besides the packed ones that stay ready; together at most some 30 MB.
KEEP_SIZES = 16

if TYPE_CHECKING:
    from rsquant.runtime.gpu import GpuSession


@overload
def load(
    path: str | Path,
    threads: int | None = None,
    memory: Memory = "full",
    isa: str | None = None,
    kernel: str | None = None,
    tune: bool = True,
    interpolate: bool = True,
    device: Literal["cpu"] = "cpu",
    keep_sizes: int = KEEP_SIZES,
) -> Session: ...
@overload
def load(
    path: str | Path,
    threads: int | None = None,
    memory: Memory = "full",
    isa: str | None = None,
    kernel: str | None = None,
    tune: bool = True,
    interpolate: bool = True,
    *,
    device: str,
    keep_sizes: int = KEEP_SIZES,
) -> Session | GpuSession: ...
def load(
    path: str | Path,
    threads: int | None = None,
    memory: Memory = "full",
    isa: str | None = None,
    kernel: str | None = None,
    tune: bool = True,
    interpolate: bool = True,
    device: str = "cpu",
    keep_sizes: int = KEEP_SIZES,
) -> Session | GpuSession:
    """Open a packed network.

    Args:
        path: a file written by `rsquant.pack`.
        threads: None uses all processors this process may use. The CPU's, as `memory`, `isa` and
            `kernel`.
        memory: "full" keeps weights in the layout the fastest kernels want, about a byte each and
            more where Winograd's algorithm pays; "low" keeps such layouts of up to 416 KB a
            convolution (354 KB of a 1x1 one), unpacks the weights of the others in each call, has
            only as much working memory resident as the sizes that ran have used, and gives memory
            that loading freed back to the system.
        isa: instruction set, one of `rsquant.kernels.available`; None leaves it to RSQUANT_ISA or
            the best there is.
        kernel: convolution kernel to use wherever it can be; None uses the fastest measured.
        tune: measure, once per machine and network shape, which kernel is fastest (some 5 seconds
            of an idle processor for all sizes together; kept in a file, see `tuning`). Of a file of
            several widths or bits each setting is measured when it is first used. Convolutions that
            the time does not suffice for, as of very large images, take a default. Without it what
            is known is used.
        interpolate: accept sizes that were not packed.
        device: "cpu", "cuda" or "cuda:N" (imports torch and Triton), or "auto": a GPU where its
            kernels can run, else the CPU.
        keep_sizes: how many of the sizes that were not packed stay ready, those used last; a size
            takes 0.3 to 1.8 MB, and is folded and bound again when it was forgotten. Packed sizes
            always stay. On a GPU a size and a batch count as one, and packed sizes stay for the 8
            batches used last.
    Raises:
        PackedFileError: missing, altered, or not a packed network.
        ConfigError: an instruction set or device this machine lacks, an unknown kernel or memory,
            keep_sizes below 0, or a setting of the CPU's for a GPU.
    """
    if keep_sizes < 0:
        raise ConfigError(f"keep_sizes: must be 0 or more, got {keep_sizes}")
    chosen = backends.pick_device(device)
    if chosen != "cpu":
        settings = {"threads": threads, "isa": isa, "kernel": kernel}
        given = [name for name, value in settings.items() if value is not None]
        given += ["memory"] if memory != "full" else []
        if given:
            raise ConfigError(f"{', '.join(given)}: for the CPU only, but the device is {chosen}")
        from rsquant.runtime.gpu import GpuSession

        return GpuSession(open_packed(path), chosen, tune, interpolate, keep_sizes)
    if threads is None:
        threads = processors()
    if not 1 <= threads <= MOST_THREADS:
        raise ConfigError(f"threads: must be 1 to {MOST_THREADS}, got {threads}")
    if memory not in ("full", "low"):
        raise ConfigError(f"memory: must be full or low, got '{memory}'")
    used = backends.active() if isa is None else backends.checked(isa, f"isa='{isa}'")
    names = backends.native().all_conv_kernels(used)
    if kernel is not None and kernel not in names:
        raise ConfigError(f"kernel: {used} has {', '.join(names)}, got '{kernel}'")
    return Session(open_packed(path), used, threads, memory, kernel, tune, interpolate, keep_sizes)
