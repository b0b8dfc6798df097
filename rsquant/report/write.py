"""A report's files: the page, its pictures and its figures, all of them or none."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rsquant.atomic import check_takes_files
from rsquant.machine import write_json
from rsquant.made import Made
from rsquant.report.opened import OpenedRun
from rsquant.report.page import page
from rsquant.report.section import Section
from rsquant.staging import staging

PAGE = "report.html"


def default_folder(runs: Sequence[OpenedRun]) -> Path:
    """report/ in a run's folder; of several runs, report/ here."""
    if len(runs) > 1:
        return Path("report")
    one = runs[0].checkpoint
    return (one.run or one.path.parent) / "report"


def check_folder(folder: Path, exist_ok: bool) -> None:
    """Raise RsquantError if there is a page already that must not be replaced, or is not ours."""
    check_takes_files(folder)
    Made(folder).check(folder / PAGE, exist_ok)


def write_report(
    folder: Path,
    title: str,
    about: Sequence[str],
    sections: Sequence[Section],
    files: Mapping[str, str],
) -> list[Path]:
    """Write report.html and its pictures as PNG files.

    Args:
        files: text to write beside them, by name.
    Returns:
        What was written: the page, the files, the pictures.
    Raises:
        RsquantError: the folder cannot be written, or has a file of such a name that is not of an
            earlier report; it is as it was.
    """
    pictures = {}
    for section in sections:
        for picture in section.pictures:
            pictures[_file_name(section, picture.name)] = picture.png
    with staging(folder, own=True) as temporary:
        (temporary / PAGE).write_text(page(title, about, sections), encoding="utf-8")
        for name, data in pictures.items():
            (temporary / name).write_bytes(data)
        for name, text in files.items():
            (temporary / name).write_text(text, encoding="utf-8")
    return [folder / name for name in (PAGE, *files, *pictures)]


def write_figures(path: Path, sections: Sequence[Section]) -> None:
    """Write the figures of all sections as JSON, a row per section."""
    write_json(
        path,
        [{"section": s.name, "run": s.run, **_finite(s.figures)} for s in sections],
    )


def _file_name(section: Section, picture: str) -> str:
    """NAME.png, or NAME-RUN.png with what may be in a file name."""
    run = re.sub(r"[^\w.-]+", "_", section.run).strip("._")
    return f"{picture}-{run}.png" if run else f"{picture}.png"


def _finite(value: Any) -> Any:
    """JSON's values alone; NaN and infinity as null."""
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    json.dumps(value)
    return value
