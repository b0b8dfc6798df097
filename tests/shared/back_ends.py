"""One packed network on every back end there is, against its specification."""

import numpy as np
import torch
from gpu_values import all_values
from low_memory import without_layouts

import rsquant
from rsquant.kernels import available
from rsquant.packed import program as packed_program
from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed
from rsquant.packed.format import read_packed, write_packed
from rsquant.packing.write import pack
from rsquant.runtime import load
from rsquant.runtime.gpu import GpuSession

ISAS = [isa.name for isa in available() if isa.usable]


def pixels_of(count, height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3, height, width), dtype=np.uint8)


def converted(body, sizes, vary, abits=2, **options):
    """A 2-bit network on the coarse grid whose BatchNorms differ at each size."""
    torch.manual_seed(0)
    network = rsquant.convert(body, 2, abits, sizes, grid="coarse", **options)
    vary(network)
    return network.eval()


def packed_file(network, folder):
    path = folder / "network.rsq"
    pack(network, path)
    return path


def changed_file(path, op, change, folder):
    """A copy of a packed file with other fields in its one step of an operation."""
    tensors, metadata = read_packed(path)
    (step,) = [step for step in metadata["steps"] if step["op"] == op]
    step.update(change)
    write_packed(folder / "bad.rsq", tensors, metadata)
    return folder / "bad.rsq"


def assert_equal_everywhere(path, sides, gpu=None):
    """Every value on every instruction set, with 1 and 3 threads, and on a GPU where one is given.

    Args:
        sides: heights and widths of the images.
    Returns:
        The program at the last of them.
    """
    for height, width in sides:
        program = build_program(open_packed(path), height, width)
        pixels = pixels_of(1, height, width)
        logits, values = packed_program.run(program, pixels, every=True)
        for isa in ISAS:
            for threads, memory in ((1, "full"), (3, "low")):
                with without_layouts():
                    session = load(path, threads, memory, isa, tune=False)
                    for number, expected in enumerate(values):
                        found = session.value(pixels, number)
                        np.testing.assert_array_equal(found, expected[0], f"{isa}, value {number}")
                    np.testing.assert_array_equal(session(pixels), logits)
        if gpu is not None:
            on_gpu = GpuSession(open_packed(path), str(gpu), False, True, 1)
            for number, (expected, found) in enumerate(
                zip(values, all_values(on_gpu, pixels), strict=True)
            ):
                np.testing.assert_array_equal(found, expected, f"GPU, value {number}")
    return program
