"""The built-in set: twelve drawn shapes that differ in fine detail.

Neighbours are made to be confused at a low resolution: a gear is a disc with teeth, a ring a
disc with a hole, a frame a square with one, a star a hexagon with notches. A network trained at 96
pixels alone loses four fifths of its accuracy at 48, one trained at both does not: docs/results.md.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from rsquant.data.split import Source

SIDE = 128
# Shapes are drawn at this multiple and averaged down: 16 coverage levels per pixel.
SUPERSAMPLE = 4
# Range of a shape's diameter, as a share of the image.
SIZES = (0.4, 0.9)
# Degrees either way.
TURN = 45
TRAIN_IMAGES, VAL_IMAGES = 3000, 600

Polygon = list[tuple[float, float]]
# What is filled, then what is cut out of it; coordinates within the unit circle.
Outline = tuple[list[Polygon], list[Polygon]]


def _regular(corners: int, radius: float = 1.0, turn: float = 0.0) -> Polygon:
    angles = [2 * math.pi * k / corners + turn for k in range(corners)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]


def _toothed(teeth: int, inner: float) -> Polygon:
    """A circle whose radius alternates between 1 and `inner`, with straight flanks."""
    corners = []
    for k in range(teeth):
        for share, radius in ((0.0, inner), (0.3, inner), (0.4, 1.0), (0.85, 1.0), (0.95, inner)):
            angle = 2 * math.pi * (k + share) / teeth
            corners.append((radius * math.cos(angle), radius * math.sin(angle)))
    return corners


def _spiked(points: int, inner: float) -> Polygon:
    angles = [math.pi * k / points for k in range(2 * points)]
    radii = [1.0 if k % 2 == 0 else inner for k in range(2 * points)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def _heart() -> Polygon:
    corners = []
    for k in range(48):
        t = 2 * math.pi * k / 48
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        corners.append((x / 17, -y / 17))
    return corners


_CROSS: Polygon = [
    (-0.3, -0.95),
    (0.3, -0.95),
    (0.3, -0.3),
    (0.95, -0.3),
    (0.95, 0.3),
    (0.3, 0.3),
    (0.3, 0.95),
    (-0.3, 0.95),
    (-0.3, 0.3),
    (-0.95, 0.3),
    (-0.95, -0.3),
    (-0.3, -0.3),
]
_ARROW: Polygon = [
    (1.0, 0.0),
    (0.2, 0.75),
    (0.2, 0.28),
    (-0.95, 0.28),
    (-0.95, -0.28),
    (0.2, -0.28),
    (0.2, -0.75),
]
_AT_24 = np.linspace(0, 1, 24)[:, None]
_BITE = [(x + 0.5, y) for x, y in _regular(40, 0.8)]

SHAPES: dict[str, Callable[[np.random.Generator], Outline]] = {
    "arrow": lambda rng: ([_ARROW], []),
    "crescent": lambda rng: ([_regular(48)], [_BITE]),
    "cross": lambda rng: ([_CROSS], []),
    "disc": lambda rng: ([_regular(48)], []),
    "frame": lambda rng: ([_regular(4)], [_regular(4, rng.uniform(0.3, 0.6))]),
    "gear": lambda rng: ([_toothed(int(rng.integers(9, 15)), rng.uniform(0.8, 0.87))], []),
    "heart": lambda rng: ([_heart()], []),
    "hexagon": lambda rng: ([_regular(6)], []),
    "ring": lambda rng: ([_regular(48)], [_regular(32, rng.uniform(0.25, 0.6))]),
    "square": lambda rng: ([_regular(4)], []),
    "star": lambda rng: ([_spiked(6, rng.uniform(0.55, 0.75))], []),
    "triangle": lambda rng: ([_regular(3)], []),
}
CLASSES = tuple(SHAPES)


def draw(label: int, rng: np.random.Generator) -> np.ndarray:
    """One image of class `CLASSES[label]`: (128, 128, 3) uint8."""
    canvas = _clutter(_background(rng), rng)
    radius = SIDE / 2 * math.exp(rng.uniform(math.log(SIZES[0]), math.log(SIZES[1])))
    low = 0.9 * radius
    centre = (rng.uniform(low, SIDE - low), rng.uniform(low, SIDE - low))
    mask = _mask(
        SHAPES[CLASSES[label]](rng), centre, radius, math.radians(rng.uniform(-TURN, TURN))
    )
    fill = _colour(canvas.mean((0, 1)), rng) + _grain(rng, 2, 10)
    opacity = np.float32(rng.uniform(0.75, 1.0)) * mask[:, :, None]
    canvas += (fill - canvas) * opacity
    return np.rint(canvas.clip(0, 255)).astype(np.uint8)


def _colour(mean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A tint lighter than the background, by a contrast that is sometimes slight.

    Always lighter, on backgrounds that are rather dark: with random polarity a ResNet-18 of width
    16 was still at chance after ten epochs of 3000 images, and a ResNet-50 with slighter contrast.
    """
    tint = rng.uniform(-40, 40, 3) + rng.uniform(80, 150)
    return (mean + tint).clip(0, 255).astype(np.float32)


def _grain(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Gray noise of a random strength, (128, 128, 1) float32."""
    noise = rng.standard_normal((SIDE, SIDE, 1), dtype=np.float32)
    noise *= np.float32(rng.uniform(low, high))
    return noise


def _mask(outline: Outline, centre: tuple[float, float], radius: float, turn: float) -> np.ndarray:
    """Coverage of each pixel by the outline, (128, 128) in 0..1."""
    image = Image.new("L", (SIDE * SUPERSAMPLE, SIDE * SUPERSAMPLE))
    pen = ImageDraw.Draw(image)
    cos, sin = radius * math.cos(turn), radius * math.sin(turn)
    for polygons, value in zip(outline, (255, 0), strict=True):
        for polygon in polygons:
            pen.polygon(
                [
                    (
                        SUPERSAMPLE * (centre[0] + cos * x - sin * y),
                        SUPERSAMPLE * (centre[1] + sin * x + cos * y),
                    )
                    for x, y in polygon
                ],
                fill=value,
            )
    return np.asarray(image.reduce(SUPERSAMPLE), dtype=np.float32) / 255


def _background(rng: np.random.Generator) -> np.ndarray:
    """Smooth blotches of two scales, stripes and grain around a random colour."""
    coarse = np.zeros((24, 24, 3), dtype=np.float32)
    coarse += rng.uniform(20, 100, 3)
    for cells, strength in ((4, 40.0), (24, 18.0)):
        noise = rng.random((cells, cells, 3), dtype=np.float32) - 0.5
        noise *= np.float32(2 * strength * rng.uniform())
        # Linear interpolation to 24 x 24: blocks would look like the class "square".
        weights = np.maximum(0, 1 - np.abs(_AT_24 * (cells - 1) - np.arange(cells)))
        weights = weights.astype(np.float32)
        coarse += np.einsum("ya,xb,abc->yxc", weights, weights, noise, optimize=True)
    small = Image.fromarray(coarse.clip(0, 255).astype(np.uint8))
    smooth = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    angle, period = rng.uniform(0, math.pi), rng.uniform(3, 16)
    along = np.arange(SIDE, dtype=np.float32) / np.float32(period)
    phase = np.float32(math.cos(angle)) * along + np.float32(math.sin(angle)) * along[:, None]
    phase -= np.floor(phase)
    stripes = (np.abs(phase - 0.5) - 0.25) * np.float32(rng.uniform(0, 45))
    return smooth + (stripes[:, :, None] + _grain(rng, 2, 12))


def _clutter(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Short dark strokes, none of them a shape of the set."""
    image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 9))):
        x, y = rng.uniform(0, SIDE, 2)
        dx, dy = rng.normal(0, 14, 2)
        colour = tuple(rng.integers(0, 100, 3).tolist())
        pen.line((x, y, x + dx, y + dy), fill=colour, width=int(rng.integers(1, 4)))
    return np.asarray(image).astype(np.float32)


class ShapesSplit:
    """Generated images, each drawn when first used and kept. Image i depends on (seed, split, i).

    They lie in memory that forked loader workers share, so that one drawn by a worker is there for
    the next epoch's workers too. Two workers may draw the same image at once: to the same bytes.
    """

    def __init__(self, seed: int, split: int, images: int) -> None:
        self._seed, self._split = seed, split
        # An anonymous mapping, not /dev/shm, which containers keep small.
        size = SIDE * SIDE * 3
        pixels = np.frombuffer(mmap.mmap(-1, images * size), np.uint8)
        self._pixels = torch.from_numpy(pixels).view(images, SIDE, SIDE, 3)
        self._drawn = torch.from_numpy(np.frombuffer(mmap.mmap(-1, images), np.uint8))

    def __reduce__(self) -> tuple[object, ...]:
        # Where workers are not forked each draws its own.
        return ShapesSplit, (self._seed, self._split, len(self))

    def _rng(self, i: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self._seed, self._split, i]))

    def __len__(self) -> int:
        return len(self._pixels)

    def label(self, i: int) -> int:
        return i % len(CLASSES)

    def name(self, i: int) -> str:
        return f"shapes {('train', 'val')[self._split]}[{i}]"

    def image(self, i: int, min_side: int | None = None) -> Tensor:
        if not self._drawn[i]:
            self._pixels[i] = torch.from_numpy(draw(self.label(i), self._rng(i)))
            self._drawn[i] = 1
        return self._pixels[i].permute(2, 0, 1)


def shapes_source(
    seed: int = 0, train_images: int | None = None, val_images: int | None = None
) -> Source:
    """Generate the built-in set: 12 classes in equal parts, 128 x 128 pixels."""
    train = ShapesSplit(seed, 0, train_images or TRAIN_IMAGES)
    val = ShapesSplit(seed, 1, val_images or VAL_IMAGES)
    return Source("shapes", CLASSES, train, val)
