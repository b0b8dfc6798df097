"""A machine that refuses memory or files in the middle of a training."""

import dataclasses

import pytest
import torch
from small_runs import CONFIG, Silent, state, train

from rsquant import runs
from rsquant.errors import DataError, RsquantError
from rsquant.train import loop, training

SHORT = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, epochs=1))


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A run of one epoch."""
    root = tmp_path_factory.mktemp("short")
    train(root, "short", config=SHORT)
    return root / "short"


@pytest.mark.parametrize(
    "error,line",
    [
        (MemoryError(), "out of memory; use a smaller `batch`"),
        (OSError(24, "Too many open files"), "raise the limit of open files"),
        (
            DataError("loader: a process that loads images was ended by the system (Killed)"),
            "Killed",
        ),
    ],
)
def test_images_that_the_machine_cannot_load_lose_no_step(
    short, tmp_path, monkeypatch, error, line
):
    """The run goes on from the last step and ends as one that nothing happened to."""
    original = loop.Batches.__iter__

    def failing(self):
        for number, batch in enumerate(original(self)):
            if number == 2:
                raise error
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(loop.Batches, "__iter__", failing)
        with pytest.raises(RsquantError, match=f"{line}.*continue with `resume"):
            train(tmp_path, "run", config=SHORT)
    _, metadata = state(tmp_path / "run")
    assert (metadata["epoch"], metadata["step"]) == (0, 2)
    training.resume(tmp_path / "run", Silent(), lambda line: None)
    ends = [state(run)[0] for run in (short, tmp_path / "run")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_memory_that_runs_out_in_a_step_is_a_line_and_the_state_before_stays(
    tmp_path, monkeypatch, error
):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(loop.Trainer, "_step", fail)
    with pytest.raises(RsquantError, match=r"^train: .*out of memory; use a smaller `batch`.*sav"):
        train(tmp_path, "run", config=SHORT)
    assert (tmp_path / "run" / runs.STATE).is_file()  # the calibrated start
