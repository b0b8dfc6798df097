"""Runs on the built-in set that take a second, and progress that shows nothing."""

import os
import signal

from shallow import RESNET10

from rsquant import runs
from rsquant.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from rsquant.models.tensor_file import read_tensors
from rsquant.train import training

# Calibration is a step of progress, then each epoch has three of training and one of validation.
CONFIG = RunConfig(
    ModelConfig(RESNET10, 2, 2, (48, 32), width=4),
    DataConfig("shapes", workers=0, train_images=48, val_images=16),
    TrainConfig(
        epochs=3,
        batch=16,
        lr=0.05,
        schedule="cosine",
        device="cpu",
        calibration=16,
    ),
)


class Silent:
    """Progress that shows nothing, counts steps, and may send a signal after one of them."""

    def __init__(self, stop_after=None):
        self.steps, self.stop_after = 0, stop_after

    def start(self, *args):
        pass

    def advance(self, images, note):
        self.steps += 1
        if self.steps == self.stop_after:
            os.kill(os.getpid(), signal.SIGINT)


def train(root, name, stop_after=None, config=CONFIG):
    lines = []
    training.start(config, Silent(stop_after), lines.append, name, root=root)
    return lines


def state(run):
    """All tensors of the resume state: weights, bases, BatchNorms, momentum, alpha, RNG."""
    return read_tensors(run / runs.STATE, "rsquant-training-state", 1)
