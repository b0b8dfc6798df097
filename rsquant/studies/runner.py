"""Train and measure the runs of a study: a process each, several at once if told, resumable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from rsquant import runs
from rsquant.atomic import replacing
from rsquant.config import dump_yaml
from rsquant.errors import ConfigError, RsquantError
from rsquant.processors import processors
from rsquant.studies.outcome import EVALUATION, measured, outcome
from rsquant.studies.planned import PlannedRun, existing
from rsquant.tasks import by_name
from rsquant.train.estimate import duration
from rsquant.train.lock import locked

# How long to wait before looking again at runs that other processes are at, in seconds.
_AGAIN = 5.0
_COMMAND = (sys.executable, "-P", "-m", "rsquant")


class Commands(Protocol):
    """Arguments of the command line, which alone knows its flags, that do a part of a run.

    Places are below the folder in which they run; `data` None is the run's own.
    """

    def begin(self, config: str, name: str) -> list[str]:
        """Train from a file of settings into runs/`name`, which may be there without a run."""

    def resume(self, run: str, data: str | None) -> list[str]:
        """Go on with a run, or find it finished."""

    def measure(
        self, run: str, sizes: Sequence[int], json_file: str, device: str, data: str | None
    ) -> list[str]:
        """Measure its last checkpoint at these sizes, into a file; none: at its own."""


class StudyRunError(RsquantError):
    """A run of a study failed; what it said last."""


class _Busy(Exception):
    """Another process trains this run."""


class Runner:
    """Makes runs in a folder that studies may share.

    Runs are in `root`/runs, one for all studies that need the same settings and seed.

    Args:
        commands: that do the work.
        jobs: processes at a time.
        echo: gets a line when a run begins, after each of its epochs, and when it is finished.
        data: where the data set of all runs is; None: where their configurations say.
    """

    def __init__(
        self,
        root: Path,
        commands: Commands,
        jobs: int,
        echo: Callable[[str], None],
        data: str | None = None,
    ) -> None:
        self._commands = commands
        self.root, self.jobs, self.data = root, jobs, data
        self.store = root / "runs"
        self._echo = echo
        self._children: set[subprocess.Popen[str]] = set()
        self._guard = threading.Lock()
        self._stopped = False

    def run(self, planned: Sequence[PlannedRun]) -> dict[str, str]:
        """Train and measure all that are not yet; one that fails does not end the others.

        Returns:
            What went wrong, by label.
        Raises:
            KeyboardInterrupt: after the processes have saved their states.
        """
        waiting = deque({run.name: run for run in planned}.values())
        failed: dict[str, str] = {}
        begun: dict[Future[str], PlannedRun] = {}
        told: set[str] = set()
        busy = 0
        before = signal.getsignal(signal.SIGTERM)
        in_main = threading.current_thread() is threading.main_thread()
        if in_main:
            signal.signal(signal.SIGTERM, _interrupt)
        try:
            with ThreadPoolExecutor(self.jobs) as pool:
                try:
                    while waiting or begun:
                        while waiting and len(begun) < self.jobs and busy < len(waiting):
                            run = waiting.popleft()
                            begun[pool.submit(self._one, run)] = run
                        if not begun:
                            time.sleep(_AGAIN)
                            busy = 0
                            continue
                        done, _ = wait(begun, timeout=1.0, return_when=FIRST_COMPLETED)
                        for future in done:
                            run = begun.pop(future)
                            try:
                                line = future.result()
                                busy = 0
                                if line:
                                    left = len(waiting) + len(begun)
                                    self._echo(f"{run.label}: {line}  ({left} left)")
                            except _Busy:
                                if run.name not in told:
                                    self._echo(f"{run.label}: another process is at it; later")
                                    told.add(run.name)
                                waiting.append(run)
                                busy += 1
                                continue
                            except RsquantError as error:
                                failed[run.label] = str(error)
                                self._echo(f"{run.label}: failed: {error}")
                except BaseException:
                    self._stop()
                    raise
        finally:
            if in_main:
                signal.signal(signal.SIGTERM, before)
        return failed

    def _one(self, run: PlannedRun) -> str:
        """Bring one run to its end, from wherever it is; what came out, "" if nothing was left."""
        folder = existing(run, self.store)
        lock = self.root / "locks" / folder.name.rpartition("-")[2]
        lock.mkdir(parents=True, exist_ok=True)
        try:
            holding = locked(lock)
            holding.__enter__()
        except ConfigError:
            raise _Busy from None
        try:
            if self._stopped or measured(run, self.store):
                return ""
            begun = time.monotonic()
            self._train(run, folder)
            self._measure(run, folder)
            took = duration(time.monotonic() - begun)
            found = outcome(run, self.store)
            assert found is not None
            name = by_name(run.config.model.task).main.name
            values = {size: found.rows[size].get(name) for size in run.sizes}
            figures = ", ".join(
                f"{size}: {'-' if value is None else f'{value:.1f}'}"
                for size, value in values.items()
            )
            return f"done in {took}  {figures}"
        finally:
            holding.__exit__(None, None, None)

    @property
    def _threads(self) -> int:
        """Of each process: its share of the processors."""
        return max(1, processors() // self.jobs)

    def _train(self, run: PlannedRun, folder: Path) -> None:
        name = folder.name
        if (folder / runs.CONFIG).is_file():
            self._echo(f"{run.label}: continues {folder}")
            # The same images elsewhere are the same run; training refuses others.
            self._command(run, self._commands.resume(f"runs/{name}", self.data))
            return
        train = run.config.train
        if train.threads is None:
            train = replace(train, threads=self._threads)
        file = self.root / "configs" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_text(dump_yaml(replace(run.config, train=train)))
        self._echo(f"{run.label}: begins {folder}")
        # A folder without a configuration is one that nothing has been written to yet.
        self._command(run, self._commands.begin(f"configs/{name}.yaml", name))

    def _measure(self, run: PlannedRun, folder: Path) -> None:
        found = outcome(run, self.store)
        sizes = sorted({*run.sizes, *(found.rows if found else ())}, reverse=True)
        place = f"runs/{folder.name}"
        device = run.config.train.device
        file = f"{place}/{EVALUATION}"
        self._command(run, self._commands.measure(place, sizes, file, device, self.data))

    def _command(self, run: PlannedRun, arguments: Sequence[str]) -> None:
        """Run a command of rsquant. Raises StudyRunError with its last line if it fails."""
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200", "NO_COLOR": "1"}
        # Training has its threads from its configuration, measuring from here.
        environment.setdefault("OMP_NUM_THREADS", str(self._threads))
        with self._guard:
            if self._stopped:
                raise StudyRunError("interrupted")
            child = subprocess.Popen(
                [*_COMMAND, *arguments],
                cwd=self.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                # Ctrl-C of a terminal reaches the study alone, which passes it on once.
                start_new_session=True,
            )
            self._children.add(child)
        last = ""
        try:
            assert child.stdout is not None
            with child.stdout as output:
                for line in output:
                    if line.strip():
                        last = line.strip()
                        if last.startswith("epoch "):
                            self._echo(f"{run.label}: {last}")
            status = child.wait()
        finally:
            with self._guard:
                self._children.discard(child)
        if status != 0:
            raise StudyRunError(last.removeprefix("error: ") or f"exit status {status}")

    def _stop(self) -> None:
        """Have every process save its state and end."""
        with self._guard:
            self._stopped = True
            for child in self._children:
                # Not SIGINT, which they ignore where the study is in a script's background.
                with suppress(ProcessLookupError):
                    child.send_signal(signal.SIGTERM)
        if self._children:
            self._echo("stopping; the runs save their states")


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
