"""The first lines of a run's log: what is trained, on what, and what can hardly be meant."""

from __future__ import annotations

import torch

from rsquant.data.split import Source
from rsquant.models.stem import choose_stem
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.switchable import ModelSpec, SwitchableNetwork
from rsquant.train import bits_schedule
from rsquant.train.loop import Trainer
from rsquant.train.teacher import Teacher
from rsquant.version import __version__

# With fewer in an epoch the batch is too large, or the set too small.
FEW_STEPS = 10


def opening_lines(trainer: Trainer) -> list[str]:
    """The first lines of a run's log: what is trained, on what, and which choices were made."""
    config, network, source = trainer.config, trainer.network, trainer.source
    spec, model = network.spec, config.model
    parameters = sum(p.numel() for p in network.parameters())
    lines = [
        f"rsquant {__version__}, torch {torch.__version__}, device {trainer.device}, "
        f"{torch.get_num_threads()} threads, seed {config.train.seed}",
        f"data {source.name}: {len(source.train)} training and {len(source.val)} validation "
        f"images, {len(source.classes)} classes",
        f"network {spec.arch} {spec.bits_text}, grid {spec.grid}, {_width(spec)}"
        f"resolutions {', '.join(map(str, spec.resolutions))}, {parameters / 1e6:.2f} M parameters",
    ]
    if source.note:
        lines.insert(2, source.note)
    if network.conversion is not None:
        lines.append(network.conversion.summary())
    if len(set(spec.resolutions)) < len(spec.resolutions):
        lines.append(
            f"{len(spec.resolutions)} paths at one resolution, each with its own BatchNorms; eval, "
            "export and pack use the first"
        )
    if model.individual is not None:
        stem = "" if spec.stem == "own" else f", stem '{spec.stem}'"
        lines.append(
            f"individual network at {model.individual}{stem} as the switchable network of "
            f"{', '.join(map(str, model.resolutions))}"
        )
    elif spec.stem != "own":
        lines.append(choose_stem(model.stem, spec.resolutions)[1])
    if config.train.freeze:
        still = sum(not p.requires_grad for p in network.parameters())
        frozen = sum(p.numel() for p in network.parameters() if not p.requires_grad)
        lines.append(
            f"frozen {still} tensors of {frozen / 1e6:.2f} M parameters, with their statistics and "
            f"bases: {', '.join(config.train.freeze)}"
        )
    if config.train.bits_schedule:
        lines.append(bits_schedule.line(config))
    if trainer.teacher is not None:
        lines.append(_teacher(trainer.teacher, config.train.labels))
    steps = max(1, len(source.train) // config.train.batch)
    lines.append(f"{config.train.epochs} epochs of {steps} steps; a line after each epoch")
    lines += _slow_statistics(network, config.train.epochs * steps)
    return lines + _warnings(source, steps, config.train.batch)


def _warnings(source: Source, steps: int, batch: int) -> list[str]:
    """What can hardly be meant, in lines for the log."""
    lines = []
    if len(source.classes) == 1:
        lines.append(
            f"warning: {source.name} has one class, {source.classes[0]}: every prediction is "
            "correct and nothing is learned; a set needs a folder for each class"
        )
    if steps < FEW_STEPS:
        lines.append(
            f"warning: an epoch of {len(source.train)} images in batches of {batch} has only "
            f"{steps} step{'s' if steps > 1 else ''}: the network changes little in each, choose a "
            "smaller `batch` or add images"
        )
    return lines


def _slow_statistics(network: SwitchableNetwork, steps: int) -> list[str]:
    """A warning where BatchNorms would end with statistics that are mostly those of the start."""
    momenta = [
        n.momentum for n in switchable_norms(network) if n.momentum is not None and n.training
    ]
    slowest = min(momenta, default=1.0)
    if slowest >= 0.1 or slowest * steps >= 3:  # then at most e^-3 of the start is left
        return []
    return [
        f"warning: BatchNorms of this network average over some {1 / slowest:,.0f} steps "
        f"(momentum {slowest:.2g}), longer than this training; its validation accuracy will "
        "be poor. `norm_momentum=0.1` lets them follow"
    ]


def _teacher(teacher: Teacher, labels: float) -> str:
    spec = teacher.network.spec
    sizes = "every size" if teacher.at == "every" else "the largest size"
    return (
        f"teacher {teacher.place}: {spec.arch} {spec.bits_text}, on the images of {sizes}; labels "
        f"weigh {labels:g}"
    )


def _width(spec: ModelSpec) -> str:
    return "" if spec.stem == "own" else f"width {spec.width}, "


def switchable_norms(network: SwitchableNetwork) -> list[SwitchableBatchNorm2d]:
    return [m for m in network.modules() if isinstance(m, SwitchableBatchNorm2d)]
