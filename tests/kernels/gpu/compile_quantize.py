"""Compile the quantizer's kernels for a GPU that need not be here; prints a JSON line per form.

    python compile_quantize.py CAPABILITY BITS LIMIT [FORM ...]

Triton compiles only what was defined outside its interpreter: the tests run this by itself.
"""

import json
import re
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rsquant.kernels.gpu import quantize
from rsquant.kernels.integer_bases import EXACT, integer_bases

POINTERS = {
    "basis_ptr": "*fp32",
    "table_ptr": "*fp64",
    "level_ptr": "*fp32",
    "partial_ptr": "*fp64",
}
SIZES = ("size", "values")


def forms(bits, limit):
    """Name: kernel, type of its values, type of their number, what is constant."""
    made = {}
    counts = [
        integer_bases(bits, limit, signed)[0].shape[1] if 1 <= limit <= EXACT else 0
        for signed in (False, True)
    ]
    for dtype, vector in (("fp32", 4), ("bf16", 8), ("fp16", 8)):
        tile = {
            "BITS": bits,
            "LIMIT": limit,
            "COUNT": counts[0],
            "REPEATS": 16 // vector,
            "VECTOR": vector,
        }
        for name, stats in (("activations", True), ("no counts", False)):
            made[f"{name} {dtype}"] = (
                quantize.activations_kernel,
                dtype,
                "i32",
                {**tile, "STATS": stats},
            )
        made[f"gradient {dtype}"] = (
            quantize.clip_kernel,
            dtype,
            "i32",
            {"LEVELS": 2**bits, "SIZE": 2048},
        )
    tile = made["activations fp32"][-1]
    made["one value"] = quantize.activations_kernel, "fp32", "i32", {**tile, "size": 1}
    made["more than 2**31"] = quantize.activations_kernel, "fp32", "i64", tile
    steps = {"BITS": bits, "LIMIT": limit, "COUNT": counts[0], "MOMENTUM": 0.9}
    made["basis"] = quantize.activation_basis_kernel, "fp32", "i32", steps
    row = {**steps, "COUNT": counts[1], "RIDGE": 1e-4, "REPEATS": 4, "VECTOR": 4}
    made["weights"] = quantize.weights_kernel, "fp32", "i32", {**row, "MOVE": True}
    made["still weights"] = quantize.weights_kernel, "fp32", "i32", {**row, "MOVE": False}
    return made


def compiled(capability, kernel, dtype, size, constants):
    """The PTX, for values that are aligned and whose number is a multiple of 16."""
    signature, aligned = {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        if name.endswith("_ptr"):
            signature[name] = POINTERS.get(name, "*" + dtype)
        else:
            signature[name] = size if name in SIZES else "i32"
        if name.endswith("_ptr") or name in SIZES:
            aligned[index,] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, aligned)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options=quantize._OPTIONS).asm["ptx"]


def in_loops(ptx):
    """The lines between a label and a later branch back to it."""
    lines = ptx.splitlines()
    labels = {line.split(":")[0]: i for i, line in enumerate(lines) if line.startswith("$L")}
    inside = set()
    for i, line in enumerate(lines):
        branch = re.search(r"\bbra\S*\s+(\$L\w+);", line)
        if branch and labels[branch[1]] < i:
            inside.update(range(labels[branch[1]], i))
    return "\n".join(lines[i] for i in sorted(inside))


def main(capability, bits, limit, *names):
    for name, form in forms(int(bits), int(limit)).items():
        if names and name not in names:
            continue
        ptx = compiled(int(capability), *form)
        found = {
            "name": name,
            "wide_loads": len(re.findall(r"ld\.global\S*\.v4\.b32", ptx)),
            "wide_stores": len(re.findall(r"st\.global\S*\.v4\.b32", ptx)),
            "narrow": len(re.findall(r"(?:ld|st)\.global\S*\.b16", ptx)),
            "atomics": len(re.findall(r"\b(?:atom|red)\.", ptx)),
            "fused": len(re.findall(r"\bfma\.rn", ptx)),
            "looped_loads": len(re.findall(r"ld\.global\S*\.v4\.b32", in_loops(ptx))),
            "looped_exchanges": len(re.findall(r"shfl|bar\.sync", in_loops(ptx))),
        }
        print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
