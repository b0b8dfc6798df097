"""Peak memory of a process that does nothing but run one ONNX file.

It has to be a process of its own: in the benchmark's all engines share one. A process that imports
onnxruntime and numpy and runs nothing takes about 60 MB of it, the same for every file. PyTorch has
no figure here: there is no small process that runs a network in it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_RUNS = 3


def peak_rss(path: Path, resolution: int, batch: int, threads: int) -> int | None:
    """Peak resident bytes of a fresh process that loads and runs the file; None if not known.

    Known on Linux, from VmHWM. `getrusage` would not do: its peak survives exec, so a child's
    begins at its parent's.
    """
    command = [sys.executable, "-m", __name__, str(path), str(resolution), str(batch), str(threads)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return int(done.stdout.split()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _main(path: str, resolution: int, batch: int, threads: int) -> None:
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    images = numpy.zeros((batch, 3, resolution, resolution), numpy.float32)
    for _ in range(_RUNS):
        session.run(None, {session.get_inputs()[0].name: images})
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            print(int(line.split()[1]) * 1024)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
