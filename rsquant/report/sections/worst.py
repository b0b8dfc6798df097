"""The images a network is most wrong about."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rsquant.data.images import UnreadableImage
from rsquant.data.split import Split
from rsquant.data.transforms import resize
from rsquant.report.answers import Answers
from rsquant.report.section import Section, Table
from rsquant.text import path_tail

MOST = 12
# Pixels of a small picture's long side.
SIDE = 96


@dataclass(frozen=True)
class Worst:
    """An image.

    Attributes:
        position: in the split.
        probability: of the label, the mean over the sizes.
        predicted: size -> the class predicted, and its probability.
    """

    position: int
    label: int
    probability: float
    predicted: dict[int, tuple[int, float]]


def worst(found: Answers, sizes: Sequence[int], count: int = MOST) -> list[Worst]:
    """Those whose label has the smallest probability, the mean over the sizes, smallest first."""
    shares = {size: _softmax(found.logits[size]) for size in sizes}
    rows = np.arange(len(found.labels))
    of_label = np.mean([shares[size][rows, found.labels] for size in sizes], axis=0)
    order = np.argsort(of_label, kind="stable")[:count]
    return [
        Worst(
            int(found.positions[i]),
            int(found.labels[i]),
            float(of_label[i]),
            {s: (int(shares[s][i].argmax()), float(shares[s][i].max())) for s in sizes},
        )
        for i in order.tolist()
    ]


def section(run: str, found: Sequence[Worst], split: Split, classes: Sequence[str]) -> Section:
    """A table with small pictures."""
    sizes = list(found[0].predicted) if found else []
    rows: list[list[str]] = []
    pictures = {}
    for one in found:
        said = (f"{classes[c]} {100 * p:.0f} %" for c, p in one.predicted.values())
        name = split.name(one.position)
        small = _small(split, one.position)
        if small is not None:
            pictures[len(rows), 0] = small
        rows.append(
            ["", classes[one.label], f"{100 * one.probability:.1f} %", *said, path_tail(name)]
        )
    text = [
        f"The {len(rows)} images whose label gets the smallest probability, the mean over the "
        "sizes: often wrong labels, several objects, or views that training has not shown.",
    ]
    heads = ("image", "label", "its probability", *(f"at {size}" for size in sizes), "file")
    figures = {
        "images": [
            {
                "name": path_tail(split.name(w.position)),
                "label": classes[w.label],
                "probability": w.probability,
                "predicted": {str(s): classes[c] for s, (c, _) in w.predicted.items()},
            }
            for w in found
        ]
    }
    table = Table(heads, rows, pictures=pictures)
    return Section("worst", "Worst images", text, figures, (), (table,), run)


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    share: np.ndarray = shifted / shifted.sum(1, keepdims=True)
    return share


def _small(split: Split, position: int) -> bytes | None:
    """A PNG of an image, SIDE pixels at most; None of one that cannot be read any more."""
    from PIL import Image

    try:
        image = split.image(position)
    except UnreadableImage:
        return None
    height, width = image.shape[1:]
    scale = min(1.0, SIDE / max(height, width))
    small = resize(image, max(1, round(height * scale)), max(1, round(width * scale)))
    pixels = small.permute(1, 2, 0).contiguous().to(torch.uint8).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()
