"""A study's tables as files: Markdown, CSV, JSON and pictures."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsquant.machine import describe
from rsquant.made import Made
from rsquant.staging import staging
from rsquant.studies.cells import Block, Cell, Outcomes, blocks
from rsquant.studies.outcome import Mean
from rsquant.studies.picture import decimals, draw
from rsquant.studies.planned import PlannedRun
from rsquant.studies.study import Study, Table
from rsquant.tasks import by_name
from rsquant.tasks.base import Figure


def check_tables(study: Study, folder: Path) -> None:
    """Raise RsquantError for a file that a table would replace and is none of rsquant's."""
    made = Made(folder)
    for table in study.tables:
        for suffix in (".md", ".csv", ".json", *((".png",) if table.plot != "none" else ())):
            made.check(folder / f"{table.name}{suffix}", exist_ok=True)


def write_tables(
    study: Study, planned: Sequence[PlannedRun], outcomes: Outcomes, folder: Path
) -> tuple[str, list[str]]:
    """Write NAME.md, NAME.csv, NAME.json of every table, and NAME.png of those with a plot.

    Returns:
        The tables as Markdown, and labels of runs that are missing.
    Raises:
        RsquantError: as of `check_tables`, or the folder cannot be written.
    """
    texts: list[str] = []
    missing: dict[str, None] = {}
    with staging(folder, own=True) as temporary:
        for table in study.tables:
            cells = blocks(study, table, planned, outcomes)
            text = markdown(study, table, cells)
            (temporary / f"{table.name}.md").write_text(text)
            rows = flat(table, cells)
            (temporary / f"{table.name}.csv").write_text(_csv(rows))
            whole = {"study": study.name, "title": table.title, "machine": describe(), "rows": rows}
            (temporary / f"{table.name}.json").write_text(
                json.dumps(whole, indent=1, allow_nan=False) + "\n"
            )
            if table.plot != "none":
                draw(table, cells, table_figures(study, table)[0], temporary / f"{table.name}.png")
            texts.append(text)
            for label in (m for b in cells for r in b.rows for c in r.cells for m in c.missing):
                missing[label] = None
    return "\n".join(texts), list(missing)


def table_figures(study: Study, table: Table) -> tuple[Figure, ...]:
    """What a table shows, in its order."""
    task = by_name(study.group_config(next(iter(study.groups))).model.task)
    known = {figure.name: figure for figure in task.figures}
    return tuple(known[name] for name in table.figures)


def markdown(study: Study, table: Table, cells: Sequence[Block]) -> str:
    """A table for people: mean ± standard error, gains in brackets, published in italics."""
    figures = table_figures(study, table)
    lines = [f"**{table.title}**: {' / '.join(figure.heading for figure in figures)}", ""]
    headings = [_escaped(column.title) for column in table.columns]
    first = "row" if table.rows is not None else "size"
    with_madds = any(row.madds for block in cells for row in block.rows)
    lines.append("| " + " | ".join([first, *(["MAdds"] if with_madds else []), *headings]) + " |")
    lines.append("|" + "---|" * (1 + with_madds + len(headings)))
    for block in cells:
        if block.group:
            title = f"**{_escaped(block.group)}** ({block.bits})"
            lines.append("| " + " | ".join([title, *[""] * (with_madds + len(headings))]) + " |")
        for row in block.rows:
            madds = [_count(row.madds)] if with_madds else []
            texts = [_cell_text(figures, cell) for cell in row.cells]
            lines.append("| " + " | ".join([_escaped(row.title), *madds, *texts]) + " |")
        if any(block.parameters):
            sums = ["" if n is None else f"{n / 2**20:.2f} M" for n in block.parameters]
            lines.append(
                "| " + " | ".join(["parameters", *([""] if with_madds else []), *sums]) + " |"
            )
    seeds = ", ".join(map(str, study.seeds))
    lines += ["", f"Means ± standard errors over seeds {seeds}; M of parameters is 2^20."]
    if table.baseline is not None:
        lines.append(f"In brackets: over {table.baseline}, of the same seeds.")
    if any(column.published for column in table.columns):
        lines.append("In italics: published.")
    if any(cell.missing for block in cells for row in block.rows for cell in row.cells):
        lines.append("Cells with ? lack runs.")
    if study.note:
        lines.append(study.note.strip())
    return "\n".join(lines) + "\n"


def flat(table: Table, cells: Sequence[Block]) -> list[dict[str, Any]]:
    """A dict per cell and figure, for CSV and JSON."""
    rows = []
    for block in cells:
        for row in block.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                if cell.blank and not cell.published:
                    continue
                means = cell.means or (None,) * len(table.figures)
                for index, (name, one) in enumerate(zip(table.figures, means, strict=True)):
                    gain = cell.gain if index == 0 else None
                    rows.append(
                        {
                            "group": block.group,
                            "row": row.title,
                            "column": column.title,
                            "figure": name,
                            "mean": _finite(None if one is None else one.value),
                            "standard_error": _rounded(one),
                            "seeds": 0 if one is None else one.count,
                            "gain": _finite(None if gain is None else gain.value),
                            "gain_standard_error": _rounded(gain),
                            "published": cell.published,
                            "missing": len(cell.missing),
                            "madds": row.madds,
                        }
                    )
    return rows


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def _rounded(mean: Mean | None) -> float | None:
    return _finite(None if mean is None else mean.error)


def _finite(value: float | None) -> float | None:
    """Of a run that diverged NaN, which JSON does not have."""
    return round(value, 4) if value is not None and math.isfinite(value) else None


def _cell_text(figures: Sequence[Figure], cell: Cell) -> str:
    parts = []
    if any(one is not None for one in cell.means):
        text = " / ".join(
            "?" if one is None else _mean(one, decimals(figure))
            for figure, one in zip(figures, cell.means, strict=True)
        )
        first = decimals(figures[0])
        gain = "" if cell.gain is None else f" ({_mean(cell.gain, first, signed=True)})"
        parts.append(text + gain + (" ?" if cell.missing else ""))
    elif cell.missing:
        parts.append("?")
    if cell.published:
        parts.append(f"*{_escaped(cell.published)}*")
    return "<br>".join(parts) if parts else "-"


def _mean(one: Mean, digits: int, signed: bool = False) -> str:
    value = f"{one.value:{'+' if signed else ''}.{digits}f}"
    return value if one.error is None else f"{value} ± {one.error:.{digits}f}"


def _count(madds: int | None) -> str:
    if madds is None:
        return ""
    return f"{madds / 1e9:.2f} G" if madds >= 1e9 else f"{madds / 1e6:.1f} M"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
