"""A report as one HTML file: pictures inside, no script, nothing from the network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from rsquant.report.section import Picture, Section, Table
from rsquant.text import one_line

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1a1a1a; background: #fff;
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0.2rem; }
h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
h2 small { color: #555; font-weight: normal; }
nav ul { columns: 2; padding-left: 1.2rem; }
p { max-width: 46rem; }
p.about { color: #444; }
img.picture { width: 100%; max-width: 56rem; height: auto; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 0.8rem 0; font-size: 0.85rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #444; padding-bottom: 0.2rem; }
th, td { padding: 0.15rem 0.6rem; border-bottom: 1px solid #e4e4e4; text-align: left; }
th { border-bottom: 1.5px solid #888; }
td.strong { font-weight: bold; }
td.good { background: #d9ecf7; }
td.bad { background: #f8ddd3; font-style: italic; }
td img { display: block; max-width: 8rem; max-height: 8rem; }
@media print { body { margin: 0; max-width: none; font-size: 10pt; }
  h2, figure, tr { break-inside: avoid; } nav { display: none; } }
"""


def page(title: str, about: Sequence[str], sections: Sequence[Section]) -> str:
    """The whole page.

    Args:
        about: lines under the title: what was measured, where.
    """
    links = "\n".join(
        f'<li><a href="#{_anchor(s)}">{_text(s.title)}{_of(s)}</a></li>' for s in sections
    )
    lines = "\n".join(f'<p class="about">{_text(line)}</p>' for line in about)
    body = "\n".join(map(_section, sections))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'">
<title>{_text(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{_text(title)}</h1>
{lines}
<nav><ul>
{links}
</ul></nav>
{body}
</body>
</html>
"""


def _text(text: str) -> str:
    """Text that names and files may have come into, as HTML shows it."""
    return escape(one_line(text, 100_000))


def _anchor(section: Section) -> str:
    return escape(f"{section.name}-{section.run}" if section.run else section.name)


def _of(section: Section) -> str:
    return f" <small>{_text(section.run)}</small>" if section.run else ""


def _section(section: Section) -> str:
    parts = [f"<p>{_text(line)}</p>" for line in section.text]
    parts += map(_picture, section.pictures)
    parts += map(_table, section.tables)
    heading = f'<h2 id="{_anchor(section)}">{_text(section.title)}{_of(section)}</h2>'
    return "\n".join(["<section>", heading, *parts, "</section>"])


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _picture(picture: Picture) -> str:
    says = escape(one_line(picture.says, 1000), quote=True)
    return f'<figure><img class="picture" src="{_data(picture.png)}" alt="{says}"></figure>'


def _table(table: Table) -> str:
    heading = "".join(f"<th>{_text(cell)}</th>" for cell in table.headings)
    lines = []
    for i, row in enumerate(table.rows):
        cells = []
        for j, cell in enumerate(row):
            mark = f' class="{table.marks[i, j]}"' if (i, j) in table.marks else ""
            png = table.pictures.get((i, j))
            image = "" if png is None else f'<img src="{_data(png)}" alt="">'
            cells.append(f"<td{mark}>{image}{_text(cell)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    caption = f"<caption>{_text(table.caption)}</caption>" if table.caption else ""
    rows = "\n".join(lines)
    return (
        f'<div class="wide"><table>{caption}\n<thead><tr>{heading}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )
