"""Pack a checkpoint, and measure on images what the file gives beside what the network gave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsquant import runtime
from rsquant.atomic import check_free, check_suffix
from rsquant.data.transforms import normalise
from rsquant.evaluate.images import batches, labels_fit, validation_source
from rsquant.models.checkpoint import load
from rsquant.nn.switchable import ModelSpec
from rsquant.packing.grid import on_grid
from rsquant.packing.write import PackResult, pack_on_grid
from rsquant.runs import Checkpoint

Step = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What was written, and what the file gives beside what the network gave.

    Attributes:
        rows: one per resolution: resolution, images; in percent top1 (of the network as trained),
            grid_top1 (of the network on the grid) and packed_top1 (of the file), None where the
            labels are not the network's; and on how many percent of the images the file has the
            same top-1 prediction as the network as trained (trained_agreement), and as the network
            on the grid (grid_agreement). They are equal for a network trained on the grid.
    """

    result: PackResult
    rows: list[dict[str, Any]]


@torch.inference_mode()
def pack_checkpoint(
    checkpoint: Checkpoint,
    *,
    out: Path | None = None,
    grid: str = "coarse",
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
        grid, exist_ok: as in `write.pack`.
        count, data: how many images, and of which source; None is the run's own.
        threads, tune: as in `runtime.load`.
        step: called with what is being done.
        echo: called with lines for the user.
    """
    check_suffix(out, ".rsq")
    model = load(checkpoint.path).one_path_per_size()
    path = checkpoint.path.parent / file_name(model.spec) if out is None else out
    check_free(path, exist_ok)
    step("packing")
    made = on_grid(model, grid)
    result = pack_on_grid(made, path, exist_ok)
    images = validation_source(checkpoint, count, data)
    sizes = model.resolutions
    counts = {size: _Counts() for size in sizes}
    step("loading the file")
    packed = runtime.load(path, threads, tune=tune)
    with model.weights_quantized_once(), made.network.weights_quantized_once():
        for cut in batches(images.source.val, images, sizes):
            step("measuring")
            for size, pixels in zip(sizes, cut.images, strict=True):
                counts[size].add(
                    [
                        model(normalise(pixels, model.spec.mean, model.spec.std)),
                        made.network(normalise(pixels, model.spec.mean, model.spec.std)),
                        torch.from_numpy(packed(pixels.numpy())),
                    ],
                    cut.labels,
                )
    echo(f"measured on {counts[sizes[0]].images} {images.what}")
    labelled = labels_fit(model.spec, images)
    return Outcome(result, [counts[size].row(size, labelled) for size in sizes])


def file_name(spec: ModelSpec) -> str:
    """resnet50_w2a2.rsq"""
    arch = spec.arch.replace(":", "_").replace("/", "_")
    return f"{arch}_w{spec.wbits}a{spec.abits}.rsq"


class _Counts:
    """Sums over images: right answers of trained, grid and packed network, and packed ones equal
    to those of the other two."""

    def __init__(self) -> None:
        self.right = torch.zeros(3, dtype=torch.int64)
        self.equal = torch.zeros(2, dtype=torch.int64)
        self.images = 0

    def add(self, logits: list[Tensor], labels: Tensor) -> None:
        best = torch.stack([z.argmax(1) for z in logits])
        self.right += (best == labels).sum(1)
        self.equal += (best[:2] == best[2]).sum(1)
        self.images += len(labels)

    def row(self, size: int, labelled: bool) -> dict[str, Any]:
        names = ("top1", "grid_top1", "packed_top1")
        percent = [100 * int(right) / self.images for right in self.right]
        return {
            "resolution": size,
            "images": self.images,
            **dict(zip(names, percent if labelled else [None] * 3, strict=True)),
            "trained_agreement": 100 * int(self.equal[0]) / self.images,
            "grid_agreement": 100 * int(self.equal[1]) / self.images,
        }
