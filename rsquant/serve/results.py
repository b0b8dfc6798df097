"""Many inputs to rows, and rows to a table, JSON lines or CSV."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rsquant.atomic import unwritable
from rsquant.decoding import Pixels, UnreadableImage
from rsquant.errors import DataError, RsquantError
from rsquant.made import Made
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
        DataError: a camera that cannot be opened; a video that cannot is a result with its error.
        MissingPackage: one without OpenCV.
        RsquantError: a marked picture exists already, is one of the inputs, or cannot be written.
    """
    place = None if save is None else _Folder(save, exist_ok, inputs)
    for one in inputs:
        if one.kind in ("video", "camera"):
            try:
                yield from _frames(predictor, one, overload, place)
            except DataError as error:
                if one.live:
                    raise
                yield Result(one.name, error=str(error).removeprefix(f"{one.name}: "))
            continue
        try:
            pixels = one.picture()
        except UnreadableImage as error:
            yield Result(one.name, error=error.reason)
            continue
        said = predictor(pixels)
        yield Result(one.name, said, saved=_saved(place, pixels, said, one.place))


def _frames(
    predictor: Predictor,
    one: Input,
    overload: Overload,
    folder: _Folder | None,
) -> Iterator[Result]:
    require("a video or camera", "video", "cv2")
    from rsquant.serve.video import frames

    def named(number: int, pixels: Pixels, said: Prediction) -> Result:
        place = one.place / f"{number:06d}"
        return Result(
            f"{one.name}#{number}",
            said,
            saved=_saved(folder, pixels, said, place),
        )

    if one.live and predictor.budget is not None:
        for item in stream(predictor, frames(one.name), overload):
            yield named(item.number, item.pixels, item.prediction)
        return
    for number, pixels in enumerate(frames(one.name)):
        yield named(number, pixels, predictor(pixels))


def _saved(folder: _Folder | None, pixels: Pixels, said: Prediction, place: Path) -> Path | None:
    return None if folder is None else folder.save(pixels, said, place)


class _Folder:
    """Where marked pictures are saved; they replace marked pictures alone, where they may."""

    def __init__(self, folder: Path, exist_ok: bool, inputs: Sequence[Input]) -> None:
        self._folder, self._exist_ok = folder, exist_ok
        self._made = Made(folder)
        self._inputs = {os.path.realpath(one.name) for one in inputs}
        self._taken: set[Path] = set()

    def save(self, pixels: Pixels, said: Prediction, place: Path) -> Path:
        """Write the marked picture; of two inputs with one name the second is NAME_2."""
        path, number = self._folder / place.with_suffix(".jpg"), 1
        while path in self._taken:
            number += 1
            path = self._folder / place.with_name(f"{place.stem}_{number}.jpg")
        self._taken.add(path)
        for file in (path, *([path.with_suffix(".png")] if said.mask is not None else [])):
            if os.path.realpath(file) in self._inputs:
                raise RsquantError(
                    f"{file}: is one of the pictures to predict, and would be replaced; choose "
                    "another folder for `save`"
                )
            self._made.check(file, self._exist_ok)
        files = save_marked(pixels, said, path)
        try:
            self._made.note({str(file.relative_to(self._folder)): file for file in files})
        except OSError as error:
            raise unwritable(path, error) from error
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
