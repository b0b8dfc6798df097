"""Each convolution of a network on its own: GMAC/s beside what the arithmetic units can do.

A layer is timed in its place, in a packed network that runs as a whole, epilogue and packing of
its output included. The bound is a loop of the kernel's dot products on registers, timed in the
same rounds. Both figures are of the fastest round, as anything else on the machine only slows
them; the median shows how much that was.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rsquant.bench.rows import CpuLayerRow
from rsquant.bench.subject import Subject
from rsquant.kernels import backends
from rsquant.nn.sizes import check_smallest
from rsquant.packed.ops.conv import ConvStep
from rsquant.packed.program import Program
from rsquant.packing.write import pack
from rsquant.runtime import Session, load

ROUNDS = 15
# What a kernel multiplies with; Winograd's is compared with the direct kernel's bound. `lookup`
# takes planes of weights two by two, and an odd one on its own; of small inputs it does nothing but
# add up bytes for several steps.
MIX = {
    "image": ("words",),
    "direct_words": ("words",),
    "direct_float": ("words",),
    "bitplanes": ("bits",),
    "lookup": ("pair", "plane", "sums"),
}
BYTES = ("bytes",)


def bench_kernels(
    subjects: Sequence[Subject],
    resolutions: Sequence[int] | None = None,
    rounds: int = ROUNDS,
    step: Callable[[str, float], None] = lambda *_: None,
) -> list[CpuLayerRow]:
    """Time every kernel of the active instruction set on every layer, on one thread.

    Args:
        subjects: networks of low bits on both sides.
        resolutions: sizes in pixels; None means each network's.
        step: called with what is being done and the share of all done, 0 to 1.
    Returns:
        A row per distinct layer, size and kernel.
    """
    isa = backends.active()
    rows = []
    for number, subject in enumerate(subjects):
        network, arch = subject.network, subject.network.spec.arch
        sizes = tuple(dict.fromkeys(resolutions or network.resolutions))
        check_smallest(sizes, network.stride, arch)

        def part(what: str, done: float, number: int = number) -> None:
            step(what, (number + done) / len(subjects))

        with tempfile.TemporaryDirectory(prefix="rsquant-bench-") as folder:
            path = Path(folder) / "packed.rsq"
            part(f"packing {arch}", 0.0)
            pack(network, path)
            sessions = {
                name: load(path, threads=1, isa=isa, kernel=name, tune=False)
                for name in backends.native().all_conv_kernels(isa)
            }
            times, bounds = _measure(isa, sessions, sizes, rounds, partial(part, arch))
        for size in sizes:
            rows += _rows(arch, size, isa, sessions, times, bounds)
    return rows


def _measure(
    isa: str,
    sessions: dict[str, Session],
    sizes: Sequence[int],
    rounds: int,
    progress: Callable[[float], None],
) -> tuple[dict[tuple[str, int], list[list[float]]], dict[str, float]]:
    """Seconds of each step by kernel and size, a list per round; the best bound of each mix."""
    times: dict[tuple[str, int], list[list[float]]] = {
        (name, size): [] for name in sessions for size in sizes
    }
    mixes = (mix for name in sessions for mix in MIX.get(name, BYTES))
    bounds = dict.fromkeys(mixes, 0.0)
    order = list(times)
    rng = random.Random(0)
    for index in range(rounds):
        rng.shuffle(order)
        for mix in bounds:
            bounds[mix] = max(bounds[mix], backends.native().peak(isa, mix))
        for name, size in order:
            seconds = [s for _, s in sessions[name].step_seconds(size, 2)]
            times[name, size].append(seconds)
        progress((index + 1) / rounds)
    return times, bounds


def _rows(
    arch: str,
    size: int,
    isa: str,
    sessions: dict[str, Session],
    times: dict[tuple[str, int], list[list[float]]],
    bounds: dict[str, float],
) -> list[CpuLayerRow]:
    rows: dict[tuple[Any, ...], CpuLayerRow] = {}
    for name, session in sessions.items():
        program = session.program(size)
        used = session.kernels(size)
        seconds = np.array(times[name, size])[:, 1:]  # the first step loads the image
        for number, layer in enumerate(program.steps):
            # A session runs what a kernel cannot compute on another one.
            if not isinstance(layer, ConvStep) or used[layer.name] != name:
                continue
            macs, form = multiply_adds(program, layer), _form(program, layer)
            if (name, *form) in rows:
                continue
            fastest, median = seconds[:, number].min(), np.median(seconds[:, number])
            _, bound = bound_of(name, layer, bounds, isa)
            rows[name, *form] = CpuLayerRow(
                arch=arch,
                layer=layer.name,
                in_channels=form[0],
                out_channels=form[1],
                kernel=f"{layer.kernel[0]}x{layer.kernel[1]}",
                stride=layer.stride[0],
                resolution=size,
                output=form[-1],
                isa=isa,
                algorithm=name,
                ms=round(float(fastest) * 1e3, 4),
                gmacs=round(macs / fastest / 1e9, 2),
                median_gmacs=round(macs / float(median) / 1e9, 2),
                bound_gmacs=round(bound, 2),
                share_of_bound=round(macs / fastest / 1e9 / bound, 3),
            )
    return list(rows.values())


def bound_of(name: str, layer: ConvStep, bounds: dict[str, float], isa: str) -> tuple[str, float]:
    """What a kernel's products are made of, and GMAC/s of them on registers."""
    mix = MIX.get(name, BYTES)[0]
    if name != "lookup":
        return mix, bounds[mix]
    pairs, single = divmod(layer.form.weight_bits, 2)
    if layer.form.input_limit <= backends.native().sums_limit(isa):
        return "sums", bounds["sums"] / (pairs + single / 2)
    return mix, 1.0 / (pairs / bounds["pair"] + single / bounds["plane"])


def multiply_adds(program: Program, layer: ConvStep) -> float:
    """Multiply-adds of a layer."""
    output = program.values[layer.writes[0]]
    taps = layer.kernel[0] * layer.kernel[1] * _channels(layer) // layer.groups
    return float(output.height * output.width * layer.out_channels * taps)


def _channels(layer: ConvStep) -> int:
    # The image's fourth channel is ours, not the network's.
    return 3 if layer.input == 0 else layer.in_channels


def _form(program: Program, layer: ConvStep) -> tuple[Any, ...]:
    """What distinguishes a layer from others."""
    epilogue = layer.epilogue
    return (
        _channels(layer),
        layer.out_channels,
        layer.kernel,
        layer.stride,
        epilogue.integer,
        epilogue.keep is not None,
        epilogue.add is not None,
        program.values[layer.writes[0]].height,
    )
