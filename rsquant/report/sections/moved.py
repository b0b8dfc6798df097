"""How the levels of each quantizer moved in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rsquant.report.picture import drawn, png, style
from rsquant.report.section import Picture, Section, Table
from rsquant.train.level_record import SIDES, LevelRow

# Quantizers of each side that are drawn: the first, those that moved most, and the last.
DRAWN = 6


@dataclass(frozen=True)
class Course:
    """Of one quantizer: epochs, and its levels after each; as many at the end as `levels[-1]`."""

    name: str
    epochs: list[int]
    levels: list[tuple[float, ...]]

    @property
    def distance(self) -> float:
        """How far its levels were at the first epoch from where they ended: the root mean square
        of the differences over that of the last levels; 0 where their number changed."""
        first, last = self.levels[0], self.levels[-1]
        if len(first) != len(last):
            return 0.0
        moved = sum((a - b) ** 2 for a, b in zip(first, last, strict=True))
        power = sum(b**2 for b in last)
        return float((moved / power) ** 0.5) if power else 0.0


def paths(rows: Sequence[LevelRow], side: str) -> list[Course]:
    """The quantizers of a side, in the order of the network."""
    found: dict[str, Course] = {}
    for row in rows:
        if row.side == side:
            path = found.setdefault(row.name, Course(row.name, [], []))
            path.epochs.append(row.epoch)
            path.levels.append(row.levels)
    return list(found.values())


def shown(found: Sequence[Course], most: int = DRAWN) -> list[Course]:
    """The first, the last and those that moved most, in the order of the network."""
    if len(found) <= most:
        return list(found)
    inner = sorted(range(1, len(found) - 1), key=lambda i: -found[i].distance)[: most - 2]
    return [found[i] for i in sorted({0, len(found) - 1, *inner})]


def section(run: str, rows: Sequence[LevelRow]) -> Section | None:
    """A row of small pictures for weights and one for activations; None without a record."""
    sides = {side: paths(rows, side) for side in SIDES}
    sides = {side: found for side, found in sides.items() if found}
    if not sides or max(len(p.epochs) for found in sides.values() for p in found) < 2:
        return None
    pictures = [_picture(side, shown(found)) for side, found in sides.items()]
    table_rows = [
        [p.name, side, f"{100 * p.distance:.1f} %"] for side, found in sides.items() for p in found
    ]
    table_rows.sort(key=lambda row: -float(row[2].split()[0]))
    text = [
        "Levels after each epoch: of weights medians over the channels in units of the root mean "
        "square of a channel's weights, of activations as they are. Drawn are the first and the "
        f"last quantizer and the {DRAWN - 2} between that moved most. The table has the ten that "
        "moved most from the first epoch to the last, in percent of their levels.",
    ]
    figures: dict[str, Any] = {
        side: [
            {"name": p.name, "epochs": p.epochs, "levels": p.levels, "moved": p.distance}
            for p in found
        ]
        for side, found in sides.items()
    }
    table = Table(("quantizer", "of", "moved"), table_rows[:10])
    return Section("moved", "How levels moved", text, figures, pictures, (table,), run)


def _picture(side: str, found: Sequence[Course]) -> Picture:
    columns = min(3, len(found))
    lines = -(-len(found) // columns)
    with drawn(height=2.1 * lines, rows=lines, columns=columns) as (figure, grid):
        for axes in grid.flat[len(found) :]:
            axes.set_visible(False)
        for axes, path in zip(grid.flat, found, strict=False):
            for k in range(len(path.levels[-1])):
                values = [levels[k] if k < len(levels) else None for levels in path.levels]
                axes.plot(path.epochs, values, **style(k, marker=False))
            axes.set_title(path.name.removesuffix(".input_quantizer"), fontsize=8)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)
        for axes in grid[:, 0]:
            axes.set_ylabel("level / RMS" if side == SIDES[0] else "level")
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
        return Picture(f"moved-{side}", png(figure), f"Levels of {side} over epochs.")
