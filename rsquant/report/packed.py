"""What `rsquant info FILE.rsq` tells: sizes, operations, quantizers, and what takes the bytes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rsquant.packed.file import Packed
from rsquant.packed.format import read_packed
from rsquant.packed.ops.base import OpSpec
from rsquant.report.table import aligned


@dataclass(frozen=True)
class NetworkRow:
    """The file as a whole; `rsquant` is the version that packed it, `bytes` of the file.

    Attributes:
        settings: widths and bits that it holds, the costliest first, whose operations, quantizers
            and sizes are told: "x0.5 2/2"; of one alone its bits.
    """

    arch: str
    wbits: int
    abits: int
    resolutions: tuple[int, ...]
    num_classes: int
    grid: str
    stride: int
    rsquant: str
    format_version: int
    bytes: int
    settings: tuple[str, ...]


@dataclass(frozen=True)
class SettingRow:
    """A width and a pair of bits.

    Attributes:
        name: "x0.5 2/2".
        channels: of the last map, which the classifier reads.
        table_bytes: of its BatchNorms.
    """

    name: str
    channels: int
    table_bytes: int


@dataclass(frozen=True)
class OperationRow:
    """An operation.

    Attributes:
        name: of its layer, or of its function in the traced network.
        input: kinds of the values it reads: image, float, bytes, or bits of codes.
        shape: of its weights: (O, C / groups, kernel height, kernel width) or (O, C).
        wbits: of its weights, 0 for none.
        output: kinds of the values it writes, each with its channels.
        bytes: of the tensors of its own; BatchNorms are not among them.
    """

    name: str
    op: str
    input: tuple[str, ...]
    shape: tuple[int, ...]
    wbits: int
    output: tuple[str, ...]
    bytes: int


@dataclass(frozen=True)
class QuantizerRow:
    """Levels scale * integer of activations; `values`: how many values have it."""

    number: int
    bits: int
    scale: float
    levels: tuple[int, ...]
    own_thresholds: bool
    values: int


@dataclass(frozen=True)
class PartRow:
    """Bytes of the file that serve one purpose."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Report:
    """All that is told of a file."""

    network: NetworkRow
    settings: tuple[SettingRow, ...]
    operations: tuple[OperationRow, ...]
    quantizers: tuple[QuantizerRow, ...]
    parts: tuple[PartRow, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Every row as a dictionary, with its `kind`."""
        kinds: dict[
            str, tuple[NetworkRow | SettingRow | OperationRow | QuantizerRow | PartRow, ...]
        ] = {
            "network": (self.network,),
            "setting": self.settings,
            "operation": self.operations,
            "quantizer": self.quantizers,
            "part": self.parts,
        }
        return [{"kind": kind, **asdict(row)} for kind, rows in kinds.items() for row in rows]


def report(packed: Packed) -> Report:
    """What an opened file holds."""
    network = packed.plan.network
    size = packed.path.stat().st_size
    return Report(
        NetworkRow(
            network.arch,
            network.wbits,
            network.abits,
            network.resolutions,
            network.num_classes,
            network.grid,
            network.stride,
            packed.plan.version,
            packed.plan.format_version,
            size,
            tuple(map(str, packed.variants)),
        ),
        tuple(_setting(str(one), part) for one, part in packed.settings.items()),
        tuple(_operation(packed, step) for step in packed.plan.steps),
        tuple(
            QuantizerRow(
                number,
                spec.bits,
                spec.scale,
                tuple(map(int, spec.levels)),
                spec.own_thresholds is not None,
                sum(value.quantizer == number for value in packed.values),
            )
            for number, spec in enumerate(packed.plan.quantizers)
        ),
        _parts(packed, size),
    )


def _setting(name: str, part: Packed) -> SettingRow:
    last = part.plan.steps[-1]
    tables = (array.nbytes for key, array in part.tensors.items() if key.endswith(".norm"))
    return SettingRow(name, part.values[_reads(last)[0]].channels, sum(tables))


def _operation(packed: Packed, step: OpSpec) -> OperationRow:
    weight = packed.tensors.get(f"{step.name}.weight")
    shape: tuple[int, ...] = ()
    wbits = 0
    if weight is not None:
        wbits = len(weight) if weight.dtype == np.uint8 else 8 * weight.itemsize
        shape = weight.shape
        kernel: tuple[int, ...] | None = getattr(step, "kernel", None)
        if kernel is not None:
            outputs, inputs, groups = (
                getattr(step, name) for name in ("out_channels", "in_channels", "groups")
            )
            shape = outputs, inputs // groups, *kernel
    own = (array for name, array in packed.tensors.items() if name.rpartition(".")[0] == step.name)
    return OperationRow(
        step.name,
        step.OP,
        tuple(_kind(packed, value) for value in _reads(step)),
        shape,
        wbits,
        tuple(f"{packed.values[v].channels} x {_kind(packed, v)}" for v in _writes(step)),
        sum(array.nbytes for array in own),
    )


def _reads(step: OpSpec) -> tuple[int, ...]:
    fields = vars(step)
    found = (*fields.get("inputs", ()), fields.get("input"), fields.get("like"))
    added = getattr(fields.get("epilogue"), "add", None)
    return tuple(value for value in (*found, added) if value is not None)


def _writes(step: OpSpec) -> tuple[int, ...]:
    fields = vars(step)
    epilogue = fields.get("epilogue")
    found = fields.get("output"), getattr(epilogue, "keep", None), getattr(epilogue, "codes", None)
    return tuple(value for value in found if value is not None)


def _kind(packed: Packed, value: int) -> str:
    spec = packed.values[value]
    if spec.quantizer is None:
        return spec.kind
    bits = packed.plan.quantizers[spec.quantizer].bits
    return f"{bits} bit{'s' if bits > 1 else ''}"


def _parts(packed: Packed, size: int) -> tuple[PartRow, ...]:
    sizes = dict.fromkeys(
        ("low-bit weights", "8- and 16-bit weights", "scales, bases and biases", "BatchNorms"), 0
    )
    steps = {step.name for step in packed.plan.steps}
    # Of several settings the tensors of all, not of the costliest.
    tensors = read_packed(packed.path)[0] if packed.settings else packed.tensors
    for name, array in tensors.items():
        owner, _, last = name.rpartition(".")
        if owner in steps and last == "weight":
            part = "low-bit weights" if array.dtype == np.uint8 else "8- and 16-bit weights"
        elif last == "norm":
            part = "BatchNorms"
        else:
            part = "scales, bases and biases"
        sizes[part] += array.nbytes
    rest = size - sum(sizes.values())
    return tuple(PartRow(*part) for part in (*sizes.items(), ("header and alignment", rest)))


def lines(told: Report) -> list[str]:
    """Headings and tables."""
    network = told.network
    cells = [("operation", "name", "reads", "weights", "W", "writes", "KB")]
    for row in told.operations:
        bits = str(row.wbits or "")
        shape = "x".join(map(str, row.shape))
        size = _kilobytes(row.bytes) if row.bytes else ""
        cells.append(
            (row.op, row.name, ", ".join(row.input), shape, bits, ", ".join(row.output), size)
        )
    levels = [("quantizer", "bits", "scale", "levels", "values")]
    for q in told.quantizers:
        own = " (own thresholds)" if q.own_thresholds else ""
        shown = " ".join(map(str, q.levels)) + own
        levels.append((str(q.number), str(q.bits), f"{q.scale:.6g}", shown, str(q.values)))
    parts = [("part", "KB")]
    parts += [(part.name, _kilobytes(part.bytes)) for part in told.parts]
    sizes = ", ".join(map(str, network.resolutions))
    settings = [("setting", "channels", "BatchNorms, KB")]
    settings += [(s.name, str(s.channels), _kilobytes(s.table_bytes)) for s in told.settings]
    bits = f"W{network.wbits}A{network.abits}"
    if told.settings:
        bits = f"at {len(told.settings)} widths and bits ({network.settings[0]} below)"
    return [
        f"{network.arch} {bits}, grid {network.grid}, resolutions {sizes}, "
        f"{network.num_classes} classes",
        f"format version {network.format_version}, packed by rsquant {network.rsquant}",
        "",
        *([*aligned(settings), ""] if told.settings else []),
        *aligned(cells),
        "",
        *aligned(levels),
        "",
        *aligned(parts),
        f"{len(told.operations)} operations, {_kilobytes(network.bytes)} KB",
    ]


def _kilobytes(count: int) -> str:
    return f"{count / 1000:,.1f}"
