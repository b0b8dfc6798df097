"""Batches of S resolutions; the same batches whatever the number of worker processes."""

from __future__ import annotations

import copy
import dataclasses
import math
import re
import signal
import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from rsquant.data.batch import Batch as Batch
from rsquant.data.batch import Cropped, EvaluationCut, Loaded, Request, TrainingCut
from rsquant.data.ranks import check_world, evaluation_part, training_part
from rsquant.data.samples import LABELLED, Augmentation, Samples
from rsquant.data.slots import Slots
from rsquant.data.split import Split
from rsquant.errors import DataError
from rsquant.text import one_line

UNREADABLE_SHARE = 0.01
_AHEAD = 2  # batches that a worker is asked for before they are needed, torch's own number
_STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Batches(Iterable[Batch]):
    """An iterable of Batch with a length; each iteration starts its own workers."""

    def __init__(self, samples: Cropped, batches: list[list[int]], workers: int) -> None:
        self._samples, self._batches, self._workers = samples, batches, workers

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        # No more workers than batches: a worker without work still costs its start.
        workers = min(self._workers, len(self._batches))
        samples = copy.copy(self._samples)
        samples.slots = slots = self._slots(workers)
        try:
            with _held_signals(), warnings.catch_warnings():
                # More workers than processors are slow, not wrong, and two may already be more.
                warnings.filterwarnings("ignore", "This DataLoader will create")
                iterator = iter(self._loader(samples, self._requests(slots), workers))
            if workers:
                _end_with_the_process(iterator._workers)  # type: ignore[attr-defined]
            for loaded in iterator:
                if isinstance(loaded, DataError):
                    raise loaded
                yield _batch(loaded, slots)
        except MemoryError as error:  # a worker's comes with its traceback as its message
            raise MemoryError("loader") from error
        except RuntimeError as error:
            # torch cannot make numpy's own kind of MemoryError again, and raises this one instead.
            if re.match(r"Caught \w*MemoryError in DataLoader worker", str(error)):
                raise MemoryError("loader") from error
            if "DataLoader worker (pid" in str(error) and "Bus error" not in str(error):
                raise DataError(
                    f"loader: {_lost(error)}; most often the system was out of memory: use fewer "
                    f"`workers` than {workers}, a smaller `batch` or smaller images"
                ) from error
            if "shared memory" in str(error) or "Bus error" in str(error):
                raise DataError(
                    f"loader: {workers} workers do not fit in shared memory (/dev/shm); "
                    "enlarge it (docker run --shm-size 2g), or use `workers=0`"
                ) from error
            raise

    def _slots(self, workers: int) -> Slots | None:
        """As many as batches may be under way, held by the caller, and being asked for."""
        count = min(len(self._batches), _AHEAD * workers + 3)
        if workers and sys.platform != "linux":
            return None  # workers are not forked
        try:
            return Slots(count, max(map(len, self._batches), default=0), self._samples.resolutions)
        except (OSError, ValueError, OverflowError):
            return None

    def _requests(self, slots: Slots | None) -> Iterator[Request]:
        """One at a time, when a worker can have it, in the slot that is free by then."""
        for indices in self._batches:
            yield Request(indices, None if slots is None else slots.take())

    def _loader(
        self, samples: Cropped, requests: Iterator[Request], workers: int
    ) -> DataLoader[Any]:
        return DataLoader(
            samples,
            batch_sampler=requests,  # type: ignore[arg-type]
            prefetch_factor=_AHEAD if workers else None,
            collate_fn=_same,
            num_workers=workers,
            # A forked worker starts in milliseconds and shares the split's memory.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            worker_init_fn=_start_worker if workers else None,
            # Its own generator: the loader must not draw from the one that dropout layers use, or
            # an epoch continued with a second loader would differ.
            generator=torch.Generator().manual_seed(0),
        )


def training_batches(
    split: Split,
    resolutions: Sequence[int],
    batch: int,
    epoch: int,
    seed: int,
    workers: int,
    area: tuple[float, float] = (0.08, 1.0),
    flip: bool = True,
    crop: str = "single",
    skip: int = 0,
    drop_last: bool = True,
    samples: Samples = LABELLED,
    augment: str = "none",
    rank: int = 0,
    world: int = 1,
) -> Batches:
    """One epoch of shuffled, cropped batches.

    The order depends on (seed, epoch) and a sample's crop on (seed, epoch, index) only, so the
    number of workers changes nothing, and `skip=k` gives batch k onwards of the same epoch. Nor
    does the number of processes: their parts of a batch, in the order of ranks, are the batch.

    Args:
        batch: images per batch, of all processes together.
        workers: processes that decode; 0 decodes in this one.
        drop_last: leave out a last, smaller batch, unless it is the only one.
        samples: what the task makes of images and labels; by default labels are whole images'.
        augment: a change of each crop by name, see `augment`.
        rank, world: number of this process, and how many there are in a distributed training.
    Raises:
        ConfigError: `world` does not divide `batch`.
    """
    check_world(batch, rank, world)
    # A spawn key keeps the order's stream apart from every sample's.
    order_rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
    order = order_rng.permutation(len(split)).tolist()
    batches = _slices(order, batch, drop_last and len(order) >= batch)
    augmentation = Augmentation(area, flip, crop, augment)
    cut = TrainingCut(samples, tuple(resolutions), seed, epoch, augmentation)
    side = samples.decoded_side(resolutions, augmentation)
    parts = [training_part(part, rank, world) for part in batches[skip:]]
    return Batches(Cropped(split, resolutions, side, cut), parts, workers)


def evaluation_batches(
    split: Split,
    resolutions: Sequence[int],
    batch: int,
    workers: int,
    samples: Samples = LABELLED,
    rank: int = 0,
    world: int = 1,
) -> Batches:
    """Every image once, in order, decoded once and cropped for each resolution, without chance.

    Args:
        samples: as in `training_batches`.
        rank, world: this process has every `world`-th batch, from batch `rank`; maybe none.
    """
    cut = EvaluationCut(samples, tuple(resolutions))
    # Decoded whole: a scaled decode would make the figure at one size depend on the others.
    cropped = Cropped(split, resolutions, None, cut)
    batches = _slices(list(range(len(split))), batch, False)
    return Batches(cropped, evaluation_part(batches, rank, world), workers)


class UnreadableLog:
    """Counts unreadable images, each once, and stops a run that meets too many."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    @property
    def count(self) -> int:
        """Distinct unreadable images so far."""
        return len(self._reasons)

    def add(self, unreadable: Iterable[tuple[str, str]], log: Callable[[str], None]) -> None:
        """Note a batch's unreadable images; `log` gets one line for each new one."""
        for name, reason in unreadable:
            if name not in self._reasons:
                self._reasons[name] = reason
                log(f"skipped unreadable image {one_line(name)}: {one_line(reason, 200)}")

    def check(self, total: int) -> None:
        """Raise DataError when more than 1 % of `total` images have been unreadable."""
        if self.count > UNREADABLE_SHARE * total:
            name, reason = next(iter(self._reasons.items()))
            raise DataError(
                f"{self.count} of {total} images are unreadable (at most "
                f"{100 * UNREADABLE_SHARE:g} % are skipped); the first is {name}: {reason}; repair "
                "or delete them, then start again"
            )


@contextmanager
def _held_signals() -> Iterator[None]:
    """Let signals wait while workers start; they inherit that, until they ignore them.

    Between a worker's first moment and its own code torch has it end at a SIGTERM.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows: no such signals either
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _stop_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stop_signals() -> list[signal.Signals]:
    return [getattr(signal, name) for name in _STOP_SIGNALS if hasattr(signal, name)]


def _end_with_the_process(workers: Iterable[BaseProcess]) -> None:
    """End workers before multiprocessing waits for them at the process's end.

    It would send them SIGTERM, which they ignore, and wait for ever: where an iterator is still
    held then, by a traceback for one, or is let go so late that torch no longer ends its workers.
    So each worker is looked for, not its iterator; multiprocessing holds those that run.
    """

    def end(held: weakref.ref[BaseProcess]) -> None:
        worker = held()
        if worker is not None and worker.is_alive():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler tells of killed ones
            worker.kill()

    for worker in workers:
        Finalize(worker, end, (weakref.ref(worker),), exitpriority=1)


def _lost(error: BaseException) -> str:
    """What became of a worker, from torch's messages: its last one may not name the signal."""
    messages = " ".join(map(str, (error, error.__cause__, error.__context__)))
    found = re.search(r"killed by signal: ([\w ]*\w)", messages)
    if found:
        return f"a process that loads images was ended by the system ({found[1]})"
    return "a process that loads images ended"


def _slices(order: list[int], batch: int, drop_last: bool) -> list[list[int]]:
    count = len(order) // batch if drop_last else math.ceil(len(order) / batch)
    return [order[i * batch : (i + 1) * batch] for i in range(count)]


def _batch(loaded: Loaded, slots: Slots | None) -> Batch:
    """A batch with its images, which keep their slot for as long as they are used."""
    batch, slot = loaded.batch, loaded.slot
    if slot is None or slots is None:
        return batch
    if not loaded.written:
        slots.give(slot)
        return batch
    return dataclasses.replace(batch, images=slots.lend(slot, len(batch.indices)))


def _same(batch: Any) -> Any:
    return batch


def _start_worker(_: int) -> None:
    # Ctrl-C reaches the whole process group, as do SIGTERM from `timeout` and SIGHUP. Only the main
    # process handles them; a worker ends when it is told to, or finds its parent gone.
    for number in _stop_signals():
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
