"""The threads of the CPU kernels: `pool.cpp` runs them, where g++ has it under ThreadSanitizer."""

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CPU = HERE.parents[1] / "kernels" / "cpu"


@pytest.mark.parametrize("flags", [("-O2",), ("-O1", "-fsanitize=thread")])
def test_each_task_is_done_once_before_its_call_ends(flags, tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    program = tmp_path / "pool"
    command = ["g++", "-std=c++20", "-pthread", f"-I{CPU}", *flags, HERE / "pool.cpp"]
    built = subprocess.run(
        [*command, CPU / "pool.cpp", "-o", program], capture_output=True, text=True, check=False
    )
    if "thread" in flags[-1] and "tsan" in built.stderr:
        pytest.skip("g++ has no ThreadSanitizer here")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer does not run on this kernel")
    assert done.returncode == 0, done.stdout + done.stderr
