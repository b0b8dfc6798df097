"""The runs of a report: their networks, and the images all of them are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rsquant import runs
from rsquant.data.split import Source
from rsquant.errors import ConfigError, ModelError
from rsquant.evaluate.report import check_classes, source_of
from rsquant.models.checkpoint import load
from rsquant.nn.finite import first_bad
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.nn.variant import at_variant
from rsquant.runs import Checkpoint
from rsquant.tasks import by_name
from rsquant.tasks.classification import Classification
from rsquant.tasks.segmentation import Segmentation
from rsquant.text import one_line


@dataclass(frozen=True)
class OpenedRun:
    """A run, or a checkpoint outside of one.

    Attributes:
        name: in the report, different from those of the others.
        file: the name without width and bits, which a run's settings have in common.
        network: its checkpoint's, in evaluation mode, on the CPU; of a run with several widths or
            bits, at one of them.
        is_first: whether it is the run's only one of these, or the costliest.
    """

    name: str
    file: str
    checkpoint: Checkpoint
    network: SwitchableNetwork
    is_first: bool = True

    @property
    def folder(self) -> Path | None:
        """The run folder, with what training recorded; None for a checkpoint by itself."""
        return self.checkpoint.run

    @property
    def what(self) -> str:
        """Network and bits, in a few words."""
        spec = self.network.spec
        return f"{spec.arch} {spec.bits_text}"


def open_runs(targets: Sequence[str | None], which: str = "best") -> list[OpenedRun]:
    """Load the checkpoints that a user means, see `runs.resolve`.

    Of a run with several widths or bits each one is as a run.

    Raises:
        CheckpointError: no such run.
        ConfigError: none, the same twice, or different classes.
        ModelError: not finite, or of a task that no report is of.
    """
    if not targets:
        raise ConfigError("report: needs a run, a run's name or a checkpoint, got none")
    found = [runs.resolve(target, which) for target in targets]
    opened: list[OpenedRun] = []
    for checkpoint, name in zip(found, _names(found), strict=True):
        network = load(checkpoint.path)
        if bad := first_bad(network.state_dict().items()):
            raise ModelError(
                f"{checkpoint.path}: {bad}; its predictions are meaningless, train it again"
            )
        if not isinstance(by_name(network.spec.task), (Classification, Segmentation)):
            raise ModelError(
                f"{checkpoint.path}: its task is {network.spec.task}, and a report is of "
                "classification or segmentation; use 'rsquant eval'"
            )
        opened += _settings(OpenedRun(name, name, checkpoint, network))
        _check_alike(opened[0], opened[-1])
    return opened


def _settings(run: OpenedRun) -> list[OpenedRun]:
    """A run for each of its widths and pairs of bits; itself where there is one."""
    if not run.network.spec.several:
        return [run]
    known = run.network.variants
    return [
        OpenedRun(
            " ".join(part for part in (run.name, str(variant)) if part),
            run.file,
            run.checkpoint,
            at_variant(run.network, variant),
            variant == known[0],
        )
        for variant in known
    ]


def images_of(
    opened: Sequence[OpenedRun], data: str | None = None, images: int | None = None
) -> Source:
    """The data set of the first run, or another one: what all of them are measured on.

    Raises:
        ConfigError, DataError, ModelError: see `evaluate.report.source_of`.
    """
    first = opened[0]
    source = source_of(first.checkpoint, data, images, by_name(first.network.spec.task))
    for one in opened:
        check_classes(one.network, source, one.checkpoint)
    return source


def _check_alike(first: OpenedRun, other: OpenedRun) -> None:
    mine, theirs = first.network.spec, other.network.spec
    if mine.task != theirs.task:
        raise ConfigError(
            f"report: {first.name} is of {mine.task} and {other.name} of {theirs.task}; report "
            "runs of the same task together"
        )
    if mine.num_classes != theirs.num_classes:
        raise ConfigError(
            f"report: {first.name} has {mine.num_classes} classes and {other.name} "
            f"{theirs.num_classes}; report runs of the same classes together"
        )
    if mine.classes != theirs.classes:
        differ = [(a, b) for a, b in zip(mine.classes, theirs.classes, strict=False) if a != b]
        a, b = differ[0] if differ else ("named", "unnamed")
        raise ConfigError(
            f"report: {first.name} and {other.name} tell other classes apart "
            f"({one_line(a)} and {one_line(b)}); report runs of the same classes together"
        )


def _names(found: Sequence[Checkpoint]) -> list[str]:
    """The folder's name of each, with as many folders above it as tell them apart."""
    paths = [(one.run or one.path).resolve() for one in found]
    for path in paths:
        if paths.count(path) > 1:
            raise ConfigError(f"report: {path.name} is given twice; name it once")
    depth = 1
    while True:
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return [one_line(name) for name in names]
        depth += 1
