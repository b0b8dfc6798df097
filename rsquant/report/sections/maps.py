"""What a segmentation network says of some images at every size, beside the truth (figure 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rsquant.data.split import IGNORED, Split
from rsquant.overlay import palette
from rsquant.report.evenly import positions
from rsquant.report.picture import WIDTH, drawn, png
from rsquant.report.section import Picture, Section
from rsquant.tasks import Task
from rsquant.text import path_tail

IMAGES = 5
# Classes up to which the picture has a legend.
LEGEND = 24
Mask = NDArray[np.uint8]


@dataclass
class Shown:
    """An image.

    Attributes:
        truth: (H, W), classes or IGNORED.
        predicted: size in pixels -> (H, W).
    """

    position: int
    truth: Mask
    predicted: dict[int, Mask] = field(default_factory=dict)

    def right(self, size: int) -> float:
        """Percent of the known pixels that are right."""
        known = self.truth != IGNORED
        right = (self.predicted[size] == self.truth) & known
        return 100.0 * float(right.sum()) / max(1, int(known.sum()))


class Examples:
    """Some images of a split, evenly over it, as an evaluation comes to them."""

    def __init__(self, task: Task, total: int, count: int = IMAGES) -> None:
        self._task, self._wanted = task, set(positions(total, count))
        self._found: dict[int, Shown] = {}

    def add(self, size: int, outputs: Tensor, labels: Tensor, indices: Tensor) -> None:
        """Note a batch at one size; see `rsquant.evaluate.accuracy.evaluate`."""
        for row, position in enumerate(indices.tolist()):
            if position in self._wanted:
                truth = labels[row : row + 1]
                mask = self._task.masks(outputs[row : row + 1], truth)[0].cpu().numpy()
                one = Shown(position, truth[0].cpu().numpy().astype(np.uint8))
                self._found.setdefault(position, one).predicted[size] = mask

    def shown(self) -> list[Shown]:
        """In the order of the split."""
        return [self._found[position] for position in sorted(self._found)]


def section(run: str, found: Sequence[Shown], split: Split, classes: Sequence[str]) -> Section:
    """Rows of image, truth and the prediction at each size, the largest first."""
    sizes = sorted(found[0].predicted, reverse=True) if found else []
    colours = palette()
    height, width = found[0].truth.shape if found else (1, 1)
    columns = 2 + len(sizes)
    tall = max(1, len(found)) * WIDTH / columns * height / width + 0.9
    with drawn(height=tall, rows=max(1, len(found)), columns=columns) as (figure, grid):
        for axes in grid.flat:
            axes.set_axis_off()
        for row, one in zip(grid, found, strict=False):
            image = split.image(one.position).permute(1, 2, 0).numpy()
            masks = (one.truth, *(one.predicted[size] for size in sizes))
            for axes, pixels in zip(row, (image, *(colours[m] for m in masks)), strict=True):
                axes.imshow(pixels)
            for axes, size in zip(row[2:], sizes, strict=True):
                axes.set_title(f"{one.right(size):.0f} %", fontsize=7, pad=2)
        for axes, title in zip(
            grid[0], ("image", "truth", *(f"{size} pixels" for size in sizes)), strict=True
        ):
            below = axes.get_title()
            axes.set_title(f"{title}\n{below}" if below else title, fontsize=8, pad=2)
        if len(classes) <= LEGEND:
            _legend(figure, classes, colours)
        says = "Images, their true classes, and the predicted ones at every size, as colours."
        picture = Picture("maps", png(figure, shades=True), says)
    text = [
        f"{len(found)} images, evenly over the set: the image, the class of each pixel, and what "
        "is predicted at each size, resized to the image's. Percent: pixels that are right. White "
        "has no class."
    ]
    figures = {
        "images": [
            {
                "name": path_tail(split.name(one.position)),
                "right": {str(s): one.right(s) for s in sizes},
            }
            for one in found
        ]
    }
    return Section("maps", "Predictions by size", text, figures, (picture,), (), run)


def _legend(figure: object, classes: Sequence[str], colours: NDArray[np.uint8]) -> None:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    assert isinstance(figure, Figure)
    patches = [
        Patch(facecolor=tuple(colours[i] / 255), edgecolor="#555", label=name)
        for i, name in enumerate(classes)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize=7, frameon=False)
