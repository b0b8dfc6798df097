"""A packed network "on a GPU" for the CUDA benchmark's tests: no kernels, but real programs."""

from types import SimpleNamespace

import pytest
import shallow  # noqa: F401  (ResNets of few blocks)
import torch

from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed

ACTIVATION_BYTES = 4321
LAUNCH_BYTES = 1000


class FakeGraph:
    """Logits are a fixed function of the images; launches note that they ran."""

    def __init__(self, program, size, batch, classes):
        self.program, self.batch = program, batch
        self.images = torch.zeros(batch, 3, size, size, dtype=torch.uint8)
        self.logits = torch.zeros(batch, classes)
        self.activation_bytes = ACTIVATION_BYTES
        self.replays = 0
        self.runs = []
        self.launches = [
            SimpleNamespace(step=step, run=self._launch(step), bytes=LAUNCH_BYTES, macs=1)
            for step in (None, *program.steps)
        ]

    def _launch(self, step):
        def run():
            self.runs.append(step)
            if step is self.program.steps[-1]:
                self._compute()

        return run

    def replay(self):
        self.replays += 1
        self._compute()

    def _compute(self):
        mean = self.images.float().mean((1, 2, 3))
        self.logits.copy_(mean[:, None] * torch.arange(1, self.logits.shape[1] + 1))


class FakeSession:
    def __init__(self, path, device):
        self.packed = open_packed(path)
        self.device = torch.device(device)
        self.graphs = {}

    def program(self, size):
        return build_program(self.packed, size, size)

    def graph(self, size, batch):
        if (size, batch) not in self.graphs:
            classes = self.packed.plan.network.num_classes
            self.graphs[size, batch] = FakeGraph(self.program(size), size, batch, classes)
        return self.graphs[size, batch]


@pytest.fixture
def short(monkeypatch):
    """Little settling, few trials, few copies."""
    from rsquant.bench import timing
    from rsquant.bench.cuda import inputs, layers
    from rsquant.bench.engines import cudnn

    monkeypatch.setattr(cudnn, "_TRIALS", 1)
    monkeypatch.setattr(inputs, "SETTLING_STEPS", 2)
    monkeypatch.setattr(inputs, "SETTLING_BATCH", 2)
    monkeypatch.setattr(layers, "COPIES", 2)
    monkeypatch.setattr(layers, "_TRIALS", 1)
    monkeypatch.setattr(timing, "_LOADS", 1)


@pytest.fixture
def sessions(monkeypatch, short):
    """The fake sessions that engines opened, in order."""
    from rsquant.bench.cuda import layers
    from rsquant.bench.engines import packed

    opened = []

    def open_session(path, device):
        opened.append(FakeSession(path, str(device.device)))
        return opened[-1]

    monkeypatch.setattr(packed, "open_session", open_session)
    monkeypatch.setattr(layers, "open_session", open_session)
    return opened
