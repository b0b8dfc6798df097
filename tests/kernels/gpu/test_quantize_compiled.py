"""The fused quantizer compiled for GPUs that need not be here: its loads, stores and sums."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

GENERATIONS = [
    pytest.param(80, marks=pytest.mark.slow),
    90,
    pytest.param(100, marks=pytest.mark.slow),
]

SCRIPT = Path(__file__).with_name("compile_quantize.py")


def check(capability, bits, limit, *names):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, str(SCRIPT), *map(str, (capability, bits, limit)), *names]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    for row in rows:
        name = row["name"]
        # No order of additions that could change; one rounding per operation; and sums over
        # threads, which cost more than all the rest, only after the loop over tiles.
        assert row["atomics"] == row["fused"] == 0, row
        assert row["looped_exchanges"] == 0, row
        if name in ("basis", "one value"):
            continue
        assert name.startswith("gradient") or row["looped_loads"] == row["wide_loads"], row
        # 128 bits at a time: 16 values a thread are 4 times four float32, or twice eight 16-bit
        # ones; the gradient's programs read as many from two tensors.
        stores = 2 if name.endswith("16") else 4
        loads = 2 * stores if name.startswith("gradient") else stores
        assert (row["wide_loads"], row["wide_stores"], row["narrow"]) == (loads, stores, 0), row
    return len(rows)


@pytest.mark.parametrize("capability", GENERATIONS)
def test_values_move_128_bits_at_a_time_and_sums_need_no_atomics(capability):
    names = ("activations fp32", "activations bf16", "gradient fp32", "basis", "weights")
    assert check(capability, 2, 15, *names) == len(names)


@pytest.mark.slow
@pytest.mark.parametrize("capability", GENERATIONS)
@pytest.mark.parametrize(("bits", "limit"), [(1, 0), (2, 0), (3, 127), (4, 0), (4, 15)])
def test_every_form_and_number_of_bits_compiles_to_the_same_moves(capability, bits, limit):
    assert check(capability, bits, limit) == 14
