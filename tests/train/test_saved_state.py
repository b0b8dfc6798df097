"""What a run folder keeps, and when it is saved again; the clock is the test's."""

import pytest

from rsquant.train import saved_state
from rsquant.train.saved_state import SavedState


class State:
    """A training state whose file is a line."""

    epoch = step = 0

    def save(self, path):
        path.write_text(f"{self.epoch} {self.step}")

    def load(self, path):
        self.epoch, self.step = map(int, path.read_text().split())


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(saved_state, "time", clock)
    return clock


@pytest.mark.usefixtures("clock")
def test_an_error_says_what_the_folder_keeps(tmp_path):
    state = State()
    saved = SavedState(tmp_path, state)
    assert str(saved) == "nothing was saved yet" and not saved.is_current
    state.epoch = 2
    saved.save()
    assert str(saved) == f"{tmp_path} keeps the network of 2 epochs" and saved.is_current
    state.step = 5
    assert str(saved) == f"{tmp_path} keeps the network of 2 epochs" and not saved.is_current
    saved.save()
    assert str(saved) == f"{tmp_path} keeps the network of 2 epochs and 5 steps"


@pytest.mark.usefixtures("clock")
def test_a_loaded_state_is_the_one_on_disk(tmp_path):
    (tmp_path / "state.safetensors").write_text("1 3")
    state = State()
    saved = SavedState(tmp_path, state)
    saved.load()
    assert (state.epoch, state.step) == (1, 3) and saved.is_current
    assert str(saved) == f"{tmp_path} keeps the network of 1 epochs and 3 steps"


def test_steps_are_saved_once_the_file_is_so_old(tmp_path, clock):
    state = State()
    saved = SavedState(tmp_path, state)
    saved.save()
    clock.now = 600.0
    assert not saved.is_due(10.0)  # nothing to save
    state.step = 1
    assert saved.is_due(10.0) and not saved.is_due(10.1) and not saved.is_due(0.0)
    saved.save()
    state.step = 2
    assert not saved.is_due(10.0)
    clock.now = 1200.0
    assert saved.is_due(10.0)
    saved.restart_clock()
    assert not saved.is_due(10.0)
