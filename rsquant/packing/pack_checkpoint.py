"""Pack a checkpoint, and measure on images what the file gives beside what the network gave."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsquant import runtime
from rsquant.atomic import check_free, check_suffix
from rsquant.data.transforms import normalise
from rsquant.errors import ConfigError
from rsquant.evaluate.images import batches, labels_fit, validation_source
from rsquant.made import Made
from rsquant.models.checkpoint import load
from rsquant.nn.switchable import ModelSpec
from rsquant.packing.grid import on_grid
from rsquant.packing.write import PackResult, pack_on_grid
from rsquant.runs import Checkpoint
from rsquant.tasks import Task, by_name

Step = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What was written, and what the file gives beside what the network gave.

    Attributes:
        task: of the network.
        rows: one per resolution, and per width and pair of bits if the network has several (width,
            0.5; bits, "4/4"): resolution, images; the task's main figure, in percent: top1 (of the
            network as trained), grid_top1 (of the network on the grid) and packed_top1 (of the
            file), None where the labels are not the network's; and how many percent of the
            predictions of the file are those of the network as trained (trained_agreement), and
            of the network on the grid (grid_agreement). They are equal for a network trained on the
            grid. Of an integer network also how many percent of the images have the very logits of
            the network (equal_logits).
    """

    task: Task
    result: PackResult
    rows: list[dict[str, Any]]


@torch.inference_mode()
def pack_checkpoint(
    checkpoint: Checkpoint,
    *,
    out: Path | None = None,
    grid: str | None = None,
    count: int = 64,
    data: str | None = None,
    exist_ok: bool = False,
    threads: int | None = None,
    tune: bool = False,
    step: Step = lambda _: None,
    echo: Step = lambda _: None,
) -> Outcome:
    """Write the file, then run images through it, the network, and the network on the grid.

    Args:
        out: the file; None names it after the network, beside the checkpoint.
        grid: as in `write.pack`; None: coarse.
        exist_ok: as there.
        count, data: how many images, and of which source; None is the run's own.
        threads, tune: as in `runtime.load`.
        step: called with what is being done.
        echo: called with lines for the user.
    Raises:
        ConfigError: a grid for a network that was trained on one.
    """
    check_suffix(out, ".rsq")
    model = load(checkpoint.path).one_path_per_size()
    path = checkpoint.path.parent / file_name(model.spec) if out is None else out
    check_free(path, exist_ok)
    own = "its integers" if model.spec.integer else f"the grid {model.spec.grid}"
    if grid is not None and (model.spec.integer or model.spec.grid != "none"):
        raise ConfigError(
            f"grid: {checkpoint.path} was trained on {own} and stays on it; leave it out"
        )
    step("packing")
    made = on_grid(model, grid or "coarse")
    result = pack_on_grid(made, path, exist_ok)
    _note(checkpoint, path)
    task = by_name(model.spec.task)
    images = validation_source(checkpoint, count, data, task)
    labelled = labels_fit(model.spec, images)
    sizes = model.resolutions
    spec = model.spec
    counts = {
        (variant, size): _Counts(task, labelled, spec.integer)
        for variant in model.variants
        for size in sizes
    }
    step("loading the file")
    packed = runtime.load(path, threads, tune=tune)
    with model.weights_quantized_once(), made.network.weights_quantized_once():
        for cut in batches(images.source.val, images, model.spec, sizes):
            step("measuring")
            pixels = dict(zip(sizes, cut.images, strict=True))
            for (variant, size), count_of in counts.items():
                bits, width = variant.bits, variant.width
                x = normalise(pixels[size], spec.mean, spec.std)
                file = packed(pixels[size].numpy(), bits=bits, width=width)
                outputs = [model(x, bits, width), made.network(x, bits, width)]
                count_of.add([*outputs, torch.from_numpy(file)], cut.labels)
    rows = [
        {**spec.columns(variant), **found.row(size)} for (variant, size), found in counts.items()
    ]
    echo(f"measured on {rows[0]['images']} {images.what}")
    return Outcome(task, result, rows)


def _note(checkpoint: Checkpoint, path: Path) -> None:
    """List a file in its run's folder, which a new run of that name removes with it."""
    if checkpoint.run is not None and path.resolve().parent == checkpoint.run.resolve():
        with suppress(OSError):
            Made(checkpoint.run).note({path.name: path})


def file_name(spec: ModelSpec) -> str:
    """resnet50_w2a2.rsq"""
    return f"{spec.file_stem}.rsq"


class _Counts:
    """Sums over images, at one size: figures of trained, grid and packed network, and how often the
    packed one's predictions are those of the other two.

    Args:
        labelled: whether the labels are the network's.
        integer: whether it is an integer network, whose logits are compared too.
    """

    def __init__(self, task: Task, labelled: bool, integer: bool) -> None:
        self.task, self.labelled, self.integer = task, labelled, integer
        self.metrics = [task.metric() for _ in range(3)]
        self.equal = [0, 0]
        self.predictions = self.images = self.equal_logits = 0

    def add(self, outputs: list[Tensor], labels: Tensor) -> None:
        if self.labelled:
            for metric, output in zip(self.metrics, outputs, strict=True):
                metric.add(output, labels)
        *others, packed = map(self.task.prediction, outputs)
        for i, other in enumerate(others):
            self.equal[i] += int((other == packed).sum())
        if self.integer:
            self.equal_logits += int((outputs[1] == outputs[2]).flatten(1).all(1).sum())
        self.predictions += packed.numel()
        self.images += len(labels)

    def row(self, size: int) -> dict[str, Any]:
        main = self.task.main.name
        figures = [m.figures()[main] if self.labelled else None for m in self.metrics]
        exact = {"equal_logits": 100 * self.equal_logits / self.images} if self.integer else {}
        return {
            "resolution": size,
            "images": self.images,
            **exact,
            **dict(zip((main, f"grid_{main}", f"packed_{main}"), figures, strict=True)),
            "trained_agreement": 100 * self.equal[0] / self.predictions,
            "grid_agreement": 100 * self.equal[1] / self.predictions,
        }
