"""Many inputs to rows, and rows to a table, JSON lines or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rsquant.atomic import check_free
from rsquant.decoding import Pixels, UnreadableImage
from rsquant.packages import require
from rsquant.serve.inputs import Input
from rsquant.serve.marked import save as save_marked
from rsquant.serve.predictor import Prediction, Predictor
from rsquant.serve.stream import Overload, stream
from rsquant.text import one_line


@dataclass(frozen=True)
class Result:
    """What came of a picture: a prediction, or why it could not be read."""

    name: str
    prediction: Prediction | None = None
    error: str | None = None
    saved: Path | None = None

    def row(self) -> dict[str, object]:
        """As it is written; `tried` and `why` where sizes were chosen."""
        said = self.prediction
        assert said is not None
        one, many = "probability", "probabilities"
        if said.mask is not None:
            one, many = "share", "shares"
        row: dict[str, object] = {
            "input": self.name,
            "label": said.label,
            one: round(said.probabilities[0], 6),
            "resolution": said.resolution,
            "milliseconds": round(said.milliseconds, 3),
        }
        if len(said.labels) > 1 or said.mask is not None:
            row["labels"] = list(said.labels)
            row[many] = [round(p, 6) for p in said.probabilities]
        if len(said.tried) > 1:
            row["tried"] = list(said.tried)
        if said.choice is not None:
            row["why"] = said.choice.reason
        if self.saved is not None:
            row["saved"] = str(self.saved)
        return row


def predictions(
    predictor: Predictor,
    inputs: Sequence[Input],
    overload: Overload = "degrade",
    save: Path | None = None,
    exist_ok: bool = False,
) -> Iterator[Result]:
    """A result for each picture, in order.

    Args:
        overload: of cameras with a budget, see `rsquant.serve.stream`.
        save: a folder for marked pictures; those of a folder keep their places below it.
    Raises:
        DataError: a video or camera that cannot be opened.
        MissingPackage: one without OpenCV.
        RsquantError: a marked picture exists already, or cannot be written.
    """
    taken: set[Path] = set()
    for one in inputs:
        if one.kind in ("video", "camera"):
            yield from _frames(predictor, one, overload, save, exist_ok, taken)
            continue
        try:
            pixels = one.picture()
        except UnreadableImage as error:
            yield Result(one.name, error=error.reason)
            continue
        said = predictor(pixels)
        yield Result(one.name, said, saved=_save(pixels, said, save, one.place, exist_ok, taken))


def _frames(
    predictor: Predictor,
    one: Input,
    overload: Overload,
    save: Path | None,
    exist_ok: bool,
    taken: set[Path],
) -> Iterator[Result]:
    require("a video or camera", "video", "cv2")
    from rsquant.serve.video import frames

    def named(number: int, pixels: Pixels, said: Prediction) -> Result:
        place = one.place / f"{number:06d}"
        return Result(
            f"{one.name}#{number}",
            said,
            saved=_save(pixels, said, save, place, exist_ok, taken),
        )

    if one.live and predictor.budget is not None:
        for item in stream(predictor, frames(one.name), overload):
            yield named(item.number, item.pixels, item.prediction)
        return
    for number, pixels in enumerate(frames(one.name)):
        yield named(number, pixels, predictor(pixels))


def _save(
    pixels: Pixels,
    said: Prediction,
    folder: Path | None,
    place: Path,
    exist_ok: bool,
    taken: set[Path],
) -> Path | None:
    """Write the marked picture; of two inputs with one name the second is NAME_2."""
    if folder is None:
        return None
    path, number = folder / place.with_suffix(".jpg"), 1
    while path in taken:
        number += 1
        path = folder / place.with_name(f"{place.stem}_{number}.jpg")
    taken.add(path)
    check_free(path, exist_ok)
    if said.mask is not None:
        check_free(path.with_suffix(".png"), exist_ok)
    save_marked(pixels, said, path)
    return path


def writer(form: str, line: Callable[[str], object]) -> Callable[[Result], None]:
    """Writes results as they come: "table", "jsonl" or "csv", a line each."""
    columns: list[str] = []

    def table(result: Result) -> None:
        said = result.prediction
        assert said is not None
        labels = "  ".join(
            f"{label} {probability:6.1%}"
            for label, probability in zip(said.labels, said.probabilities, strict=True)
        )
        sizes = ">".join(map(str, said.tried))
        line(one_line(f"{result.name}  {labels}  {sizes} px  {said.milliseconds:.1f} ms"))

    def jsonl(result: Result) -> None:
        line(json.dumps(result.row()))

    def comma(result: Result) -> None:
        assert result.prediction is not None
        row = result.row()
        row["tried"] = row.pop("tried", list(result.prediction.tried))
        if not columns:
            columns.extend(row)
            line(_comma(columns))
        line(_comma([_cell(value) for value in row.values()]))

    return {"table": table, "jsonl": jsonl, "csv": comma}[form]


def _cell(value: object) -> object:
    text = "|".join(map(str, value)) if isinstance(value, list) else value
    return one_line(text) if isinstance(text, str) else text


def _comma(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()
