"""A study's tables as cells: means over seeds, gains, and which runs are missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rsquant.settings import checked_bits
from rsquant.studies.outcome import Mean, Outcome, mean, parameters
from rsquant.studies.planned import PlannedRun, size_of_row, trained_sizes
from rsquant.studies.study import Column, Study, Table, Value, configured, substituted

# Of a run by its planned one; None where it is not finished.
Outcomes = Callable[[PlannedRun], Outcome | None]


@dataclass(frozen=True)
class Cell:
    """One place of a table.

    Attributes:
        means: of each figure of the table; None where no seed is finished.
        gain: of the first figure over the baseline's, a mean of differences of equal seeds.
        published: what the source says, as text.
        missing: labels of runs that are not finished.
        blank: nothing belongs here: a size that the network was not trained at.
    """

    means: tuple[Mean | None, ...] = ()
    gain: Mean | None = None
    published: str = ""
    missing: tuple[str, ...] = ()
    blank: bool = False


@dataclass(frozen=True)
class Row:
    """A row of one group: its title, multiply-adds of an image where known, and its cells."""

    title: str
    madds: int | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Block:
    """The rows of one group, and learned numbers in all networks of each column (None: unknown)."""

    group: str
    bits: str
    rows: tuple[Row, ...]
    parameters: tuple[int | None, ...]


def blocks(
    study: Study, table: Table, planned: Sequence[PlannedRun], outcomes: Outcomes
) -> list[Block]:
    """A table's cells, group by group."""
    found = []
    for group in study.groups:
        of_group = [run for run in planned if run.group == group]
        rows = [
            _row(table, index, title, value, of_group, outcomes)
            for index, (title, value) in enumerate(study.rows(table, group))
        ]
        sums = tuple(
            _parameters(
                column, [value for _, value in study.rows(table, group)], of_group, outcomes
            )
            for column in table.columns
        )
        found.append(Block(group, _bits(study, table, group), _published(table, group, rows), sums))
    return found


def _bits(study: Study, table: Table, group: str) -> str:
    """Bits of the networks that fill a group's cells: W2A2; W4A4 W2A2 of several settings."""
    found: dict[str, None] = {}
    for name in dict.fromkeys(column.of for column in table.columns if column.of):
        for value in study.values(group, name):
            settings = substituted(study.experiments[name].settings, value)
            model = configured(study.config, study.groups[group], settings, where=study.name).model
            pairs = checked_bits(model.bits) or ((model.wbits, model.abits),)
            found |= dict.fromkeys(f"W{wbits}A{abits}" for wbits, abits in pairs)
    return " ".join(found)


def _published(table: Table, group: str, rows: list[Row]) -> tuple[Row, ...]:
    """Rows with the published figures in their cells."""
    found = []
    for index, row in enumerate(rows):
        cells = [
            replace(cell, published=figures[index])
            if (figures := column.published.get(group))
            else cell
            for column, cell in zip(table.columns, row.cells, strict=True)
        ]
        found.append(replace(row, cells=tuple(cells)))
    return tuple(found)


def _row(
    table: Table,
    index: int,
    title: str,
    value: Value,
    planned: Sequence[PlannedRun],
    outcomes: Outcomes,
) -> Row:
    size = size_of_row(table, value)
    runs = {column.title: _runs_of(column, value, size, planned) for column in table.columns}

    def of(column: Column) -> dict[int, tuple[float, ...]]:
        return _by_seed(
            table, runs[column.title], size, outcomes, _width(column, index), column.bits
        )

    baseline = next((one for one in table.columns if one.title == table.baseline), None)
    base = {} if baseline is None else of(baseline)
    cells, madds = [], None
    for column in table.columns:
        if column.of is None or not runs[column.title]:
            cells.append(Cell(blank=True))
            continue
        figures = of(column)
        gains = [
            figures[seed][0] - base[seed][0]
            for seed in figures
            if seed in base and column.title != table.baseline
        ]
        missing = [run.label for run in runs[column.title] if run.seed not in figures]
        means = tuple(
            mean([figures[seed][k] for seed in figures]) for k in range(len(table.figures))
        )
        cells.append(Cell(means, mean(gains), "", tuple(missing)))
        for run in runs[column.title]:
            found = outcomes(run)
            setting = size, _width(column, index), column.bits
            measured = None if found is None else found.row(*setting)
            if madds is None and measured is not None:
                madds = int(measured["madds"])
    return Row(title, madds, tuple(cells))


def _width(column: Column, index: int) -> float | None:
    """The width that a row of a column is measured at; None: all channels."""
    return column.widths[index] if column.widths else None


def _runs_of(
    column: Column, row: Value, size: int, planned: Sequence[PlannedRun]
) -> list[PlannedRun]:
    """The runs of a cell, one per seed; none where the cell is blank."""
    wanted = row if column.value is None else column.value
    return [
        run
        for run in planned
        if run.experiment == column.of
        and (run.value is None or run.value == wanted)
        and (column.untrained or size in trained_sizes(run.config))
    ]


def _by_seed(
    table: Table,
    runs: Sequence[PlannedRun],
    size: int,
    outcomes: Outcomes,
    width: float | None,
    bits: str | None,
) -> dict[int, tuple[float, ...]]:
    """Figures of the finished runs by seed."""
    found: dict[int, tuple[float, ...]] = {}
    for run in runs:
        result = outcomes(run)
        measured = None if result is None else result.row(size, width, bits)
        if measured is not None:
            # A mean that is not finite, which JSON has as null, is not a figure.
            values = [measured.get(name) for name in table.figures]
            found[run.seed] = tuple(math.nan if v is None else float(v) for v in values)
    return found


def _parameters(
    column: Column, rows: Sequence[Value], planned: Sequence[PlannedRun], outcomes: Outcomes
) -> int | None:
    """Learned numbers of the networks that fill a column, of one seed; None if some are missing."""
    if column.of is None:
        return None
    wanted = rows if column.value is None else [column.value]
    total, counted = 0, set()
    for run in planned:
        if run.experiment != column.of or run.seed != planned[0].seed:
            continue
        if (run.value is not None and run.value not in wanted) or run.value in counted:
            continue
        found = outcomes(run)
        if found is None:
            return None
        counted.add(run.value)
        total += parameters(found.folder)
    return total or None
