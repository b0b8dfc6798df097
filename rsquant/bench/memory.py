"""Peak memory of a process that does nothing but run one file, an ONNX or a packed one.

It has to be a process of its own: in the benchmark's all engines share one. A process that imports
onnxruntime and numpy and runs nothing takes about 60 MB of it, the same for every file; one that
imports rsquant.runtime about half of that. PyTorch has no figure here: there is no small process
that runs a network in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rsquant.runtime import Memory

_RUNS = 3


def peak_rss(
    path: Path, resolution: int, batch: int, threads: int, memory: str = "full"
) -> int | None:
    """Peak resident bytes of a fresh process that loads and runs the file; None if not known.

    Known on Linux, from VmHWM. `getrusage` would not do: its peak survives exec, so a child's
    begins at its parent's.
    """
    settings = [str(path), str(resolution), str(batch), str(threads), memory]
    # -P: a numpy.py in the current folder is the user's, and not what is meant by numpy.
    command = [sys.executable, "-P", "-m", __name__, *settings]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return int(done.stdout.split()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def added_by(call: Callable[[], object]) -> int | None:
    """The most resident bytes that a call adds to this process; None where Linux does not tell."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _status("VmRSS")
    except (OSError, KeyError):
        call()
        return None
    call()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    """A size that the system notes of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def _main(path: str, resolution: int, batch: int, threads: int, memory: Memory) -> None:
    if path.endswith(".rsq"):
        _run_packed(path, resolution, batch, threads, memory)
    else:
        _run_onnx(path, resolution, batch, threads)
    print(_status("VmHWM"))


def _run_packed(path: str, resolution: int, batch: int, threads: int, memory: Memory) -> None:
    import numpy

    from rsquant import runtime

    session = runtime.load(path, threads, memory)
    for _ in range(_RUNS):
        session(numpy.zeros((batch, 3, resolution, resolution), numpy.uint8))


def _run_onnx(path: str, resolution: int, batch: int, threads: int) -> None:
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    images = numpy.zeros((batch, 3, resolution, resolution), numpy.float32)
    for _ in range(_RUNS):
        session.run(None, {session.get_inputs()[0].name: images})


if __name__ == "__main__":
    _main(
        sys.argv[1],
        int(sys.argv[2]),
        int(sys.argv[3]),
        int(sys.argv[4]),
        "low" if sys.argv[5] == "low" else "full",
    )
