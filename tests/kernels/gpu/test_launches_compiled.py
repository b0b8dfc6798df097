"""Kernels of packed networks compiled for GPUs that need not be here, from their own launches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("compile_launches.py")


def compiled(capability):
    """Names of the kernels compiled, and of those that nothing compiles."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, str(SCRIPT), str(capability)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    *rows, last = map(json.loads, done.stdout.splitlines())
    # The specification rounds twice where a fused multiply-add rounds once.
    assert not [row for row in rows if row["fused"]]
    return {row["name"] for row in rows}, last["missing"]


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_every_kernel_compiles(capability):
    names, missing = compiled(capability)
    assert len(names) > 10
    assert missing == []
