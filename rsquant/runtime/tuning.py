"""Which kernel is fastest for each convolution on this machine: measured once, kept in a file.

The file is `tuning.json` in $RSQUANT_CACHE, or in rsquant/ under the user's cache folder. It holds
choices only: losing or damaging it costs the time to measure again. Where there is no such folder,
or none that can be written, choices last as long as the session.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from rsquant.packed.ops.conv import ConvStep
from rsquant.packed.program import Program

CACHE = "RSQUANT_CACHE"
# A change of the kernels that may change what is fastest takes a new number.
VERSION = 5

Choices = dict[str, str]


def cache_file() -> Path | None:
    """Where the choices are kept; None where there is no home and no variable names a folder."""
    folder = os.environ.get(CACHE)
    if folder:
        return Path(folder) / "tuning.json"
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # as in containers: neither HOME nor an entry in passwd
        return None
    return Path(base) / "rsquant" / "tuning.json"


def key(isa: str, threads: int, program: Program, step: ConvStep) -> str:
    """What a choice depends on: processor, kernels, threads, and the convolution with its size."""
    source = program.values[step.input]
    form = step.form
    # The basis decides what is eligible, not what is fast.
    numbers = (
        form.groups,
        form.in_channels,
        form.out_channels,
        *form.kernel,
        *form.stride,
        *form.padding,
        *form.dilation,
        form.input_limit,
        form.weight_limit,
        int(form.real),
        form.weight_bits,
        len(form.input_basis),
        source.height,
        source.width,
    )
    return f"{VERSION}|{processor()}|{isa}|{threads}|{'-'.join(map(str, numbers))}"


def read() -> Choices:
    """All choices known; empty where there is no file, or one that cannot be read."""
    path = cache_file()
    if path is None:
        return {}
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {k: v for k, v in known.items() if isinstance(v, str)}


def write(choices: Mapping[str, str]) -> None:
    """Add choices to the file. Where it cannot be written, tuning is repeated: that is no error."""
    path = cache_file()
    if path is None:
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    with contextlib.suppress(OSError, ValueError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(json.dumps({**read(), **choices}, indent=0, sort_keys=True))
            temporary.replace(path)
        finally:  # half a file where the disk is full
            temporary.unlink(missing_ok=True)


def file_key(isa: str, threads: int, path: Path) -> str:
    """Stands for "all convolutions of this packed file at its own sizes have their choices"."""
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        checksum = file.read(4).hex()
    return f"{VERSION}|{processor()}|{isa}|{threads}|file {checksum}"


@cache
def processor() -> str:
    """The processor's name, as far as the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "CPU part")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
