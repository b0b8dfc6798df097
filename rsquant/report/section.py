"""A part of a report: text, tables and pictures, and the figures behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Picture:
    """A PNG.

    Attributes:
        name: of its file, without suffix: letters, digits, "-".
        says: what is to be seen, for those who do not see it.
    """

    name: str
    png: bytes
    says: str


@dataclass(frozen=True)
class Table:
    """Cells as text.

    Attributes:
        marks: (row, column) -> "good" or "bad": cells to be set off.
        pictures: (row, column) -> a PNG to show in a cell, over its text.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    marks: dict[tuple[int, int], str] = field(default_factory=dict)
    pictures: dict[tuple[int, int], bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """What a section file gives.

    Attributes:
        name: of the section: letters, digits and "-".
        run: the run it is about; "" for one about all.
        text: paragraphs: what is shown and how it was measured.
        figures: the numbers of its pictures and tables, as JSON has them; NaN where there is none.
    """

    name: str
    title: str
    text: Sequence[str]
    figures: dict[str, Any]
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    run: str = ""
