"""The tables that `rsquant bench` prints: rows to tables and the lines below them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from rich.console import Group
from rich.table import Table

from rsquant.bench.rows import (
    CpuLayerRow,
    CudaLayerRow,
    CudaNetworkRow,
    LayerRow,
    NetworkRow,
    ProfileRow,
    SwitchRow,
    TrainingRow,
)

Printed = tuple[Table | Group, Sequence[str]]


def printed(rows: Sequence[Any]) -> Printed:
    """A table of rows of one kind, and the lines below it."""
    return _TABLES[type(rows[0])](rows)


def cpu_networks(rows: Sequence[NetworkRow]) -> Printed:
    several = len({(row.width, row.wbits, row.abits) for row in rows}) > 1
    table = Table(
        "size",
        *(["width", "bits"] if several else []),
        "threads",
        "engine",
        "median",
        "quartiles",
        "speed",
        "file",
        "memory",
        "load",
        "switch",
        title=f"milliseconds per batch of {rows[0].batch}, median (quartiles)",
    )
    for row in sorted(rows, key=lambda r: (r.threads or 0, -r.resolution)):
        setting = [f"{row.width:g}", f"{row.wbits}/{row.abits}"] if several else []
        table.add_row(
            str(row.resolution),
            *setting,
            str(row.threads),
            row.engine,
            *_times(row),
            _or_dash(row.speedup, "{:.2f}x"),
            _megabytes(row.file_bytes),
            _megabytes(row.peak_rss_bytes),
            _or_dash(row.load_ms),
            _or_dash(row.switch_ms),
        )
    return table, (
        "speed: against ort_float32 at the same size and threads   memory: peak of a process",
        "load: milliseconds until the first call   "
        "switch: additional milliseconds after another size",
    )


def switching(rows: Sequence[SwitchRow]) -> Printed:
    table = Table(
        "size",
        "threads",
        "engine",
        "sizes are held",
        "same size",
        "another size",
        "quartiles",
        "switch",
        "files",
        title=f"milliseconds per batch of {rows[0].batch}, median",
    )
    for row in sorted(rows, key=lambda r: (r.threads, -r.resolution)):
        table.add_row(
            str(row.resolution),
            str(row.threads),
            row.engine,
            row.way,
            f"{row.median_ms:.2f}",
            f"{row.switched_ms:.2f}",
            f"{row.switched_q1_ms:.2f}-{row.switched_q3_ms:.2f}",
            f"{row.switch_ms:.2f}",
            _megabytes(row.file_bytes),
        )
    return table, (
        "same size, another size: what the call before ran   switch: the difference, call by call",
        "reload: the other size is opened from its file, which is in the system's cache",
    )


def cpu_kernels(rows: Sequence[CpuLayerRow]) -> Printed:
    title = "GMAC/s of each convolution, fastest round (median), and the bound of its arithmetic"
    table = Table(
        "network", "size", "layer", "form", "map", "kernel", "GMAC/s", "bound", "share", title=title
    )
    for row in rows:
        table.add_row(
            row.arch,
            str(row.resolution),
            row.layer,
            _form(row),
            str(row.output),
            row.algorithm,
            f"{row.gmacs:.0f} ({row.median_gmacs:.0f})",
            f"{row.bound_gmacs:.0f}",
            f"{row.share_of_bound:.0%}",
        )
    return table, ()


def cpu_profile(rows: Sequence[ProfileRow]) -> Printed:
    def setting(row: ProfileRow) -> tuple[Any, ...]:
        return row.arch, row.wbits, row.abits, row.resolution, row.threads, row.isa

    tables = []
    for (arch, wbits, abits, size, threads, isa), group in groupby(rows, key=setting):
        what = f"{arch} {wbits}/{abits} at {size}, {threads} thread{'s'[: threads > 1]}, {isa}"
        table = Table(
            "step", "operation", "form", "ms", "median", "share", "bound", "of bound", title=what
        )
        steps = list(group)
        call = steps.pop()
        for row in steps:
            _add_profile(table, row.layer, row.kernel or row.op, row.form, [row], row.bound)
        table.add_section()
        by_operation: dict[str, list[ProfileRow]] = {}
        for row in steps:
            by_operation.setdefault(row.kernel or row.op, []).append(row)
        for name, of in sorted(by_operation.items(), key=lambda item: -sum(r.ms for r in item[1])):
            _add_profile(table, f"{len(of)} step{'s'[: len(of) > 1]}", name, "", of)
        table.add_section()
        _add_profile(table, call.layer, "", "", [call])
        tables.append(table)
    return Group(*tables), (
        "ms: the fastest of many calls, its steps timed inside it   call: without these clocks",
        "bound: the products on registers alone (of bytes, words, bits), or copying what is read "
        "and written;",
        "Winograd's algorithm needs fewer products and can be faster than that",
    )


def cuda_networks(rows: Sequence[CudaNetworkRow]) -> Printed:
    table = Table(
        "size",
        "batch",
        "engine",
        "median",
        "quartiles",
        "speed",
        "memory",
        "file",
        "load",
        "switch",
        title="milliseconds per batch, median (quartiles)",
    )
    for row in sorted(rows, key=lambda r: (-r.resolution, r.batch)):
        table.add_row(
            str(row.resolution),
            str(row.batch),
            row.engine,
            *_times(row),
            _or_dash(row.speedup, "{:.2f}x"),
            _megabytes(row.activation_bytes),
            _megabytes(row.file_bytes),
            _or_dash(row.load_ms),
            _or_dash(row.switch_ms),
        )
    return table, (
        "speed: against cudnn_bf16 at the same size and batch",
        "memory: peak without weights and images, including workspaces of libraries",
        "cudnn_*: the same architecture without activation quantizers",
        "cudnn_*_post: torchvision's post-activation ResNet, where cuDNN fuses bias, sum and ReLU",
        "load: milliseconds until the size and batch can run, including compiling and tuning",
        "switch: additional milliseconds after another size",
    )


def cuda_kernels(rows: Sequence[CudaLayerRow]) -> Printed:
    def setting(row: CudaLayerRow) -> tuple[Any, ...]:
        return row.arch, row.resolution, row.batch

    tables = []
    for (arch, size, batch), group in groupby(rows, key=setting):
        table = Table(
            "layer",
            "form",
            "map",
            "engine",
            "us",
            "warm",
            "of peak",
            "of copy",
            "speed",
            title=f"{arch} at {size}, batch {batch}: microseconds of each convolution, median",
        )
        for row in group:
            table.add_row(
                row.layer,
                _form(row),
                str(row.output),
                row.engine,
                f"{row.median_ms * 1e3:.1f}",
                f"{row.warm_ms * 1e3:.1f}",
                _or_dash(row.share_of_operations, "{:.0%}"),
                _or_dash(row.share_of_bytes, "{:.0%}"),
                _or_dash(row.speedup, "{:.2f}x"),
            )
        tables.append(table)
    return Group(*tables), (
        "us: data from memory   warm: the same layer repeatedly, from the cache",
        "of peak, of copy: share of a measured matrix product (int8 or bfloat16), of a copy",
        "speed: against cudnn_bf16",
        "gpu: with everything fused after the convolution   cudnn_*: with bias and residual sum",
        "int8: no epilogue, sums written as int32; a bound, not a usable layer",
    )


def training(rows: Sequence[TrainingRow]) -> Printed:
    sizes = ",".join(map(str, rows[0].resolutions))
    title = f"milliseconds of a training step, {rows[0].arch} at {sizes}"
    table = Table(
        "engine", "batch", "fastest", "median", "quartiles", "ratio", "memory", title=title
    )
    for row in rows:
        table.add_row(
            row.engine,
            str(row.batch),
            _or_dash(row.fastest_ms),
            *_times(row),
            f"{row.ratio:.2f}",
            _megabytes(row.peak_bytes),
        )
    return table, (
        "train_float: the same network and blocks, without quantizers",
        "ratio: of the medians   memory: the most that a step adds to weights and momentum",
    )


_TABLES: dict[type, Callable[[Any], Printed]] = {
    NetworkRow: cpu_networks,
    SwitchRow: switching,
    CpuLayerRow: cpu_kernels,
    ProfileRow: cpu_profile,
    CudaNetworkRow: cuda_networks,
    CudaLayerRow: cuda_kernels,
    TrainingRow: training,
}


def _add_profile(
    table: Table, name: str, operation: str, form: str, rows: Sequence[ProfileRow], bound: str = ""
) -> None:
    """The sum of some rows as one."""
    ms, bound_ms = sum(r.ms for r in rows), sum(r.bound_ms for r in rows)
    table.add_row(
        name,
        operation,
        form,
        f"{ms:.3f}",
        f"{sum(r.median_ms for r in rows):.3f}",
        f"{sum(r.share for r in rows):.1%}",
        f"{bound_ms:.3f} {bound}",
        f"{bound_ms / ms:.0%}",
    )


def _form(row: LayerRow) -> str:
    return f"{row.kernel} s{row.stride} {row.in_channels}->{row.out_channels}"


def _times(row: NetworkRow | TrainingRow) -> tuple[str, str]:
    return f"{row.median_ms:.2f}", f"{row.q1_ms:.2f}-{row.q3_ms:.2f}"


def _megabytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:.1f} MB"


def _or_dash(value: float | None, form: str = "{:.2f}") -> str:
    return "-" if value is None else form.format(value)
