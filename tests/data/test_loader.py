"""Batches: the same whatever the workers, resumable, and without the unreadable."""

import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from noise import Noise
from PIL import Image
from torch.utils.data import DataLoader

from rsquant.data import UnreadableLog, evaluation_batches, evaluation_crop, training_batches
from rsquant.data.loader import Batch, Batches, _start_worker
from rsquant.data.sources import FolderSplit
from rsquant.errors import DataError

SIZES = (32, 24, 16)


def equal(a: Batch, b: Batch) -> bool:
    return (
        all(torch.equal(x, y) for x, y in zip(a.images, b.images, strict=True))
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.indices, b.indices)
        and a.unreadable == b.unreadable
    )


def epoch(split: Noise, workers: int = 0, epoch: int = 2, skip: int = 0, **rest: object) -> Batches:
    return training_batches(split, SIZES, 8, epoch, 5, workers, skip=skip, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize("crop", ["single", "multi"])
def test_batches_do_not_depend_on_workers(crop: str) -> None:
    split = Noise(37, bad=(4, 11))
    alone, two = list(epoch(split, 0, crop=crop)), list(epoch(split, 2, crop=crop))
    assert len(alone) == len(two) == 4
    assert all(equal(a, b) for a, b in zip(alone, two, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_continues_an_epoch_exactly(workers: int) -> None:
    whole, rest = list(epoch(Noise(50))), epoch(Noise(50), workers, skip=4)
    assert len(rest) == 2
    assert all(equal(a, b) for a, b in zip(whole[4:], rest, strict=True))


def test_skipping_everything_gives_an_empty_epoch() -> None:
    assert list(epoch(Noise(16), workers=2, skip=2)) == []


def test_epochs_differ_in_order_and_crops() -> None:
    first, second = (next(iter(epoch(Noise(40), epoch=e))) for e in (0, 1))
    assert first.indices.tolist() != second.indices.tolist()
    one, other = (next(iter(epoch(Noise(1), epoch=e))) for e in (0, 1))
    assert not torch.equal(one.images[0], other.images[0])


def test_an_epoch_has_every_image_once_and_the_right_shapes() -> None:
    batches = list(epoch(Noise(20), drop_last=False))
    assert sorted(torch.cat([b.indices for b in batches]).tolist()) == list(range(20))
    assert [len(b.labels) for b in batches] == [8, 8, 4]
    assert [tuple(x.shape) for x in batches[0].images] == [(8, 3, s, s) for s in SIZES]
    assert all(x.dtype == torch.uint8 for x in batches[0].images)
    assert torch.equal(batches[0].labels, batches[0].indices % 5)


def test_last_batch_is_dropped_unless_it_is_the_only_one() -> None:
    assert [len(b.labels) for b in epoch(Noise(20))] == [8, 8]
    assert [len(b.labels) for b in epoch(Noise(5))] == [5]


def test_evaluation_yields_every_image_in_order_at_every_size() -> None:
    split = Noise(11)
    batches = list(evaluation_batches(split, SIZES, 4, 2))
    assert torch.cat([b.indices for b in batches]).tolist() == list(range(11))
    for size, images in zip(SIZES, batches[2].images, strict=True):
        assert torch.equal(images[1], evaluation_crop(split.image(9), size))


def test_unreadable_files_are_dropped_and_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for i in range(4):
        Image.new("RGB", (40, 40), (i, i, i)).save(tmp_path / "a" / f"{i}.png")
    (tmp_path / "a" / "1.png").write_bytes(b"")
    data = (tmp_path / "a" / "2.png").read_bytes()
    (tmp_path / "a" / "2.png").write_bytes(data[:45])
    (batch,) = evaluation_batches(FolderSplit(tmp_path, ["a"]), (16,), 4, 0)
    assert batch.indices.tolist() == [0, 3]
    assert batch.images[0][:, 0, 0, 0].tolist() == [0, 3]
    assert batch.unreadable[0] == (str(tmp_path / "a" / "1.png"), "empty file")
    assert batch.unreadable[1][0] == str(tmp_path / "a" / "2.png")


def test_a_batch_of_unreadable_images_is_empty() -> None:
    (batch,) = evaluation_batches(Noise(2, bad=(0, 1)), SIZES, 4, 0)
    assert batch.images[0].shape == (0, 3, 32, 32) and len(batch.unreadable) == 2


def test_unreadable_log_tells_each_name_once() -> None:
    log = UnreadableLog()
    lines: list[str] = []
    for _ in range(3):
        log.add([("a.jpg", "empty file"), ("b.jpg", "truncated")], lines.append)
    assert lines == [
        "skipped unreadable image a.jpg: empty file",
        "skipped unreadable image b.jpg: truncated",
    ]
    assert log.count == 2


def test_more_than_one_per_cent_unreadable_is_an_error() -> None:
    log = UnreadableLog()
    log.check(0)
    log.add([("a.jpg", "empty file"), ("b.jpg", "truncated")], lambda _: None)
    log.check(200)
    with pytest.raises(DataError, match=r"^2 of 199 images .* first is a.jpg: empty file; repair"):
        log.check(199)


def test_more_workers_than_processors_warn_of_nothing() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert len(list(epoch(Noise(64), workers=6, skip=2))) == 6
    assert [str(warning.message) for warning in seen] == []


def test_workers_leave_interrupts_to_the_main_process() -> None:
    before, threads = signal.getsignal(signal.SIGINT), torch.get_num_threads()
    try:
        _start_worker(0)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert torch.get_num_threads() == 1
    finally:
        signal.signal(signal.SIGINT, before)
        torch.set_num_threads(threads)


def test_full_shared_memory_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("DataLoader worker is killed by signal: Bus error.")

    monkeypatch.setattr(DataLoader, "__iter__", fail)
    with pytest.raises(DataError, match=r"do not fit in shared memory .*`workers=0`"):
        list(epoch(Noise(20), workers=2))


class Failing(Noise):
    """A split one of whose images does something to the process that reads it."""

    def __init__(self, count: int, index: int, act: Callable[[], object]) -> None:
        super().__init__(count)
        self.index, self.act = index, act

    def image(self, i: int, min_side: int | None = None) -> torch.Tensor:
        if i == self.index:
            self.act()
        return super().image(i, min_side)


@pytest.mark.parametrize(
    "act,reason",
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "ended by the system (Killed)"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "ended by the system (Segmentation fault)"),
        (lambda: os._exit(3), "a process that loads images ended"),
    ],
)
def test_a_worker_that_the_system_ends_is_told(act: Callable[[], object], reason: str) -> None:
    with pytest.raises(DataError, match=re.escape(reason)) as caught:
        list(evaluation_batches(Failing(4, 2, act), (16,), 2, 1))
    assert "fewer `workers` than 1" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_too_little_memory_is_no_fault_of_an_image(workers: int) -> None:
    def allocate() -> None:
        np.empty(2**60, np.uint8)

    with pytest.raises(MemoryError):
        list(evaluation_batches(Failing(4, 2, allocate), (16,), 2, workers))


HELD = """
import atexit
import builtins
import multiprocessing.util
import sys
# After torch's own end, before that of multiprocessing.
atexit.register(lambda: sys.argv[1] == "let go late" and vars(builtins).pop("kept"))
from rsquant.data import evaluation_batches
from rsquant.data.shapes import shapes_source
batches = evaluation_batches(shapes_source(0, 24, 12).train, (8,), 4, 2)
if sys.argv[1] in ("held", "let go late"):
    kept = iter(batches)
    next(kept)
else:
    try:
        for batch in batches:
            raise KeyError("in the middle")
    except KeyError as error:
        kept = error
builtins.kept = kept
del kept
"""


@pytest.mark.parametrize(
    "how", [pytest.param("held", marks=pytest.mark.slow), "in a traceback", "let go late"]
)
def test_a_process_ends_while_an_iterator_is_held(how: str) -> None:
    """It waited for ever; the limit only keeps a failure from doing so too."""
    done = subprocess.run(
        [sys.executable, "-c", HELD, how], capture_output=True, text=True, check=False, timeout=600
    )
    assert (done.returncode, done.stderr) == (0, "")
