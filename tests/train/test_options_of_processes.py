"""Trainings with each option in two processes: the same bits in both, the weights of one."""

import dataclasses

import pytest
import torch
from noise import Noise
from processes import together
from shallow import RESNET10
from small_runs import Silent

from rsquant import runs
from rsquant.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from rsquant.data.split import Source
from rsquant.errors import ConfigError
from rsquant.process_group import ALONE
from rsquant.train import training
from rsquant.train.loop import Trainer

# One step of 8 images at 2 bits, two in float32: in low bits a value that rounding turns over to
# another level is a jump in what follows.
BASE = RunConfig(
    ModelConfig(RESNET10, 2, 2, (16, 12), width=4),
    DataConfig(workers=0),
    TrainConfig(epochs=1, batch=8, lr=0.01, device="cpu", threads=1, calibration=0, seed=1),
)
FLOAT = {"wbits": 32, "abits": 32}
# Sections "model" and "train".
OPTIONS = {
    "float": (FLOAT, {"recompute": True, "clip_norm": 1.0}),
    "losses": (
        {},
        {
            "class_weights": "balanced",
            "label_smoothing": 0.1,
            "teacher": "TEACHER",
            "labels": 0.5,
            "clip_norm": 0.5,
            "ema": 0.9,
            "freeze": ("layer1*",),
            "bn_reestimate": 1,
        },
    ),
    "thresholds of normalised weights": (
        {"quantizer": "lq-thresholds", "weight_norm": "std"},
        {"optimizer": "adamw", "lr": 0.001},
    ),
    "lsq in some layers": ({"layer_quantizer": {"layer2*": "lsq"}}, {"norms": "shared"}),
    "integer": ({"integer": True}, {}),
    "bits": ({"bits": ("4/4", "2/2")}, {}),
    "widths": ({"widths": (1.0, 0.5), "width": 8}, {}),
    "schedule": ({}, {"bits_schedule": "4,2", "epochs": 2}),
    "init": ({}, {"init": "TEACHER", "calibration": 8}),
    "mixup": ({}, {"mixup": 0.2, "cutmix": 1.0}),
    "bf16": (FLOAT, {"amp": "bf16"}),
}
# Mixed images have neighbours in their own process. Two low-bit steps, Adam's division by what
# a first step gave, and maps of 256 levels make much of a rounding.
ALIKE_ALONE = {"mixup", "schedule", "thresholds of normalised weights", "integer"}
FAST = ("losses", "thresholds of normalised weights", "mixup", "bits")
SLOW = tuple(name for name in OPTIONS if name not in FAST)


def configured(name, teacher, group):
    model, train = OPTIONS[name]
    train = {key: teacher if value == "TEACHER" else value for key, value in train.items()}
    train["sync_bn"] = group.world > 1
    return dataclasses.replace(
        BASE,
        model=dataclasses.replace(BASE.model, **model),
        train=dataclasses.replace(BASE.train, **train),
    )


def trained(name, root, teacher, group):
    """All tensors of the state after a training, as numpy."""
    trainers = []
    train = Trainer.train

    def watched(trainer, *arguments):
        trainers.append(trainer)
        return train(trainer, *arguments)

    classes = tuple(map(str, range(5)))
    source = Source("noise", classes, Noise(16 if name in ("float", "bf16") else 8), Noise(5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train", watched)
        config = configured(name, teacher, group)
        quiet, run = lambda line: None, f"{name}-{group.world}"
        training.start(config, Silent(), quiet, run, root=root, source=source, group=group)
    state = trainers[-1].state
    tensors = {**state.model.state_dict(), "alpha": state.alpha.detach()}
    tensors |= state._tensors_of_parts()
    return {key: tensor.detach().clone().numpy() for key, tensor in tensors.items()}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("teacher")
    trained("float", root, "", ALONE)
    return str(root / "float-1" / runs.LAST)


def test_statistics_of_all_processes_are_refused_where_there_is_one(tmp_path):
    config = dataclasses.replace(BASE, train=dataclasses.replace(BASE.train, sync_bn=True))
    with pytest.raises(ConfigError, match="sync_bn: is of several processes, and this is one"):
        training.start(config, Silent(), lambda line: None, "run", root=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_two_processes_have_the_same_bits_and_the_weights_of_one(name, teacher, tmp_path):
    first, second = together(lambda group: trained(name, tmp_path, teacher, group))
    assert first.keys() == second.keys()
    assert [key for key in first if not (first[key] == second[key]).all()] == []
    if name in ALIKE_ALONE:
        return
    # float32 sums of a step in another order; bf16 has 8 bits.
    relative, absolute = (3e-2, 3e-3) if name == "bf16" else (1e-4, 2e-5)
    for key, value in trained(name, tmp_path, teacher, ALONE).items():
        torch.testing.assert_close(
            torch.tensor(first[key]), torch.tensor(value), rtol=relative, atol=absolute, msg=key
        )
