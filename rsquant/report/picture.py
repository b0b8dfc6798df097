"""How pictures of a report look: for a page and for print, also in grey."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# A colour, a line and a marker each, so that series differ in grey too. Dark to light and dark
# again, after Okabe and Ito's colours for readers who do not tell red from green.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#000000", "#cc79a7", "#56b4e9", "#b8860b", "#7f7f7f")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("solid", "dashed", "dashdot", "dotted")
DPI = 150
# Inches: the width of a page's column.
WIDTH = 7.0


def style(index: int, marker: bool = True) -> dict[str, Any]:
    """What tells series `index` from the others, as matplotlib's arguments."""
    # Series of the same colour have another line and marker.
    other = index + index // len(COLOURS)
    colour, line = COLOURS[index % len(COLOURS)], LINES[other % len(LINES)]
    look = {"color": colour, "linestyle": line, "linewidth": 1.6}
    return look | ({"marker": MARKERS[other % len(MARKERS)], "markersize": 5} if marker else {})


@contextmanager
def drawn(
    width: float = WIDTH, height: float = 3.2, rows: int = 1, columns: int = 1
) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes (rows, columns), with the report's fonts; inches."""
    # matplotlib's figure without pyplot: no display, no global state.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.labelsize": 9,
        "legend.fontsize": 8,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        # "$" in the name of a run or a class is a dollar.
        "text.parse_math": False,
    }
    with rc_context(settings):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(rows, columns, squeeze=False)


def png(figure: Any, shades: bool = False) -> bytes:
    """A figure as PNG; the same bytes for the same figure.

    Args:
        shades: it has a colour scale or photographs. Others have 256 colours, with which they look
            the same in a third of the bytes.
    """
    from PIL import Image

    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    if shades:
        return file.getvalue()
    smaller = io.BytesIO()
    Image.open(file).convert("RGB").quantize().save(smaller, "png", optimize=True)
    return smaller.getvalue()
