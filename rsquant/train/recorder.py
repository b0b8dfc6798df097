"""What a run leaves behind to read: log.txt, metrics.csv, TensorBoard events."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from rsquant import runs
from rsquant.atomic import replacing, unwritable

METRICS, LOG = runs.METRICS, runs.LOG


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
        self.rows = [r for r in read_metrics(run) if int(r["epoch"]) <= epochs_kept]
        purge = epochs_kept + 1 if epochs_kept else None
        try:
            self._board = SummaryWriter(str(run), purge_step=purge)
        except OSError as error:
            raise unwritable(run, error) from error

    def log(self, line: str) -> None:
        """Show a line, and append it to log.txt with the time."""
        # A folder's name may hold bytes that are no text.
        line = line.encode(errors="backslashreplace").decode()
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
        writer = csv.DictWriter(text, list(row), lineterminator="\n")
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


def read_metrics(run: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics.csv, as text; none if it has none."""
    path = run / METRICS
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
