"""The convolution compiled for GPUs that need not be here: what it becomes."""

import json
import os
import subprocess
import sys

import pytest

GENERATIONS = [
    pytest.param(80, marks=pytest.mark.slow),
    90,
    pytest.param(100, marks=pytest.mark.slow),
]

# Triton compiles what was defined outside its interpreter: in a process of its own.
SCRIPT = """
import json, re, sys
from rsquant.kernels.gpu import aot
capability, names = int(sys.argv[1]), sys.argv[2:]
for form in aot.FORMS:
    if form.name in names or not names:
        found = aot.compile_conv(form, capability)
        print(json.dumps({
            "name": form.name, "registers": found.registers, "stack": found.stack,
            "products": sum(n for i, n in found.loop.items() if i.endswith("MMA")),
            "loop": sum(found.loop.values()), "shared": found.shared,
            "tensor_core": bool(re.search(aot.TENSOR_CORE[capability], found.ptx)),
            "fused": bool(re.search(r"fma\\.rn\\.f32", found.ptx)),
            "unpacked": len(re.findall(r"0x1010101|16843009", found.ptx)),
        }))
"""


def compiled(capability, *names):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", SCRIPT, str(capability), *names]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}


def check(row):
    assert row["tensor_core"], "no integer products on the tensor cores"
    assert row["products"] > 0
    # The specification rounds twice where a fused multiply-add rounds once.
    assert not row["fused"]
    assert row["shared"] <= 160 * 1024, "more than an A100 has"


@pytest.mark.parametrize("capability", GENERATIONS)
def test_codes_are_decoded_in_registers_and_multiplied_on_tensor_cores(capability):
    rows = compiled(capability, "3x3, 2 bits to 2 bits", "packed weights", "bytes")
    for row in rows.values():
        check(row)
    assert len(rows) == 3
    assert rows["3x3, 2 bits to 2 bits"]["stack"] == rows["packed weights"]["stack"] == 0
    # One mask per bit and step, four channels at a time: not one per channel.
    assert rows["3x3, 2 bits to 2 bits"]["unpacked"] > 0
    assert rows["packed weights"]["unpacked"] > rows["3x3, 2 bits to 2 bits"]["unpacked"]


@pytest.mark.slow
@pytest.mark.parametrize("capability", GENERATIONS)
def test_every_form_uses_the_tensor_cores(capability):
    rows = compiled(capability)
    assert len(rows) >= 8
    for row in rows.values():
        check(row)
