"""levels.csv of a run folder: the levels of every quantizer after each epoch.

A row for each quantizer and epoch: epoch, side (weights or activations), name, levels ascending,
joined by spaces. Weights have the median over channels, each channel's in units of its weights'
root mean square. A report that no run depends on: one that cannot be read is begun anew.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rsquant import runs
from rsquant.atomic import replacing
from rsquant.nn.quantized import QUANTIZED_LAYERS
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.quantizers import ActivationQuantizer

HEADINGS = ("epoch", "side", "name", "levels")
SIDES = ("weights", "activations")
# 120 epochs of a ResNet-50 have 1 MB.
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class LevelRow:
    """The levels of a quantizer after an epoch, ascending."""

    epoch: int
    side: str
    name: str
    levels: tuple[float, ...]


def relative_levels(weight: Tensor, levels: Tensor) -> list[float]:
    """Levels of weights, the median over channels, each channel's in units of its weights' RMS.

    Args:
        weight: (O, ...). levels: (O, L).
    """
    power = weight.detach().flatten(1).double().square().mean(1, keepdim=True).sqrt()
    scaled = levels.detach().double() / power.clamp_min(1e-30)
    return [float(level) for level in scaled.median(0).values]


@torch.no_grad()
def level_rows(network: SwitchableNetwork, epoch: int) -> Iterator[LevelRow]:
    """Of every quantizer of a network as it is, in its order."""
    for name, module in network.body.named_modules():
        if isinstance(module, QUANTIZED_LAYERS) and module.weight_quantizer is not None:
            levels = relative_levels(module.weight, module.weight_quantizer.levels())
            yield LevelRow(epoch, SIDES[0], name, tuple(levels))
        elif isinstance(module, ActivationQuantizer):
            yield LevelRow(epoch, SIDES[1], name, tuple(module.levels().double().tolist()))


def record_levels(run: Path, network: SwitchableNetwork, epoch: int) -> None:
    """Add the rows of an epoch to levels.csv; rows of this epoch and later ones are replaced.

    Raises:
        RsquantError: the file cannot be written; it is as it was.
    """
    new = list(level_rows(network, epoch))
    if not new:
        return
    rows = [row for row in read_levels(run) if row.epoch < epoch]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADINGS)
    for row in (*rows, *new):
        levels = " ".join(f"{level:.6g}" for level in row.levels)
        writer.writerow((row.epoch, row.side, row.name, levels))
    with replacing(run / runs.LEVELS) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def read_levels(run: Path) -> list[LevelRow]:
    """The rows of a run's levels.csv; none where it has none, or one that cannot be read."""
    found: list[LevelRow] = []
    with suppress(OSError, UnicodeDecodeError, csv.Error):
        with (run / runs.LEVELS).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            return []
        lines = csv.reader(io.StringIO(data.decode()), strict=True)
        if tuple(next(lines, ())) != HEADINGS:
            return []
        for cells in lines:
            row = _row(cells)
            if row is not None:
                found.append(row)
    return found


def _row(cells: list[str]) -> LevelRow | None:
    """A line, if it is one that training writes."""
    if len(cells) != len(HEADINGS) or cells[1] not in SIDES or len(cells[3]) > 1000:
        return None
    if not re.fullmatch("[1-9][0-9]{0,5}", cells[0]):
        return None
    try:
        levels = tuple(float(text) for text in cells[3].split(" "))
    except ValueError:
        return None
    fits = 2 <= len(levels) <= 16 and all(map(math.isfinite, levels))
    return LevelRow(int(cells[0]), cells[1], cells[2], levels) if fits else None
