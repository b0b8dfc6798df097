"""A network that teaches another: what it says of a step's images, and whether it fits.

Source: Hinton et al. (arXiv 1503.02531), without a temperature; of low-bit networks, N2UQ
(arXiv 2111.14826), section 4.1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rsquant import runs
from rsquant.config import RunConfig, TrainConfig
from rsquant.data.fingerprint import fingerprint
from rsquant.data.transforms import normalise
from rsquant.errors import CheckpointError, ConfigError, RsquantError
from rsquant.models.checkpoint import load
from rsquant.models.factory import build
from rsquant.models.published import is_published
from rsquant.models.sources import holds_weights_alone, open_network
from rsquant.models.start_from import start_from
from rsquant.nn.convert import convert
from rsquant.nn.precision import FLOAT
from rsquant.nn.switchable import ModelSpec, SwitchableNetwork


class Teacher:
    """Outputs of a network that is not trained, for each setting of one that is.

    Args:
        network: put into evaluation mode. It reads images at any size, with the BatchNorms that it
            has for it, and normalised as it was trained.
        at: "every": it sees the images of each setting; "largest": those of the largest alone, and
            what it says of them teaches every setting.
        place: where it was read from: a file, or a name that means the same everywhere.
    """

    def __init__(self, network: SwitchableNetwork, at: str = "every", place: str = "") -> None:
        self.network, self.at, self.place = network.eval().requires_grad_(False), at, place

    def __call__(self, images: Sequence[Tensor]) -> list[Tensor]:
        """What it says of a batch.

        Args:
            images: of each setting, the largest first: (N, 3, R, R) uint8, on its device.
        Returns:
            As many outputs, float32; without gradient.
        """
        spec = self.network.spec
        seen = images[:1] if self.at == "largest" else images
        with torch.no_grad(), self.network.weights_quantized_once():
            outputs = [self.network(normalise(x, spec.mean, spec.std)).float() for x in seen]
        return outputs * len(images) if self.at == "largest" else outputs

    @property
    def fingerprint(self) -> str:
        """Of its weights: 16 hexadecimal digits; see `data.fingerprint`."""
        state = {k: v for k, v in self.network.state_dict().items() if isinstance(v, Tensor)}
        values = (t.detach().cpu().contiguous().flatten().view(torch.uint8) for t in state.values())
        return fingerprint(list(state), *(v.numpy().tobytes() for v in values))


def open_teacher(config: RunConfig, student: ModelSpec, device: torch.device) -> Teacher | None:
    """The teacher that a configuration names; None if it names none.

    Args:
        student: what is to be taught, with the names of its classes.
        device: where it will run.
    Raises:
        CheckpointError, ConfigError: there is none, or it tells other things of an image than the
            student shall, or at other sizes.
    """
    train = config.train
    if train.teacher is None:
        return None
    # Building it draws weights: those of the student shall be as without it.
    with torch.random.fork_rng(devices=[]):
        network, place = _read(train.teacher, train.teacher_arch or student.arch, student)
    check_teacher(network.spec, student, place)
    teacher = Teacher(network, train.teacher_at, place)
    _check_sizes(teacher, student.resolutions)
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return teacher


def check_teacher_arch(train: TrainConfig) -> None:
    """Raise ConfigError if a teacher's architecture is given where its file says it."""
    teacher = train.teacher
    if teacher is None or train.teacher_arch is None:
        return
    if not is_published(teacher) and not holds_weights_alone(teacher):
        raise ConfigError(f"teacher_arch: {teacher} says itself which network it is; leave it out")


def check_same(teacher: Teacher | None, config: RunConfig, run: Path) -> None:
    """Raise CheckpointError if a run's teacher is not the one that it began with."""
    began_with = config.train.teacher_fingerprint
    if teacher is not None and began_with not in ("", teacher.fingerprint):
        raise CheckpointError(
            f"{run}: its teacher {teacher.place} has other weights than when the run began; give "
            "the file that has those with `teacher=FILE`, or start a new run"
        )


def _read(source: str, arch: str, student: ModelSpec) -> tuple[SwitchableNetwork, str]:
    """A network, and where it can be found from any folder.

    Args:
        arch: of a file of weights alone, and of `pretrained`.
    """
    try:
        if is_published(source):
            opened = open_network(source, arch)
            network = convert(opened.network, FLOAT, FLOAT, student.resolutions)
            mean, std = opened.mean, opened.std
            network.spec = dataclasses.replace(network.spec, mean=mean, std=std)
            return network, source
        if holds_weights_alone(source):
            return _of_weights(source, arch, student), str(Path(source).resolve())
        path = runs.resolve(source).path
        return load(path), str(Path(path).resolve())
    except RsquantError as error:
        raise type(error)(f"teacher: {error}") from error


def _of_weights(source: str, arch: str, student: ModelSpec) -> SwitchableNetwork:
    """The float network of an architecture with the weights of a file, all of them.

    Raises:
        CheckpointError: they do not fit it, or are of other classes.
    """
    same = arch == student.arch
    spec = ModelSpec(
        arch, FLOAT, FLOAT, student.resolutions, student.num_classes, task=student.task
    )
    if same:
        spec = dataclasses.replace(spec, width=student.width, stem=student.stem)
    network = build(spec)
    advice = f"it was taken for {arch}; name its network with `teacher_arch`"
    try:
        start = start_from(network, source)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {advice}") from error
    if start.replaced:
        raise CheckpointError(
            f"{source}: {start.replaced[0]}; choose one that was trained on the data set's classes"
        )
    if start.missing:
        raise CheckpointError(f"{source}: has no {start.missing[0]}; {advice}")
    return network


def check_teacher(teacher: ModelSpec, student: ModelSpec, place: str) -> None:
    """Raise ConfigError if a network's outputs mean other things than the student's shall.

    Class names are compared where both have them, else their number.
    """
    if teacher.task != student.task:
        raise ConfigError(
            f"teacher: {place} is of the task {teacher.task}, this network of {student.task}; "
            "choose one of the same task"
        )
    if teacher.num_classes != student.num_classes:
        raise ConfigError(
            f"teacher: {place} tells {teacher.num_classes} classes apart, the data set has "
            f"{student.num_classes}; choose one that was trained on its classes"
        )
    if not (teacher.classes and student.classes):
        return
    for index, (own, other) in enumerate(zip(teacher.classes, student.classes, strict=True)):
        if own != other:
            order = set(teacher.classes) == set(student.classes)
            what = "has the classes in another order" if order else "was trained on other classes"
            raise ConfigError(
                f"teacher: {place} {what}: class {index} is '{own}', that of the data set is "
                f"'{other}'; choose one that was trained on the data set's"
            )


def _check_sizes(teacher: Teacher, resolutions: Sequence[int]) -> None:
    """Raise ConfigError for a size at which the teacher does not run."""
    for size in resolutions[:1] if teacher.at == "largest" else dict.fromkeys(resolutions):
        try:
            teacher([torch.zeros(1, 3, size, size, dtype=torch.uint8)])
        except RsquantError as error:
            raise ConfigError(
                f"teacher: {teacher.place} does not run at {size} pixels: {error}"
            ) from error
