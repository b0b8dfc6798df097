"""Where the time of a packed network goes: every step of a call, beside the least it could take.

The steps are timed inside the compiled program as a call runs them, one after the other. Two
things bound a step: its products at the rate of a loop of nothing but products on registers, and
the bytes it reads and writes at the rate of a copy. Both rates are measured in the same rounds,
with as many threads. The copy runs in a block as large as the session's working memory, which is
where steps find what earlier ones wrote. Winograd's kernels need fewer products than are counted,
so they can be faster than their bound.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsquant.bench.kernels import BYTES, MIX, bound_of, multiply_adds
from rsquant.bench.rows import ProfileRow
from rsquant.bench.subject import Subject
from rsquant.bench.timing import MIN_ROUNDS
from rsquant.kernels import backends
from rsquant.packed.ops.base import Step
from rsquant.packed.ops.conv import ConvStep
from rsquant.packed.ops.linear import ByteLinearStep, LinearStep
from rsquant.packed.program import Program, Value
from rsquant.packing.write import pack
from rsquant.runtime import Session, load

BUDGET = 10.0
# The name of the row that is the whole call.
CALL = "call"
_VISIT_SECONDS = 0.1
_MOST_CALLS = 30


def profile_network(
    subject: Subject,
    resolutions: Sequence[int] | None,
    threads: Sequence[int],
    budget: float = BUDGET,
    step: Callable[[str, float], None] = lambda *_: None,
) -> list[ProfileRow]:
    """`profile_file` of a network that is packed for it."""
    with tempfile.TemporaryDirectory(prefix="rsquant-bench-") as folder:
        path = Path(folder) / "packed.rsq"
        step("packing", 0.0)
        pack(subject.network, path)
        return profile_file(path, resolutions, threads, budget, step)


def profile_file(
    path: str | Path,
    resolutions: Sequence[int] | None,
    threads: Sequence[int],
    budget: float = BUDGET,
    step: Callable[[str, float], None] = lambda *_: None,
) -> list[ProfileRow]:
    """Time the steps of a packed network at some sizes with some numbers of threads.

    Args:
        path: a packed file.
        resolutions: sizes in pixels; None means the largest of the file's.
        threads: numbers of threads.
        budget: seconds of the timing; choosing kernels takes its own time.
        step: called with what is being done and the share of all done, 0 to 1.
    Returns:
        For each size and number of threads a row per step in the order they run, then one of the
        whole call.
    Raises:
        PackedFileError: `path` cannot be read.
        ModelError: too small a size.
    """
    step("choosing kernels", 0.0)
    cases = []
    for count in dict.fromkeys(threads):
        session = load(path, threads=count)
        for size in dict.fromkeys(resolutions or session.resolutions[:1]):
            cases.append(Case(session, size))
    _measure(cases, budget, step)
    return [row for case in cases for row in rows_of(case)]


@dataclass
class Case:
    """A size with a number of threads, and what was measured of it.

    Attributes:
        seconds: of every step, (calls, steps). whole: of calls without clocks between the steps.
        products: 1e9 products a second by mix. copied: 1e9 bytes a second.
    """

    session: Session
    size: int
    seconds: list[NDArray[np.float64]] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    products: dict[str, float] = field(default_factory=dict)
    copied: float = 0.0

    def mixes(self) -> set[str]:
        kernels = self.session.kernels(self.size).values()
        return {mix for name in kernels for mix in MIX.get(name, BYTES)}

    def visit(self) -> None:
        session, threads = self.session, self.session.threads
        for mix in self.mixes():
            found = backends.native().peak(session.isa, mix, threads)
            self.products[mix] = max(self.products.get(mix, 0.0), found)
        found = backends.native().copy_speed(max(session.workspace_bytes, 2**16), threads)
        self.copied = max(self.copied, found)
        pixels = np.zeros((1, 3, self.size, self.size), np.uint8)
        start = time.perf_counter()
        session(pixels)
        once = time.perf_counter() - start
        calls = max(1, min(_MOST_CALLS, round(_VISIT_SECONDS / max(once, 1e-9))))
        self.seconds.append(session.step_times(self.size, calls)[1])
        for _ in range(calls):
            start = time.perf_counter()
            session(pixels)
            self.whole.append(time.perf_counter() - start)


def _measure(cases: list[Case], budget: float, step: Callable[[str, float], None]) -> None:
    """Visit all cases in rounds, each round in another order, until the budget is spent."""
    order, rng = list(cases), random.Random(0)
    start, rounds = time.perf_counter(), 0
    while True:
        rng.shuffle(order)
        for case in order:
            case.visit()
        rounds += 1
        spent = time.perf_counter() - start
        step("timing", min(1.0, spent / max(budget, 1e-9)))
        if spent * (rounds + 1) / rounds > budget and (rounds >= MIN_ROUNDS or spent > budget):
            break
    step("timing", 1.0)


def rows_of(case: Case) -> list[ProfileRow]:
    """What was measured, beside the bounds."""
    session, program = case.session, case.session.program(case.size)
    network = session.packed.plan.network
    kernels = session.kernels(case.size)
    seconds = np.concatenate(case.seconds)
    fastest, median = seconds.min(0) * 1e3, np.median(seconds, 0) * 1e3
    total = float(median.sum())
    common: dict[str, Any] = {
        "arch": network.arch,
        "wbits": network.wbits,
        "abits": network.abits,
        "resolution": case.size,
        "threads": session.threads,
        "isa": session.isa,
    }

    def row(ms: float, median_ms: float, bound_ms: float, **more: Any) -> ProfileRow:
        return ProfileRow(
            **common,
            **more,
            ms=round(ms, 5),
            median_ms=round(median_ms, 5),
            share=round(min(median_ms / total, 1.0), 4),
            bound_ms=float(f"{bound_ms:.6g}"),  # of a few bytes it is far below the clock
            share_of_bound=round(bound_ms / ms, 4),
        )

    copy = {"op": "copy", "kernel": None, "form": "", "macs": 0, "bound": "copy"}
    moved = _bytes(program.values[0]) * 7 // 4  # of its four channels three are read
    steps: list[tuple[str, Step | None, dict[str, Any]]]
    steps = [("image", None, {**copy, "bytes": moved})]
    for spec, layer in zip(session.packed.plan.steps, program.steps, strict=True):
        described = _described(program, layer, kernels.get(layer.name))
        steps.append((layer.name, layer, {"op": spec.OP, **described}))
    rows, least = [], 0.0
    for number, (name, of, described) in enumerate(steps):
        bound_ms, bound = _bound(case, of, described)
        least += bound_ms
        described |= {"layer": name, "bound": bound}
        rows.append(row(float(fastest[number]), float(median[number]), bound_ms, **described))
    whole = np.array(case.whole) * 1e3
    sums = {"macs": sum(r.macs for r in rows), "bytes": sum(r.bytes for r in rows)}
    call = {"layer": CALL, "op": CALL, "kernel": None, "form": "", "bound": "all", **sums}
    rows.append(row(float(whole.min()), float(np.median(whole)), least, **call))
    return rows


def _described(program: Program, layer: Step, kernel: str | None) -> dict[str, Any]:
    """What a step is, and what it must do at the least."""
    out = program.values[layer.writes[0]]
    tensors = sum(part.nbytes for part in vars(layer).values() if isinstance(part, np.ndarray))
    moved = tensors + sum(_bytes(program.values[n]) for n in (*layer.reads, *layer.writes))
    form = f"{out.height}x{out.width}x{out.channels}"
    if isinstance(layer, (LinearStep, ByteLinearStep)):
        # Each weight meets one number: their bytes are the bound.
        return {"kernel": None, "form": form, "macs": layer.weight.size, "bytes": moved}
    if not isinstance(layer, ConvStep):
        return {"kernel": None, "form": form, "macs": 0, "bytes": moved}
    height, width = layer.kernel
    return {
        "kernel": kernel,
        "form": f"{height}x{width} s{layer.stride[0]} to {form}",
        "macs": int(multiply_adds(program, layer)),
        "bytes": moved,
    }


def _bound(case: Case, layer: Step | None, described: dict[str, Any]) -> tuple[float, str]:
    """Milliseconds of the slower of the two bounds, and its name."""
    copied = described["bytes"] / case.copied / 1e6
    if not isinstance(layer, ConvStep):
        return copied, "copy"
    kernel = described["kernel"]
    mix, rate = bound_of(kernel, layer, case.products, case.session.isa)
    if mix == "bits":  # the loop is of 2-bit weights and 2-bit inputs
        rate *= 4 / (layer.form.weight_bits * len(layer.input_basis))
    multiplied = described["macs"] / rate / 1e6
    return (multiplied, mix) if multiplied >= copied else (copied, "copy")


def _bytes(value: Value) -> int:
    """Bytes of a value without its border."""
    size = 4 if value.kind == "float" else 1
    return value.height * value.width * value.channels * size
