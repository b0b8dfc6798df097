"""A process may end while daemon threads are inside compiled code."""

import subprocess
import sys

import pytest

import rsquant

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


@pytest.fixture(scope="module")
def packed_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("exit") / "a.rsq"
    rsquant.pack(rsquant.create("resnet18", 2, 2, (64, 32), 3, width=4), path)
    return path


INSIDE = """
import sys, threading
import numpy as np
from rsquant import runtime
net, inside = runtime.load(sys.argv[1], threads=2, tune=False), []
images = np.zeros((4, 3, 64, 64), np.uint8)
def work(size):
    while True:
        net(images[:, :, :size, :size])
        inside.append(1)
for size in (64, 32, 48):
    threading.Thread(target=work, args=(size,), daemon=True).start()
while len(inside) < 6:
    pass
"""

HELD = """
import builtins, sys
import numpy as np
from rsquant import runtime
builtins.net = runtime.load(sys.argv[1], threads=1, tune=False)
builtins.net(np.zeros((1, 3, 64, 64), np.uint8))
"""


@pytest.mark.parametrize("code", [INSIDE, HELD], ids=["inside a session", "session still held"])
def test_a_process_ends_in_silence_with_a_session_in_use(code, packed_file):
    done = subprocess.run(
        [sys.executable, "-c", code, packed_file], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
