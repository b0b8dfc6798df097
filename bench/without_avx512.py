"""Run a command in which onnxruntime finds a processor with AVX2 but without AVX-512 and VNNI.

    RSQUANT_ISA=avx2 python bench/without_avx512.py rsquant bench networks FILE --threads 1

onnxruntime chooses its kernels by the processor and has no option for it. So the command gets a
copy of onnxruntime (first in PYTHONPATH, in a temporary folder) in which every CPUID instruction
is replaced by UD2, which has the same two bytes. A small library, preloaded, answers the SIGILL
that UD2 raises: it executes CPUID, clears the bits of AVX-512, AVX-VNNI, AVX10 and AMX in leaf 7,
and goes on behind it. CPUID runs when the library is loaded and sessions are made, not in kernels,
so nothing else changes. PyTorch and rsquant are left alone; RSQUANT_ISA chooses for rsquant.

Needs Linux on x86-64, a C compiler and objdump. Before the command runs, this prints how long one
int8 product takes in onnxruntime as it is and in the copy: the copy's must be clearly slower where
there is VNNI.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

HANDLER = r"""
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

static void answer(int number, siginfo_t* info, void* context) {
  greg_t* r = ((ucontext_t*)context)->uc_mcontext.gregs;
  (void)info;
  if (memcmp((const void*)r[REG_RIP], "\x0f\x0b", 2) != 0) {  /* another illegal instruction */
    signal(number, SIG_DFL);
    return;
  }
  unsigned leaf = (unsigned)r[REG_RAX], sub = (unsigned)r[REG_RCX], a, b, c, d;
  __cpuid_count(leaf, sub, a, b, c, d);
  if (leaf == 7 && sub == 0) {
    /* F DQ IFMA PF ER CD BW VL; VBMI VBMI2 VNNI BITALG VPOPCNTDQ;
       4VNNIW 4FMAPS VP2INTERSECT AMX-BF16 FP16 AMX-TILE AMX-INT8 */
    b &= ~(1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31);
    c &= ~(1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14);
    d &= ~(1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25);
  } else if (leaf == 7 && sub == 1) {
    /* AVX-VNNI AVX512-BF16 AMX-FP16 AVX-IFMA; AVX-VNNI-INT8, AVX-NE-CONVERT, -INT16, AVX10 */
    a &= ~(1u << 4 | 1u << 5 | 1u << 21 | 1u << 23);
    d &= ~(1u << 4 | 1u << 5 | 1u << 10 | 1u << 19);
  }
  r[REG_RAX] = a, r[REG_RBX] = b, r[REG_RCX] = c, r[REG_RDX] = d;
  r[REG_RIP] += 2;
}

__attribute__((constructor)) static void install(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = answer;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGILL, &action, 0);
}
"""

PRODUCT = """
import time, numpy as np, onnx, onnxruntime as ort
from onnx import helper, TensorProto as T
s = 512
b = np.random.default_rng(0).integers(-64, 65, (s, s), np.int8)
g = helper.make_graph(
    [helper.make_node("MatMulInteger", ["x", "w"], ["y"])], "g",
    [helper.make_tensor_value_info("x", T.UINT8, [s, s])],
    [helper.make_tensor_value_info("y", T.INT32, [s, s])], [onnx.numpy_helper.from_array(b, "w")])
m = helper.make_model(g, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
o = ort.SessionOptions()
o.intra_op_num_threads = 1
r = ort.InferenceSession(m.SerializeToString(), o, providers=["CPUExecutionProvider"])
x = np.random.default_rng(1).integers(0, 256, (s, s), np.uint8)
times = []
for _ in range(200):
    start = time.thread_time()
    y = r.run(None, {"x": x})[0]
    times.append(time.thread_time() - start)
assert (y == x.astype(np.int32) @ b.astype(np.int32)).all()
print(f"{s ** 3 / min(times) / 1e9:.0f}")
"""


def cpuid_offsets(library: Path) -> list[int]:
    """Where CPUID instructions are in the file: a disassembly knows them from other 0F A2 bytes."""
    sections = subprocess.run(
        ["objdump", "-h", "-w", library], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r" \.text +(\w+) +(\w+) +\w+ +(\w+)", sections)
    assert found is not None
    _, address, offset = (int(field, 16) for field in found.groups())
    code = subprocess.Popen(
        ["objdump", "-d", "-j", ".text", library], stdout=subprocess.PIPE, text=True
    )
    assert code.stdout is not None
    lines = (line for line in code.stdout if line.rstrip().endswith("\tcpuid"))
    return [int(line.split(":")[0], 16) - address + offset for line in lines]


def copy_without(folder: Path) -> dict[str, str]:
    """An environment whose onnxruntime is a copy in `folder` that finds no AVX-512."""
    spec = find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        sys.exit("onnxruntime is not installed: pip install onnxruntime")
    package = Path(spec.origin).parent
    copy = folder / "onnxruntime"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (library,) = (copy / "capi").glob("onnxruntime_pybind11_state*.so")
    code = bytearray(library.read_bytes())
    for offset in cpuid_offsets(library):
        assert code[offset : offset + 2] == b"\x0f\xa2"
        code[offset : offset + 2] = b"\x0f\x0b"
    library.write_bytes(code)
    (folder / "handler.c").write_text(HANDLER)
    handler = folder / "handler.so"
    command = ["cc", "-O1", "-shared", "-fPIC", "-o", handler, folder / "handler.c"]
    subprocess.run(command, check=True)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "LD_PRELOAD": str(handler), "PYTHONPATH": path}


def gmacs(environment: dict[str, str]) -> str:
    """1e9 multiply-adds a second of an int8 product, one thread."""
    command = [sys.executable, "-P", "-c", PRODUCT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        environment = copy_without(Path(folder))
        own = gmacs(dict(os.environ))
        print(f"int8 product, GMAC/s: {own} as installed, {gmacs(environment)} without AVX-512")
        sys.stdout.flush()
        sys.exit(subprocess.run(sys.argv[1:], env=environment).returncode)


if __name__ == "__main__":
    main()
