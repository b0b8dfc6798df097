"""What every task is to the rest of rsquant: data, networks, training, evaluation, exports.

A task says what a label is and how it is cropped with its image, what a network's output is, the
loss of an output, how outputs of different sizes become comparable, and what is measured. Nothing
outside `rsquant.tasks` knows more of one than stands here; `registry` gives them names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, randint
from torch.nn import functional

from rsquant.data.samples import WholeImageLabels
from rsquant.data.split import Source
from rsquant.errors import ConfigError


@dataclass(frozen=True)
class Figure:
    """Something that a task measures.

    Attributes:
        name: of its columns in tables and files: letters, digits and "_".
        title: for the user.
        unit: "%", or "".
        decimals: in tables.
    """

    name: str
    title: str
    unit: str = ""
    decimals: int = 2

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title} {self.unit}".rstrip()

    def show(self, value: float) -> str:
        """A value as tables have it."""
        return f"{value:.{self.decimals}f}"


class Metric(ABC):
    """Sums over batches, of one setting or of the ensemble.

    Attributes:
        samples: images counted so far.
    """

    samples: int = 0

    @abstractmethod
    def add(self, outputs: Tensor, labels: Tensor) -> None:
        """Count a batch: outputs float32, labels as batches have them, on one device."""

    @abstractmethod
    def figures(self) -> dict[str, float]:
        """A value for each figure of the task, in their order."""

    def details(self, classes: Sequence[str]) -> dict[str, Any]:
        """What there is beyond the figures, as JSON has it; of classification: of each class."""
        return {}

    @property
    def note(self) -> str:
        """What the user should know about the figures, in a line; "" where there is nothing."""
        return ""

    def sums(self) -> dict[str, Any]:
        """What it has counted, by attribute: numbers and lists of them (tensors as lists).

        Of two parts of a split, `add_sums` of both is what the whole split gives. This one takes
        all attributes, so a metric whose attributes are sums has nothing to define.
        """
        return {k: v.tolist() if isinstance(v, Tensor) else v for k, v in vars(self).items()}

    def add_sums(self, sums: Mapping[str, Any]) -> None:
        """Add what another metric of this kind has counted."""
        for name, value in sums.items():
            own = getattr(self, name)
            if value is None:
                continue  # nothing was counted there
            if own is None:
                own = torch.zeros_like(torch.tensor(value))
            if isinstance(own, Tensor):
                value = torch.tensor(value, dtype=own.dtype, device=own.device)
            elif not isinstance(own, (int, float)):
                raise TypeError(
                    f"{type(self).__name__}: {name} is a {type(own).__name__}, which does not add "
                    "up over several processes; define `sums` and `add_sums`"
                )
            setattr(self, name, own + value)


class CountedClasses(Metric):
    """A metric that counts samples by their class and the predicted one.

    Attributes:
        confusion: (C, C) int64 on the CPU: samples of class i (row) that are taken for class j;
            None where nothing is counted.
    """

    confusion: Tensor | None

    @abstractmethod
    def by_class(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """Of each class what there is, as JSON has it."""

    def details(self, classes: Sequence[str]) -> dict[str, Any]:
        found = {} if self.confusion is None else {"confusion": self.confusion.tolist()}
        return {"by_class": self.by_class(classes), **found}


class Task(WholeImageLabels, ABC):
    """A task; it holds nothing that changes, so one object serves all networks.

    What is not abstract is right for labels of whole images and outputs of scores over classes,
    (N, classes, ...). Methods on samples are those of `rsquant.data.samples.Samples`.

    Attributes:
        outputs: what networks must return for N images, for messages.
        figures: what is measured. The first chooses the best checkpoint: a percentage, of which
            more is better. One is called "loss", the mean of `loss`.
        loss_name: of the column of the settings' own losses, beside ensemble and distillation.
        squares: whether images to evaluate on are squares of the sizes asked for, as exported and
            packed files are measured on; files of a task with others are measured on squares
            without labels.
        whole_image_labels: whether a label is one class of a whole image, so that training may mix
            images (mixup) and change them: `loss` and `step_figures` then take shares of the
            classes too, (N, classes) float.
        one_crop: whether `training_sample` cuts all sizes out of an image together, whatever
            `Augmentation.crop` says.
        prediction_name: of what `prediction` gives, for messages on how often two agree.
        class_figure: what `Metric.details` has of each class under by_class, beside its name and
            how many samples it has; None: nothing.
        samples_name: of what those samples are.
        most_confused: up to how many classes `Metric.details` has their matrix under confusion, if
            there is a limit.
    """

    outputs: ClassVar[str] = "logits (N, classes)"
    figures: ClassVar[tuple[Figure, ...]]
    loss_name: ClassVar[str] = "task"
    squares: ClassVar[bool] = True
    whole_image_labels: ClassVar[bool] = False
    one_crop: ClassVar[bool] = False
    prediction_name: ClassVar[str] = "top-1"
    class_figure: ClassVar[Figure | None] = None
    samples_name: ClassVar[str] = "images"
    most_confused: ClassVar[int | None] = None

    @property
    def main(self) -> Figure:
        """The figure that chooses the best checkpoint."""
        return self.figures[0]

    def open_source(
        self,
        spec: str,
        seed: int = 0,
        train_images: int | None = None,
        val_images: int | None = None,
    ) -> Source:
        """The images that a `--data` value names; see `rsquant.data.sources.open_source`.

        Raises:
            DataError: there are none.
        """
        # Pillow and all formats of data sets, which a network alone does not need.
        from rsquant.data.sources import open_source

        return open_source(spec, seed, train_images, val_images)

    def check_source(self, source: Source, smallest: int) -> Tensor | None:
        """Look for what would end a training, before it begins; all labels may be read.

        Args:
            smallest: sides of an image that the network needs at least, in pixels.
        Returns:
            (classes,) int64: how many training labels there are of each class, or pixels, where
            that has been counted here; else None.
        Raises:
            DataError: naming the file and what is wrong with it.
        """
        return None

    def num_classes(self, output: object) -> int | None:
        """How many classes a network tells apart that returns this; None: it is no `outputs`."""
        fits = isinstance(output, Tensor) and output.dim() == 2
        return int(output.shape[1]) if fits else None  # type: ignore[attr-defined]

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of one output, a scalar: the mean over the batch."""

    def together(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Outputs of several settings, the costliest first, in one shape; differentiable.

        They are what the ensemble sums, what teaches and is taught, and what `loss` is given in
        training.
        """
        return list(outputs)

    def together_with(self, outputs: Sequence[Tensor], labels: Tensor) -> list[Tensor]:
        """`together` in training, where the labels of the batch may say in which shape."""
        return self.together(outputs)

    def divergence(self, teacher: Tensor, student: Tensor) -> Tensor:
        """How far a prediction is from one that teaches it, a scalar: the mean over the batch.

        KL(softmax(teacher) || softmax(student)) over the classes, also the mean over all positions
        of an output (N, classes, ...).

        Gradient: to the student alone.
        """
        total = functional.kl_div(
            functional.log_softmax(student, 1),
            functional.log_softmax(teacher.detach(), 1),
            reduction="batchmean",
            log_target=True,
        )
        positions = student[:1, :1].numel()
        return total if positions == 1 else total / positions

    def random_labels(self, outputs: Tensor, generator: Generator) -> Tensor:
        """Labels that a batch with these outputs could have, for timing a training step.

        Args:
            outputs: of the costliest setting. generator: on their device.
        Returns:
            int64 on their device: a class for each image, or each position of (N, classes, ...).
        """
        shape = outputs.shape[:1] + outputs.shape[2:]
        return randint(outputs.shape[1], shape, device=outputs.device, generator=generator)

    def weighted(self, weights: Tensor) -> Task:
        """The same task whose `loss` weighs classes.

        Args:
            weights: (classes,) float32, on the outputs' device.
        Raises:
            ConfigError: its loss has no such weights.
        """
        raise ConfigError("class_weights: this task's loss has no weights of classes; leave it out")

    def smoothed(self, share: float) -> Task:
        """The same task whose `loss` spreads this share of each label over all classes.

        Raises:
            ConfigError: its loss cannot.
        """
        raise ConfigError("label_smoothing: this task's loss has none; leave it out")

    def predictions(
        self, outputs: Tensor, labels: Tensor, classes: Sequence[str]
    ) -> list[dict[str, Any]]:
        """What is told of each image of a batch, for a file: columns and values as JSON has them.

        Raises:
            ConfigError: a prediction of this task is no row of a table.
        """
        raise ConfigError("predictions: those of this task are no rows of a table; leave it out")

    def masks(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The class of each pixel of a batch, (N, H, W) uint8, in the size of the labels.

        Raises:
            ConfigError: this task has none.
        """
        raise ConfigError("save: this task says nothing of single pixels; leave it out")

    @abstractmethod
    def metric(self) -> Metric:
        """A fresh one."""

    def step_figures(self, outputs: Tensor, labels: Tensor) -> Mapping[str, Tensor | float]:
        """What is told of a batch in training, by name; means over the batch.

        Scalar tensors keep the step from waiting for the device.
        """
        metric = self.metric()
        metric.add(outputs, labels)
        return {self.main.name: metric.figures()[self.main.name]}

    def prediction(self, outputs: Tensor) -> Tensor:
        """What an output says in the end: two are the same prediction where these are equal."""
        return outputs.argmax(1)

    def agreement(self, one: Tensor, other: Tensor) -> float:
        """Share of predictions that are the same in two outputs, 0 to 1."""
        return float((self.prediction(one) == self.prediction(other)).double().mean())
