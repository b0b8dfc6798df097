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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from rsquant.kernels.gpu.conv import convolve
from rsquant.kernels.gpu.conv_tiles import Geometry, Tile
from rsquant.kernels.gpu.epilogue import Tables
from rsquant.kernels.gpu.weights import ROW_BYTES, Weights
from rsquant.kernels.gpu.words import FLOAT_FIELD, IMAGE_FIELD, field_bits, word_channels

CAPABILITIES = (80, 90, 100)
# The integer products of each generation's tensor cores, as PTX has them.
TENSOR_CORE = {
    80: r"mma\.sync\S*\.s32\.s8\.s8\.s32",
    90: r"wgmma\.mma_async\S*\.s32\.s8\.s8",
    100: r"tcgen05\.mma\S*\.kind::i8",
}


@dataclass(frozen=True)
class Form:
    """A form of the convolution that networks use.

    Attributes:
        tile: how it is cut up.
        in_bits, out_bits: of codes; 0: the image, no codes. floats: the input is float values.
        parts: bytes of a weight.
        add, keep: a residual sum is added to, and stored.
    """

    name: str
    tile: Tile
    in_bits: int = 2
    weight_bits: int = 2
    out_bits: int = 2
    parts: int = 1
    add: bool = False
    keep: bool = False
    floats: bool = False


FORMS = (
    Form("3x3, 2 bits to 2 bits", Tile(128, 128, 128, 8, 3)),
    Form("3x3, wide", Tile(128, 256, 128, 8, 3)),
    Form("3x3, 64 channels", Tile(128, 64, 64, 4, 4)),
    Form("packed weights", Tile(128, 128, 128, 8, 3, packed=True)),
    Form("1x1 into a residual sum", Tile(128, 64, 64, 4, 4), add=True, keep=True),
    Form("the image", Tile(128, 64, 64, 4, 3), in_bits=0, weight_bits=0, parts=2),
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


class _Target:
    """In the place of Triton's driver: the GPU to compile for. Nothing can be launched on it."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        # Triton keeps what it compiled by device.
        return self.capability

    def get_current_stream(self, _: int) -> int:
        return 0


def compile_launches(call: Callable[[], object], capability: int) -> list[Any]:
    """Compile what a call launches, as it would be on that GPU; nothing runs.

    Args:
        call: of functions of this package, on tensors on the CPU.
    Returns:
        Triton's compiled kernels, in the order of the launches.
    """
    built: list[Any] = []
    run, before = JITFunction.run, driver._active

    def compile_only(kernel: Any, *args: Any, warmup: bool, **given: Any) -> None:
        built.append(run(kernel, *args, warmup=True, **given))

    JITFunction.run = compile_only
    driver.set_active(_Target(capability))
    try:
        call()
    finally:
        JITFunction.run = run
        driver.set_active(before)
    return built


def _inspected(kernel: Any) -> Compiled:
    code = _disassembled(kernel.asm["cubin"], "-sass")
    usage = _disassembled(kernel.asm["cubin"], "-res-usage")
    registers, stack = (int(re.findall(rf"{what}:(\d+)", usage)[-1]) for what in ("REG", "STACK"))
    instructions = _instructions(code)
    return Compiled(
        kernel.asm["ptx"],
        registers,
        stack,
        kernel.metadata.shared,
        _loop(instructions),
        len(instructions),
    )


def compile_conv(form: Form, capability: int) -> Compiled:
    """Compile a form of the convolution, of 128 channels to 256."""
    tile, channels = form.tile, 128
    field = IMAGE_FIELD if form.in_bits == 0 else field_bits(form.in_bits)
    field = FLOAT_FIELD if form.floats else field
    if field == IMAGE_FIELD:
        channels = 4
    group_words = -(-channels // word_channels(field))
    form_of = Geometry(1, 16, 16, channels, 16, 16, 256, (3, 3), (1, 1), (1, 1), (1, 1))
    row = -(-9 * channels // ROW_BYTES) * ROW_BYTES
    packed = tile.packed
    weights = Weights(
        levels=torch.empty(form.parts, 1, 256, row, dtype=torch.int8),
        packed=_integers(256, row // word_channels(field)) if packed else None,
        basis=_integers(256, 5) if packed else None,
        groups=1,
        group_words=group_words,
        bits=form.weight_bits if packed else 0,
        correction=_integers(256),
    )
    integer = not (form.add or form.keep)
    levels = 2**form.out_bits
    thresholds = _integers(levels - 1, 256)
    tables = Tables(
        scale=torch.empty(256),
        shift=torch.empty(256),
        sign=_integers(256),
        thresholds=thresholds if integer else thresholds.float(),
        steps=_integers(levels),
        low=0.0,
        high=1.0,
        bits=form.out_bits,
        field=field_bits(form.out_bits),
        integer=integer,
    )
    x = _integers(1, 16, 16, group_words)
    residual = torch.empty(1, 16, 16, 256)
    codes = None
    if form.out_bits:
        codes = _integers(1, 16, 16, 256 // word_channels(tables.field))
    (found,) = compile_launches(
        lambda: convolve(
            form_of,
            x.float() if form.floats else x,
            weights,
            tables,
            tile,
            (1,) * form.in_bits,
            field,
            None,
            residual if form.add else None,
            residual if form.keep else None,
            codes,
        ),
        capability,
    )
    return _inspected(found)


def _integers(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int32)


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
