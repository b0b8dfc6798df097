"""Progress bars with images per second and time left; silent when not on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from rsquant.cli.console import show


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.speed or task.finished_speed
        return Text(f"{speed:.0f} images/s" if speed else "")


class ImageProgress:
    """One bar per phase of an epoch; implements `rsquant.train.loop.Progress`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _Speed(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bars.add_task("", total=None, note="", visible=False)

    def start(self, phase: str, epoch: int, epochs: int, done: int, total: int) -> None:
        """A phase of an epoch begins; counts are images."""
        self._bars.remove_task(self._task)
        label = f"{phase} {epoch}/{epochs}" if epochs else phase
        self._task = self._bars.add_task(label, total=total, completed=done, note="")

    def advance(self, images: int, note: str = "") -> None:
        """Some images are done."""
        self._bars.update(self._task, advance=images, note=note)

    def echo(self, line: str) -> None:
        """A line above the bars."""
        show(self.console, line)

    @contextmanager
    def shown(self) -> Iterator[ImageProgress]:
        """Show the bars inside the block."""
        with self._bars:
            yield self
