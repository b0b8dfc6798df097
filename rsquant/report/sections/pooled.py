"""Pooled features under training and test preprocessing (RS-Nets, figure 3, right).

Training shows parts of images, test nearly all of them, so objects look larger in training. What
the classifier reads differs between the two, less or more by size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rsquant.data.loader import Batches, evaluation_batches, training_batches
from rsquant.data.split import Split
from rsquant.data.transforms import normalise
from rsquant.nn.modes import evaluation_mode
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.report.picture import drawn, png, style
from rsquant.report.section import Picture, Section, Table

# Points of a curve.
POINTS = 200


@dataclass(frozen=True)
class Pooled:
    """Of one size: components of all images' features under each preprocessing, ascending."""

    size: int
    training: NDArray[np.float32]
    test: NDArray[np.float32]


def cdf(values: NDArray[np.float32], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(X <= x) for each x of `at`, of ascending samples."""
    found: NDArray[np.float64] = np.searchsorted(values, at, side="right") / len(values)
    return found


def distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The largest distance between two distributions' CDFs (Kolmogorov-Smirnov), 0 to 1."""
    at = np.concatenate([one, other]).astype(np.float64)
    return float(np.abs(cdf(one, at) - cdf(other, at)).max())


@contextmanager
def classifier_inputs(network: SwitchableNetwork) -> Iterator[list[Tensor]]:
    """What the last Linear layer reads in every call inside the block, (N, features) each."""
    last = [m for m in network.body.modules() if isinstance(m, nn.Linear)]
    found: list[Tensor] = []
    if not last:
        yield found
        return

    def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        found.append(args[0].detach().float().flatten(1).cpu())

    handle = last[-1].register_forward_pre_hook(note)
    try:
        yield found
    finally:
        handle.remove()


@torch.inference_mode()
def pooled(
    network: SwitchableNetwork,
    split: Split,
    area: tuple[float, float],
    seed: int = 0,
    workers: int = 0,
    device: torch.device | str = "cpu",
) -> list[Pooled]:
    """Run the same images both ways at every trained size; none where there is no Linear layer.

    Args:
        area: share of an image that training crops, of the run.
        seed: of the crops.
    """
    sizes = tuple(dict.fromkeys(network.resolutions))
    training = training_batches(split, sizes, 64, 0, seed, workers, area, drop_last=False)
    test = evaluation_batches(split, sizes, 64, workers)
    ways = [_features(network, batches, sizes, device) for batches in (training, test)]
    if not ways[0]:
        return []
    return [Pooled(size, ways[0][size], ways[1][size]) for size in sizes]


def _features(
    network: SwitchableNetwork, batches: Batches, sizes: tuple[int, ...], device: torch.device | str
) -> dict[int, NDArray[np.float32]]:
    found: dict[int, list[Tensor]] = {size: [] for size in sizes}
    spec = network.spec
    with evaluation_mode(network), network.weights_quantized_once():
        for batch in batches:
            for size, images in zip(sizes, batch.images, strict=True):
                if len(images) == 0:
                    continue
                with classifier_inputs(network) as seen:
                    network(normalise(images.to(device), spec.mean, spec.std).to(network.dtype))
                found[size] += seen
    if not all(found.values()):
        return {}
    return {size: np.sort(torch.cat(parts).flatten().numpy()) for size, parts in found.items()}


def section(
    run: str, found: list[Pooled], images: int, area: tuple[float, float]
) -> Section | None:
    """A panel per size."""
    if not found:
        return None
    columns = min(3, len(found))
    lines = -(-len(found) // columns)
    with drawn(height=2.6 * lines, rows=lines, columns=columns) as (figure, grid):
        # Of few values far out a picture would show nothing else.
        most = max(float(np.quantile(p.test, 0.995)) for p in found)
        least = min(0.0, *(float(p.test[0]) for p in found))
        at = np.linspace(least, most, POINTS)
        for axes in grid.flat[len(found) :]:
            axes.set_visible(False)
        for axes, one in zip(grid.flat, found, strict=False):
            for index, (name, values) in enumerate(
                (("training", one.training), ("test", one.test))
            ):
                axes.plot(at, cdf(values, at), label=name, **style(index, marker=False))
            axes.set_title(f"{one.size} pixels")
            axes.set_xlabel("feature")
            axes.set_ylim(0, 1.02)
            axes.grid(alpha=0.3)
        grid[0, 0].set_ylabel("share of features below")
        grid[0, 0].legend(loc="lower right")
        says = "Cumulative distributions of pooled features, under both ways, a panel per size."
        picture = Picture("pooled", png(figure), says)
    rows = [
        [
            str(p.size),
            f"{p.training.mean():.3f}",
            f"{p.test.mean():.3f}",
            f"{distance(p.training, p.test):.3f}",
        ]
        for p in found
    ]
    low, high = area
    text = [
        f"What the classifier reads (pooled features, all components together) of {images:,} "
        f"validation images, cut as in training (a random {100 * low:g} to {100 * high:g} % of the "
        "image) and as in test. The closer the curves, the smaller the discrepancy of training "
        "and test.",
    ]
    headings = ("size", "mean, training", "mean, test", "largest distance of the CDFs")
    figures = {
        "images": images,
        "at": at.tolist(),
        "training": {p.size: cdf(p.training, at).tolist() for p in found},
        "test": {p.size: cdf(p.test, at).tolist() for p in found},
        "distance": {p.size: distance(p.training, p.test) for p in found},
    }
    title = "Pooled features in training and test"
    return Section("pooled", title, text, figures, (picture,), (Table(headings, rows),), run)
