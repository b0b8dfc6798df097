"""Compile kernels for GPUs that are not here, and count what they were compiled to.

    python -m rsquant.kernels.gpu.aot [CAPABILITY ...]

prints a line per form of the convolution and capability (80: Ampere, 90: Hopper, 100: Blackwell):
the tensor cores' instruction, how many instructions the inner loop and the whole kernel have, and
registers. That needs no GPU and is how tiles were chosen without one.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rsquant.kernels.gpu.conv import Tile, conv_kernel
from rsquant.kernels.gpu.words import FLOAT_FIELD, IMAGE_FIELD

CAPABILITIES = (80, 90, 100)
# The integer products of each generation's tensor cores, as PTX has them.
TENSOR_CORE = {
    80: r"mma\.sync\S*\.s32\.s8\.s8\.s32",
    90: r"wgmma\.mma_async\S*\.s32\.s8\.s8",
    100: r"tcgen05\.mma\S*\.kind::i8",
}
_POINTERS = {
    "w_basis_ptr": "*i32",
    "outside_ptr": "*i32",
    "correction_ptr": "*i32",
    "scale_ptr": "*fp32",
    "shift_ptr": "*fp32",
    "sign_ptr": "*i32",
    "steps_ptr": "*i32",
    "add_ptr": "*fp32",
    "keep_ptr": "*fp32",
    "codes_ptr": "*i32",
}
# Numbers that are multiples of 16 in the layers that matter.
_MULTIPLES = ("row_size", "part_size", "out_channels")


@dataclass(frozen=True)
class Form:
    """A form of the convolution that networks use.

    Attributes:
        tile: how it is cut up.
        in_bits, out_bits: of codes; 0: the image, no codes. floats: the input is float values.
        parts: bytes of a weight. whole: a step's words belong to one tap.
        add, keep: a residual sum is added to, and stored.
    """

    name: str
    tile: Tile
    in_bits: int = 2
    weight_bits: int = 2
    out_bits: int = 2
    parts: int = 1
    whole: bool = True
    add: bool = False
    keep: bool = False
    floats: bool = False


FORMS = (
    Form("3x3, 2 bits to 2 bits", Tile(128, 128, 128, 8, 3)),
    Form("3x3, wide", Tile(128, 256, 128, 8, 3)),
    Form("3x3, 64 channels", Tile(128, 64, 64, 4, 4)),
    Form("packed weights", Tile(128, 128, 128, 8, 3, packed=True)),
    Form("1x1 into a residual sum", Tile(128, 64, 64, 4, 4), add=True, keep=True),
    Form("the image", Tile(128, 64, 64, 4, 3), in_bits=0, weight_bits=0, parts=2, whole=False),
    Form("floats, 1x1", Tile(64, 128, 64, 8, 3), 0, 2, 0, keep=True, floats=True),
    Form("1 bit", Tile(128, 64, 128, 4, 3), 1, 1, 1),
    Form("4 bits", Tile(128, 64, 64, 4, 3), 4, 4, 4),
)


@dataclass(frozen=True)
class Compiled:
    """What a kernel became.

    Attributes:
        ptx: its PTX.
        registers, stack: per thread, and bytes of spilled ones. shared: bytes a program needs.
        loop: instructions of the inner loop that holds the products, by name; all: of the kernel.
    """

    ptx: str
    registers: int
    stack: int
    shared: int
    loop: Mapping[str, int]
    all: int


def compile_conv(form: Form, capability: int) -> Compiled:
    """Compile a form of the convolution."""
    tile, field = form.tile, {0: 0, 1: 1, 2: 2, 3: 4, 4: 4}
    in_field = FLOAT_FIELD if form.floats else field[form.in_bits] or IMAGE_FIELD
    integer = not (form.add or form.keep)
    constants = {
        "BM": tile.bm,
        "BN": tile.bn,
        "BK": tile.bk,
        "IN_BITS": form.in_bits,
        "IN_FIELD": in_field,
        "W_BITS": form.weight_bits if tile.packed else 0,
        "PARTS": form.parts,
        "WHOLE": form.whole,
        "OUTSIDE": False,
        "HAS_ADD": form.add,
        "HAS_KEEP": form.keep,
        "OUT_BITS": form.out_bits,
        "OUT_FIELD": field[form.out_bits],
        "INTEGER": integer,
    }
    pointers = {
        **_POINTERS,
        "x_ptr": "*fp32" if form.floats else "*i32",
        "w_ptr": "*i32" if tile.packed else "*i8",
        "thresholds_ptr": "*i32" if integer else "*fp32",
    }
    numbers = ("low", "high", "inverse_step", "input_limit")
    types = {**pointers, **dict.fromkeys(numbers, "fp32")}
    options = {"num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": False}
    return compile_kernel(conv_kernel, types, constants, _MULTIPLES, capability, options)


def compile_kernel(
    kernel: Any,
    types: Mapping[str, str],
    constants: Mapping[str, Any],
    multiples: tuple[str, ...],
    capability: int,
    options: Mapping[str, Any],
) -> Compiled:
    """Compile any kernel.

    Args:
        types: Triton's names of the arguments' types; "i32" where none is given. Pointers are
            taken to be aligned to 16 bytes.
        constants: values of the constant arguments.
        multiples: numbers that are multiples of 16.
    """
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in names}
    aligned = [n for n in names if n in multiples or signature[n].startswith("*")]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(n),): value for n, value in constants.items()},
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in aligned},
    )
    target = GPUTarget("cuda", capability, 32)
    built = triton.compile(source, target=target, options=dict(options))
    code = _disassembled(built.asm["cubin"], "-sass")
    usage = _disassembled(built.asm["cubin"], "-res-usage")
    registers, stack = (int(re.findall(rf"{what}:(\d+)", usage)[-1]) for what in ("REG", "STACK"))
    instructions = _instructions(code)
    return Compiled(
        built.asm["ptx"],
        registers,
        stack,
        built.metadata.shared,
        _loop(instructions),
        len(instructions),
    )


def _disassembled(binary: bytes, option: str) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(binary)
        command = [str(tool), option, str(file)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _instructions(code: str) -> list[tuple[int, str, str]]:
    """(address, name, operands) of every instruction."""
    line = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)([^;]*);")
    found = (line.search(text) for text in code.splitlines())
    return [(int(m[1], 16), m[2], m[3]) for m in found if m]


def _loop(instructions: list[tuple[int, str, str]]) -> dict[str, int]:
    """Instructions of the smallest loop with tensor-core products in it, by name."""
    loops = []
    for address, name, operands in instructions:
        target = re.search(r"0x([0-9a-f]+)", operands) if name.startswith("BRA") else None
        if target is None or int(target[1], 16) >= address:
            continue
        inside = [n.split(".")[0] for a, n, _ in instructions if int(target[1], 16) <= a <= address]
        if any(n.endswith("MMA") for n in inside):
            loops.append(inside)
    smallest = min(loops, key=len, default=[])
    return {name: smallest.count(name) for name in sorted(set(smallest))}


def _main(capabilities: list[int]) -> None:
    for capability in capabilities or CAPABILITIES:
        for form in FORMS:
            found = compile_conv(form, capability)
            products = {n: c for n, c in found.loop.items() if n.endswith("MMA")}
            uses = bool(re.search(TENSOR_CORE[capability], found.ptx))
            print(
                f"sm_{capability} {form.name} ({form.tile}): "
                f"{'tensor cores' if uses else 'NO tensor cores'} {products}, loop "
                f"{sum(found.loop.values())}, kernel {found.all} instructions, "
                f"{found.registers} registers, {found.stack} bytes spilled, {found.shared} shared"
            )


if __name__ == "__main__":
    _main([int(text) for text in sys.argv[1:]])
