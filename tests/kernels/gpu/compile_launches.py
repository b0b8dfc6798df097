"""Compile every kernel that packed networks launch, for a GPU that need not be here.

    python compile_launches.py CAPABILITY

prints a JSON line per launch. Triton compiles only what was defined outside its interpreter: the
tests run this by itself.
"""

import importlib
import json
import pkgutil
import re
import sys

import torch
from triton.runtime.jit import JITFunction

from rsquant.kernels import gpu
from rsquant.kernels.gpu import aot, epilogue, words
from rsquant.kernels.gpu.binary import binary
from rsquant.kernels.gpu.channels import channels
from rsquant.kernels.gpu.concat import concat
from rsquant.kernels.gpu.elementwise import elementwise
from rsquant.kernels.gpu.flatten import flatten
from rsquant.kernels.gpu.function import function
from rsquant.kernels.gpu.image import load_image
from rsquant.kernels.gpu.linear import linear
from rsquant.kernels.gpu.pad import pad
from rsquant.kernels.gpu.pool import average_pool, average_windows, max_pool
from rsquant.kernels.gpu.resize import resize

# By `compile_quantize` and `test_aot`.
ELSEWHERE = {"activations", "activation_basis", "clip", "weights", "conv"}
C = 48


def integers(*shape):
    return torch.zeros(shape, dtype=torch.int32)


def floats(*shape):
    return torch.zeros(shape)


def ends():
    """Tables, and the values added, kept and written, by the bits of the codes."""
    for bits in (0, 1, 2, 3, 4):
        field = words.field_bits(bits)
        tables = epilogue.Tables(
            scale=floats(C),
            shift=floats(C),
            sign=integers(C),
            thresholds=floats(2**bits - 1, C),
            steps=integers(2**bits),
            low=0.0,
            high=1.0,
            bits=bits,
            field=field,
            integer=False,
        )
        codes = integers(1, 4, 4, words.words_of(C, field)) if bits else None
        sums = floats(1, 4, 4, C)
        yield tables, None, None if bits else sums, codes
        if bits in (0, 2):
            yield tables, sums, sums, codes


def maps():
    """Kernels that end in an epilogue, of floats and of codes; each kind of end, each of input."""
    for number, (tables, *targets) in enumerate(ends()):
        bits = (0, 2, 3, 4, 1)[number % 5]
        x = integers(1, 4, 4, words.words_of(C, words.field_bits(bits))) if bits else None
        x, basis = floats(1, 4, 4, C) if x is None else x, tuple(range(1, bits + 1))
        elementwise(x, C, tables, basis, *targets)
        function(x, C, -8.0, 1 / 64, (floats(256),) * 3, tables, basis, *targets)
        gate = floats(*((1, 4, 4, C), (1, 1, 1, C), (1, 4, 4, 1))[number % 3])
        binary(floats(1, 4, 4, C), gate, number % 2 == 0, (4, 4, C), tables, *targets)


def others():
    """All the rest."""
    small, large = floats(1, 4, 4, C), floats(1, 8, 8, C)
    edges, shares = integers(4, 2), floats(8, 2)
    load_image(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), integers(1, 8, 8, 1))
    weight = torch.zeros(10, C, dtype=torch.int8)
    linear(floats(2, C), weight, floats(10), floats(10), floats(2, 10))
    for bits in (0, 2, 3):
        of = words.words_of(C, words.field_bits(bits)) if bits else C
        x, out = (integers(1, s, s, of) if bits else floats(1, s, s, of) for s in (8, 4))
        max_pool(x, out, edges, edges, (3, 3), (1, 2), tuple(range(1, bits + 1)))
    average_pool(large, floats(C), floats(C), 0.0, 1.0, floats(1, 1, 1, C))
    average_windows(large, small, edges, edges, (3, 3), floats(4, 4))
    for blend in (True, False):
        resize(small, large, integers(8, 2), shares, integers(8, 2), shares, blend)
    pad(small, floats(1, 6, 6, C + 2), 1, -1, 1, 0.5)
    concat([small, small], floats(1, 4, 4, 2 * C))
    channels(small, integers(7), floats(1, 4, 4, 7))
    flatten(small, floats(1, 1, 1, 16 * C))


def kernels():
    """Names of all kernels there are, without "_kernel"."""
    found = set()
    for module in pkgutil.iter_modules(gpu.__path__):
        for name, value in vars(importlib.import_module(f"{gpu.__name__}.{module.name}")).items():
            if isinstance(value, JITFunction) and name.endswith("_kernel"):
                found.add(name.removesuffix("_kernel"))
    return found


def main(capability):
    seen = set()
    for call in (maps, others):
        for kernel in aot.compile_launches(call, int(capability)):
            name = kernel.metadata.name.removesuffix("_kernel")
            seen.add(name)
            fused = len(re.findall(r"\bfma\.rn\.f32", kernel.asm["ptx"]))
            print(json.dumps({"name": name, "fused": fused}))
    print(json.dumps({"missing": sorted(kernels() - seen - ELSEWHERE)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
