"""Packed networks with the lookup kernel and without it, full and low memory, interleaved.

    python bench/lookup.py resnet18 avx2          # 60 seconds; also: --seconds, --wbits, --abits

Times are the processor's, of one thread, so that other programs on the machine count as little as
they can.
"""

import argparse
import os
import random
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np

import rsquant
from rsquant.packing.write import pack
from rsquant.runtime import load
from rsquant.runtime.cpu import choice

SIZES = (224, 96)


def without_lookup(isa, form):
    return tuple(name for name in eligible_kernels(isa, form) if name != "lookup")


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("arch")
parser.add_argument("isa")
parser.add_argument("--seconds", type=float, default=60.0)
parser.add_argument("--wbits", type=int, default=2)
parser.add_argument("--abits", type=int, default=2)
arguments = parser.parse_args()
images = {
    size: np.random.default_rng(0).integers(0, 256, (1, 3, size, size), np.uint8) for size in SIZES
}
eligible_kernels = choice.eligible_kernels
sessions, expected = {}, None
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "n.rsq"
    bits = {"wbits": arguments.wbits, "abits": arguments.abits}
    pack(rsquant.create(arguments.arch, resolutions=SIZES, num_classes=1000, **bits), path)
    for memory in ("full", "low"):
        for name, eligible in (("without", without_lookup), ("with", eligible_kernels)):
            os.environ["RSQUANT_CACHE"] = str(Path(folder) / name)  # each its own choices
            with mock.patch.object(choice, "eligible_kernels", eligible):
                session = load(path, 1, memory, isa=arguments.isa)
                logits = {size: session(images[size]).tobytes() for size in SIZES}  # loads all
            sessions[memory, name] = session
            assert expected in (None, logits)
            expected = logits
    times = {(key, size): [] for key in sessions for size in SIZES}
    order = list(times)
    end = time.monotonic() + arguments.seconds
    while time.monotonic() < end:
        random.shuffle(order)
        for key, size in order:
            start = time.thread_time()
            sessions[key](images[size])
            times[key, size].append(1e3 * (time.thread_time() - start))
print(f"{arguments.arch} {arguments.wbits}/{arguments.abits} {arguments.isa}, ms: best (median)")
for (key, size), some in times.items():
    print(size, *key, "lookup:", f"{min(some):.2f} ({np.median(some):.2f})")
