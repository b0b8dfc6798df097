"""One call from a photograph to its labels, or to those of its pixels."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rsquant import decoding
from rsquant.errors import ConfigError
from rsquant.runtime.maps import likeliest
from rsquant.runtime.preprocess import evaluation_crop, evaluation_square
from rsquant.serve.budget import Budget, Choice
from rsquant.serve.cascade import Cascade, stored_cascade
from rsquant.serve.latency import measured
from rsquant.serve.network import Network, find, open_network
from rsquant.serve.probability import softmax

if TYPE_CHECKING:
    from rsquant.serve.stream import Overload, Streamed

Picture = str | Path | bytes | NDArray[np.uint8] | Image.Image


@dataclass(frozen=True)
class Prediction:
    """What a network says of an image.

    Attributes:
        labels: classes, the likeliest first; their numbers as text where they have no names. Of a
            network that gives one prediction per pixel: those that most pixels have.
        probabilities: of these; of such a network their shares of the pixels.
        resolution: the size it was said at, in pixels.
        milliseconds: from pixels to labels, cropping included and decoding not.
        tried: all sizes that were run, in their order: more than one in a cascade.
        choice: why this size, where a budget chose it.
        mask: of such a network, the number of each pixel's class: (H, W) of the photograph, uint8,
            or uint16 of more than 256 classes. Else None.
    """

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    resolution: int
    milliseconds: float
    tried: tuple[int, ...]
    choice: Choice | None = None
    mask: NDArray[Any] | None = field(default=None, compare=False, repr=False)

    @property
    def label(self) -> str:
        """The likeliest class."""
        return self.labels[0]


class Predictor:
    """A network with its preprocessing: photographs of any size to labels, or to masks.

    Args:
        model: a .rsq or .onnx file, a checkpoint, a run's name or folder, None for the newest run;
            see `rsquant.serve.network.find`. Or a network that is open already.
        resolution: the size to use; None: the largest of the network, unless one of the next
            chooses.
        budget_ms: choose the largest size that takes at most so long; see `Budget`.
        strict: raise ConfigError where the smallest size takes longer than that.
        cascade: True: the cascade stored in the file; or one of `rsquant.serve.cascade`.
        top: how many labels a prediction has; None: 1, of a mask all that pixels have.
        threads: None: all processors this process may use.
    Raises:
        ConfigError: settings that exclude each other or that this network does not have.
    """

    def __init__(
        self,
        model: str | Path | Network | None = None,
        *,
        resolution: int | None = None,
        budget_ms: float | None = None,
        strict: bool = False,
        cascade: bool | Cascade = False,
        top: int | None = None,
        threads: int | None = None,
    ) -> None:
        given = [
            name
            for name, value in {
                "resolution": resolution is not None,
                "budget_ms": budget_ms is not None,
                "cascade": cascade is not False,
            }.items()
            if value
        ]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)}: each chooses the size; give one of them")
        if strict and budget_ms is None:
            raise ConfigError("strict: is of a budget; give `budget_ms`, or leave it out")
        if top is not None and top < 1:
            raise ConfigError(f"top: must be 1 or more, got {top}")
        self.network: Network
        if model is None or isinstance(model, (str, Path)):
            self.network = open_network(find(model), threads)
        else:
            if threads is not None:
                raise ConfigError(
                    "threads: an open network has its own; leave it out, or give it to what opens "
                    "the network"
                )
            self.network = model
        self.resolutions, self.classes = self.network.resolutions, self.network.classes
        # Networks of users may have been written before there were maps.
        self._gives_maps = getattr(self.network, "gives_maps", False)
        if self._gives_maps and cascade is not False:
            raise ConfigError(
                "cascade: is for one prediction per image, and this network gives one per pixel; "
                "leave it out"
            )
        self._check_size(resolution)
        self.resolution = resolution or self.resolutions[0]
        every = self._gives_maps and top is None
        self._top = None if every else top or 1
        self.budget: Budget | None = None
        self.cascade: Cascade | None = None
        if budget_ms is not None:
            seconds = measured(self.network, self.resolutions)
            self.budget = Budget(seconds, budget_ms / 1000, strict=strict)
        if cascade is True:
            self.cascade = stored_cascade(self.network)
        elif cascade is not False:
            cascade.check(self.network)
            self.cascade = cascade

    def __call__(
        self, picture: Picture, resolution: int | None = None, left: float | None = None
    ) -> Prediction:
        """What the network says of one picture.

        Args:
            picture: a path, the bytes of a file, a Pillow image, or (H, W, 3) uint8, R G B; of any
                size.
            resolution: for this picture alone.
            left: seconds that are left of the budget for it; None: all of them.
        Raises:
            UnreadableImage: a file that cannot be decoded.
            TypeError, ValueError: an array of another type or shape.
        """
        self._check_size(resolution)
        pixels = as_pixels(picture)
        start = time.perf_counter()
        choice, tried, mask = None, [], None
        ready = done = start
        if resolution is not None:
            size = resolution
        elif self.budget is not None:
            choice = self.budget.choose(left)
            size = choice.size
        else:
            size = self.resolution
        if self.cascade is not None and resolution is None:
            for stage in self.cascade.stages:
                size = stage.resolution
                tried.append(size)
                probabilities = self._run(pixels, size)
                if stage.threshold is None or float(probabilities.max()) >= stage.threshold:
                    break
        elif self._gives_maps:
            tried.append(size)
            image = evaluation_square(pixels, size)[None]
            ready = time.perf_counter()
            logits = self.network(image)
            done = time.perf_counter()
            mask = likeliest(logits, (pixels.shape[0], pixels.shape[1]))[0]
            probabilities = np.bincount(mask.ravel(), minlength=logits.shape[1]) / mask.size
        else:
            tried.append(size)
            image = evaluation_crop(pixels, size)[None]
            ready = time.perf_counter()
            logits = self.network(image)
            done = time.perf_counter()
            probabilities = softmax(logits)[0]
        best = np.argsort(-probabilities, kind="stable")[: self._top]
        if mask is not None:
            best = best[probabilities[best] > 0]
        seconds = time.perf_counter() - start
        if choice is not None and self.budget is not None:
            # What is outside the network hardly depends on the size, making a mask least of all.
            self.budget.tell(size, done - ready, seconds - (done - ready))
        return Prediction(
            tuple(self.classes[i] if self.classes else str(i) for i in best),
            tuple(float(probabilities[i]) for i in best),
            size,
            seconds * 1000,
            tuple(tried),
            choice,
            mask,
        )

    def stream(
        self, pictures: Iterable[NDArray[np.uint8]], overload: Overload = "degrade"
    ) -> Iterator[Streamed]:
        """Predict pictures as they come, each in time; see `rsquant.serve.stream.stream`."""
        from rsquant.serve.stream import stream

        return stream(self, pictures, overload)

    def _run(self, pixels: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
        return softmax(self.network(evaluation_crop(pixels, size)[None]))[0]

    def _check_size(self, resolution: int | None) -> None:
        if resolution is not None and resolution not in self.resolutions:
            sizes = ", ".join(map(str, self.resolutions))
            raise ConfigError(f"resolution: the network has {sizes}, got {resolution}")


def as_pixels(picture: Any) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 of a file, bytes, a Pillow image or an array."""
    if isinstance(picture, Image.Image):
        return decoding.rgb_pixels(picture)
    if isinstance(picture, (str, Path, bytes)):
        return decoding.decode(picture)
    return picture
