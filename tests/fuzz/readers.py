"""Thousands of altered checkpoints, training states and settings through their readers.

    python tests/fuzz/readers.py [FILES] [SEED] [KIND ...]

FILES of each kind (checkpoint, state, config; 3,000 by default). Each must be read, with exactly
what the file says, or be refused with one printable RsquantError of at most 2,000 characters.
Anything else fails: another exception, a warning, 10 seconds of the processor for one file, memory
of more than 64 MB and 32 times the file. What fails is kept in build/fuzz/failed/.
"""

import collections
import contextlib
import dataclasses
import resource
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import yaml
from mutants import altered_bytes, altered_tensors, altered_tree
from safetensors.torch import load as tensors_of
from torch import nn

import rsquant
from rsquant import config as configs
from rsquant import recipes
from rsquant.errors import RsquantError
from rsquant.text import LONGEST
from rsquant.train import configuration
from rsquant.train.state import TrainingState

FAILED = Path(__file__).parents[2] / "build" / "fuzz" / "failed"
SECONDS, MEMORY, SHARE = 10, 64 * 2**20, 32


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)
        self.middle, self.fc = nn.Conv2d(2, 2, 3, bias=False), nn.Linear(2, 2)

    def forward(self, x):
        return self.fc(self.norm(self.middle(self.stem(x))).relu().mean((2, 3)))


def tiny():
    torch.manual_seed(0)
    return rsquant.convert(Tiny(), 2, 2, (12, 8))


class Checkpoints:
    """A converted network, read into one, and a small ResNet, built by its name."""

    def __init__(self, path):
        self.path, self.body = path, tiny()
        self.seeds = []
        for model in (tiny(), rsquant.create("resnet18", 2, 2, (32, 24), 2, width=1)):
            rsquant.save(model, path)
            self.seeds.append(path.read_bytes())

    def mutant(self, rng):
        which = 0 if rng.random() < 0.7 else 1
        return altered_tensors(self.seeds[which], rng)

    def read(self, data):
        try:
            model = rsquant.load(self.path, into=self.body)
        except RsquantError:
            # Most are of neither arch; what is refused at once costs nothing.
            if b"resnet" not in data[:20_000]:
                raise
            model = rsquant.load(self.path)
        own = model.state_dict()
        for name, tensor in tensors_of(data).items():
            assert torch.equal(own[name], tensor.to(own[name].dtype)) or tensor.isnan().any(), name
        assert all(isinstance(size, int) for size in model.spec.resolutions)


class States:
    """A state in the middle of an epoch."""

    def __init__(self, path):
        self.path = path
        self.state = self.make()
        network = self.state.model
        logits = network.forward_all([torch.randn(2, 3, 12, 12), torch.randn(2, 3, 8, 8)])
        (sum(x.sum() for x in logits) * self.state.alpha.sum()).backward()
        self.state.optimizer.step()
        self.state.epoch, self.state.step = 2, 3
        self.state.progress = {
            "calibrated": 64,
            "best": 51.5,
            "sums": {"images": 6, "seconds": 1.5, "loss": 2.5},
        }
        self.state.save(path)
        self.seed = path.read_bytes()

    @staticmethod
    def make():
        network = tiny()
        alpha = torch.ones(2, requires_grad=True)
        optimizer = torch.optim.SGD([*network.parameters(), alpha], 0.1, 0.9)
        state = TrainingState(network, alpha, optimizer)
        state.data = [10, 4, "a", "b"]
        return state

    def mutant(self, rng):
        return altered_tensors(self.seed, rng)

    def read(self, data):
        state = self.state
        state.load(self.path)
        tensors = tensors_of(data)
        assert torch.equal(state.alpha.detach(), tensors["alpha"].to(state.alpha.dtype))
        assert all(f"momentum.{i}" in tensors for i in range(len(state._parameters())))
        assert type(state.epoch) is int and 0 <= state.epoch <= 100_000
        assert type(state.step) is int and state.step >= 0
        sums = state.progress.get("sums", {"images": 0, "seconds": 0.0})
        assert (state.step > 0) == ("sums" in state.progress)
        assert all(np.isfinite(value) and not isinstance(value, bool) for value in sums.values())
        assert state.bad() is None


class Configs:
    """A run's config.yaml, altered as settings and as text."""

    WORDS = (
        "&a ",
        "*a",
        "<<: ",
        "!!int ",
        "!!binary ",
        "!!python/name:os.system ",
        "? ",
        "- ",
        "--- ",
        "%YAML 9\n",
        "|\n",
        ">\n",
        "1:2:3",
        "2026-13-45",
        "0x",
        "1_",
        "~",
        "[",
        "{",
        "[" * 200,
        "9" * 5000,
        "\t",
        "\ufeff",
        "\x85",
        "'",
        '"',
    )

    def __init__(self, path):
        self.path = path
        config = recipes.builtin_recipe("resnet18", 2, 2)
        self.tree, self.text = configs.to_dict(config), configs.dump_yaml(config)

    def mutant(self, rng):
        kind = rng.random()
        if kind < 0.5:
            with contextlib.suppress(ValueError):  # numbers that Python does not print
                return yaml.safe_dump(altered_tree(self.tree, rng), sort_keys=False).encode()
        if kind < 0.75:
            text = self.text
            for _ in range(int(rng.integers(1, 4))):
                at = int(rng.integers(0, len(text)))
                text = text[:at] + self.WORDS[int(rng.integers(0, len(self.WORDS)))] + text[at:]
            return text.encode()
        return altered_bytes(self.text.encode(), rng)

    def read(self, data):
        for config in (configs.load_run(self.path), configuration.compose(self.path, {})[0]):
            again = configs.from_dict(yaml.safe_load(configs.dump_yaml(config)))
            assert dataclasses.asdict(again) == dataclasses.asdict(config)


KINDS = {"checkpoint": Checkpoints, "state": States, "config": Configs}


@contextlib.contextmanager
def limits(size):
    """One file's share of time and memory."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY + SHARE * size, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(60 * SECONDS)  # for one that waits
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def outcome(subject, data):
    """What became of one file: "read", "refused", or a line that says what is wrong."""
    subject.path.write_bytes(data)
    try:
        with limits(len(data)):
            subject.read(data)
    except RsquantError as error:
        message = str(error)
        if message.isprintable() and len(message) <= LONGEST:
            return "refused"
        return f"a message of {len(message)} characters: {message[:200]!r}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {str(error)[:300]!r}"
    return "read"


def fuzz(kind, files, seed, folder):
    """Outcomes of so many mutants of a kind, by name; what failed is written to FAILED."""
    subject = KINDS[kind](Path(folder) / kind)
    rng = np.random.default_rng(seed)
    outcomes, start = collections.Counter(), time.monotonic()
    for number in range(files):
        data = subject.mutant(rng)
        result = outcome(subject, data)
        if result not in ("read", "refused"):
            FAILED.mkdir(parents=True, exist_ok=True)
            (FAILED / f"{kind}-{seed}-{number}").write_bytes(data)
            print(f"{kind} {number}: {result}", flush=True)
            result = "failed"
        outcomes[result] += 1
    seconds = time.monotonic() - start
    print(f"{kind}: {dict(outcomes)}, {files / max(seconds, 1e-9):.0f} a second", flush=True)
    return outcomes


def _late(signal_number, frame):
    raise TimeoutError(f"more than {SECONDS} s")


def main(arguments):
    files, seed = (*map(int, arguments[:2]), *(3000, 0)[len(arguments[:2]) :])
    kinds = arguments[2:] or list(KINDS)
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    for late in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(late, _late)
    with tempfile.TemporaryDirectory() as folder:
        return sum(fuzz(kind, files, seed, folder)["failed"] for kind in kinds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) > 0)
