"""What a run leaves behind to read: log.txt, metrics.csv, TensorBoard events."""

from __future__ import annotations

import csv
import datetime
import io
import itertools
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from rsquant import runs
from rsquant.atomic import replacing, unwritable
from rsquant.text import one_line
from rsquant.train.metrics import metrics_of

METRICS, LOG = runs.METRICS, runs.LOG
# Ends the names of its TensorBoard files, which a user's callback may have too.
EVENTS = ".rsquant"


class Recorder:
    """Writes a run's log and metrics.

    Args:
        run: the run folder.
        epochs_kept: rows of an earlier metrics.csv up to this epoch stay (resuming); 0 starts anew.
        echo: gets every log line, to show it.
    """

    def __init__(
        self, run: Path, epochs_kept: int = 0, echo: Callable[[str], None] = lambda line: None
    ) -> None:
        # Imported here: it takes a second, and evaluation alone never needs it.
        from torch.utils.tensorboard import SummaryWriter

        self._run, self._echo = run, echo
        metrics = metrics_of(run)
        self.rows = [r for r in metrics.rows if int(r["epoch"]) <= epochs_kept]
        purge = epochs_kept + 1 if epochs_kept else None
        try:
            self._board = SummaryWriter(str(run), purge_step=purge, filename_suffix=EVENTS)
        except OSError as error:
            raise unwritable(run, error) from error
        self._report(metrics.damage, epochs_kept)

    def _report(self, damage: str | None, epochs_kept: int) -> None:
        """Say which rows of an earlier metrics.csv are lost; a damaged file is kept beside."""
        lost = epochs_kept - len(self.rows)
        rows = f"the rows of {lost} of {epochs_kept} epochs are lost" if lost else "no row is lost"
        if damage is None:
            if lost:
                self.log(f"{METRICS} is incomplete: {rows}; training continues")
            return
        kept = next(
            path
            for number in itertools.count(1)
            if not os.path.lexists(path := self._run / f"metrics.damaged{number}.csv")
        )
        try:
            (self._run / METRICS).rename(kept)
        except OSError as error:
            raise unwritable(kept, error) from error
        self.log(f"{METRICS} is damaged, {damage}: {rows}; kept as {kept.name}, training continues")

    def log(self, line: str) -> None:
        """Show a line, and append it to log.txt with the time; see `one_line`."""
        line = one_line(line)
        self._echo(line)
        now = datetime.datetime.now().isoformat(" ", "seconds")
        path = self._run / LOG
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{now}  {line}\n")
        except OSError as error:
            raise unwritable(path, error) from error

    def epoch(self, row: Mapping[str, float | int]) -> None:
        """Add one epoch's figures to metrics.csv and TensorBoard; `row` has an "epoch"."""
        self.rows.append({k: f"{v:.6g}" for k, v in row.items()})
        text = io.StringIO()
        # Rows of an earlier version may have columns that this one has not.
        names = list(dict.fromkeys(name for one in (row, *self.rows) for name in one))
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        with replacing(self._run / METRICS) as temporary:
            temporary.write_text(text.getvalue())
        try:
            for name, value in row.items():
                if name != "epoch":
                    self._board.add_scalar(name.replace("_", "/", 1), value, int(row["epoch"]))
            self._board.flush()
        except OSError as error:
            raise unwritable(self._run / "events.out.tfevents", error) from error

    def close(self) -> None:
        """Finish the TensorBoard file; where the disk is full it ends before."""
        with suppress(OSError):
            self._board.close()


class Unrecorded:
    """Records nothing: for processes that train with the one that does."""

    def log(self, line: str) -> None:
        pass

    def epoch(self, row: Mapping[str, float | int]) -> None:
        pass

    def close(self) -> None:
        pass
