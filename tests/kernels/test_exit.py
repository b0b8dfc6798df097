"""A process may end while daemon threads are inside compiled code."""

import subprocess
import sys

import pytest

CODE = """
import sys, threading
import numpy as np
from rsquant import kernels
x, levels, inside = np.ones(1 << 21, np.float32), np.arange(4, dtype=np.float32), []
def work(kernel=sys.argv[1]):
    out = np.empty_like(x)
    while True:
        if kernel == "quantize_stats":
            kernels.quantize_stats(x, levels, out)
        elif kernel == "clip_gradient":
            kernels.clip_gradient(x, x, 0.0, 2.0, out)
        else:
            kernels.native().peak(kernels.active(), "bytes")
        inside.append(1)
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
while len(inside) < 6:
    pass
"""


@pytest.mark.parametrize("kernel", ["quantize_stats", "clip_gradient", "peak"])
def test_a_process_ends_while_daemon_threads_are_inside_a_kernel(kernel):
    done = subprocess.run(
        [sys.executable, "-c", CODE, kernel], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
