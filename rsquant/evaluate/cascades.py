"""A packed file on validation images: every size, and the cascades between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsquant import runs
from rsquant.data.images import UnreadableImage
from rsquant.data.split import Source, Split
from rsquant.errors import ConfigError, DataError, ModelError
from rsquant.evaluate.report import source_of
from rsquant.packed.cascade import StageSpec, fingerprint
from rsquant.runs import Checkpoint
from rsquant.runtime import Session
from rsquant.runtime.preprocess import evaluation_crop
from rsquant.serve import cascade
from rsquant.serve.network import PACKED
from rsquant.serve.probability import softmax


@dataclass(frozen=True)
class Measured:
    """What a file says of images at every size; arrays are (N,).

    Attributes:
        confidence: size -> probability of the likeliest class.
        correct: size -> whether that is the label.
        seconds: size -> of one image, from its pixels to logits.
    """

    confidence: Mapping[int, NDArray[np.float64]]
    correct: Mapping[int, NDArray[np.bool_]]
    seconds: Mapping[int, NDArray[np.float64]]

    def part(self, which: NDArray[np.bool_]) -> Measured:
        """The same of some images."""
        return Measured(
            {size: values[which] for size, values in self.confidence.items()},
            {size: values[which] for size, values in self.correct.items()},
            {size: values[which] for size, values in self.seconds.items()},
        )


@dataclass(frozen=True)
class Row:
    """A way to run the file, on the images that no threshold was fitted to.

    Attributes:
        name: a size, or a cascade's stages.
        top1: in percent. madds: of an image, on average. milliseconds: likewise.
        decided: size -> share of images that it decided.
    """

    name: str
    top1: float
    madds: float
    milliseconds: float
    decided: dict[int, float]


@dataclass(frozen=True)
class CascadeReport:
    """What was fitted on one half of the images and measured on the other.

    Attributes:
        fixed: a row for each size, largest first.
        chosen: the cascade that was asked for.
        front: all cascades that were best on the fitting half.
        standard_error: of the difference of top-1 between `chosen` and the largest size, percent.
        stored: the cascade as it was written into the file.
    """

    fixed: tuple[Row, ...]
    chosen: Row
    front: tuple[Row, ...]
    standard_error: float
    stored: cascade.Cascade
    fitted: int
    reported: int

    def rows(self) -> list[dict[str, Any]]:
        """For JSON: kind "fixed", "chosen" or "front", and a Row's fields."""
        kinds = (("fixed", self.fixed), ("chosen", (self.chosen,)), ("front", self.front))
        return [{"kind": kind, **asdict(row)} for kind, rows in kinds for row in rows]


def find_packed(target: str | None) -> tuple[Path, Checkpoint | None]:
    """The packed file that is meant, and the run whose images it is measured on.

    Args:
        target: a .rsq file, or a run that was packed; None: the newest run.
    Raises:
        ConfigError: the run was not packed.
    """
    if target is not None and Path(target).suffix == PACKED:
        path = Path(target)
        return path, runs.around(path)
    checkpoint = runs.resolve(target)
    folder = checkpoint.run or checkpoint.path.parent
    packed = sorted(folder.glob(f"*{PACKED}"), key=lambda path: path.stat().st_mtime)
    if not packed:
        raise ConfigError(f"{folder}: has no packed file, which a cascade needs; pack it first")
    return packed[-1], checkpoint


def open_source(checkpoint: Checkpoint | None, data: str | None, images: int | None) -> Source:
    """The validation images. Raises ConfigError where neither a run nor `data` says which."""
    if checkpoint is None and data is None:
        raise ConfigError("data: the file lies in no run folder; name its data set with `data=DIR`")
    return source_of(checkpoint or Checkpoint(Path(), None), data, images)


def check_classes(session: Session, source: Source) -> None:
    """Raise ModelError unless the images have the file's classes, of whole images."""
    if session.gives_maps:
        raise ModelError(
            f"{session.packed.path}: gives one prediction per pixel, a cascade needs one per "
            "image; evaluate it without `cascade`"
        )
    if session.classes and session.classes != source.classes:
        raise ModelError(
            f"{session.packed.path}: was trained on {len(session.classes)} classes "
            f"({session.classes[0]}, ...), {source.name} has {len(source.classes)} "
            f"({source.classes[0]}, ...); use a data set with the same classes"
        )
    outputs = session.packed.plan.network.num_classes
    if outputs != len(source.classes):
        raise ModelError(
            f"{session.packed.path}: has {outputs} output classes but {source.name} has "
            f"{len(source.classes)}; use a data set with as many"
        )


def measure(
    session: Session, split: Split, tick: Callable[[int], None] = lambda count: None
) -> Measured:
    """Run every image at every size, one by one, as a device does.

    Raises:
        DataError: none of the images can be read; some that cannot are left out.
    """
    sizes = session.resolutions
    confidence: dict[int, list[float]] = {size: [] for size in sizes}
    correct: dict[int, list[bool]] = {size: [] for size in sizes}
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for size in sizes:  # so that no image waits for a size to be made ready
        session(np.zeros((1, 3, size, size), np.uint8))
    for i in range(len(split)):
        tick(1)
        try:
            pixels = np.ascontiguousarray(split.image(i).permute(1, 2, 0).numpy())
        except UnreadableImage:
            continue
        label = split.label(i)
        for size in sizes:
            start = time.perf_counter()
            logits = session(evaluation_crop(pixels, size)[None])
            seconds[size].append(time.perf_counter() - start)
            confidence[size].append(float(softmax(logits)[0].max()))
            correct[size].append(int(logits[0].argmax()) == label)
    if not correct[sizes[0]]:
        raise DataError(
            f"data: none of the {len(split)} images is readable; name another data set with "
            "`data=DIR`"
        )
    return Measured(
        {size: np.array(values) for size, values in confidence.items()},
        {size: np.array(values) for size, values in correct.items()},
        {size: np.array(values) for size, values in seconds.items()},
    )


def report(
    session: Session, measured: Measured, source: Source, share: float | None = None
) -> CascadeReport:
    """Fit cascades on every second image, report on the others, and write the one asked for.

    Args:
        share: the average cost that is allowed, as a share of the largest size's; None: the
            cheapest cascade whose top-1 is not below the largest size's.
    Raises:
        ModelError: no cascade is as cheap as that.
    """
    sizes = session.resolutions
    cost = cascade.costs(session)
    count = len(measured.correct[sizes[0]])
    if count < 4:
        raise DataError(f"data: a cascade needs 4 readable images or more, got {count}")
    first = np.arange(count) % 2 == 0
    fitting, rest = measured.part(first), measured.part(~first)
    points = cascade.fit(fitting.confidence, fitting.correct, cost)
    if share is None:
        chosen = cascade.choose(points, top1=float(fitting.correct[sizes[0]].mean()))
    else:
        chosen = cascade.choose(points, cost=share * cost[sizes[0]])
    model = fingerprint(session.packed.tensors)
    stored = cascade.store(
        session.packed.path, chosen, points, source.name, int(first.sum()), model
    )
    right = cascade.run(chosen.stages, rest.confidence, rest.correct, cost)[0]
    difference = right.astype(float) - rest.correct[sizes[0]]
    return CascadeReport(
        tuple(row((StageSpec(size, None),), rest, cost) for size in sizes),
        row(chosen.stages, rest, cost),
        tuple(row(point.stages, rest, cost) for point in points),
        100 * float(difference.std(ddof=1)) / len(difference) ** 0.5,
        stored,
        int(first.sum()),
        int((~first).sum()),
    )


def row(stages: Sequence[StageSpec], on: Measured, cost: Mapping[int, float]) -> Row:
    """A cascade, or one size, on images; its time is the sum of its stages' own times."""
    right, spent, decided = cascade.run(stages, on.confidence, on.correct, cost)
    seconds = np.zeros(len(right))
    for stage in stages:
        size = stage.resolution
        reached = decided >= size
        # Median times: a pause of the machine is no property of an image.
        seconds[reached] += float(np.median(on.seconds[size]))
    names = [
        str(s.resolution) if s.threshold is None else f"{s.resolution} (from {s.threshold:.2f})"
        for s in stages
    ]
    shares = {s.resolution: float((decided == s.resolution).mean()) for s in stages}
    return Row(
        " > ".join(names),
        100 * float(right.mean()),
        float(spent.mean()),
        1000 * float(seconds.mean()),
        shares,
    )
