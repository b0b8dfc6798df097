"""Run a packed network: numpy in, numpy out."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsquant.kernels import backends
from rsquant.packed.build import program_at
from rsquant.packed.fields import Pair
from rsquant.packed.file import Packed
from rsquant.packed.program import Program
from rsquant.runtime import maps
from rsquant.runtime.cpu.bind import bind
from rsquant.runtime.cpu.choice import KernelChoice
from rsquant.runtime.cpu.timing import step_seconds, step_times
from rsquant.runtime.cpu.weights import PreparedWeights
from rsquant.runtime.pixels import as_logits
from rsquant.runtime.recent import Recent
from rsquant.runtime.settings import PackedSession
from rsquant.settings import Bits

Memory = Literal["full", "low"]


class _Ready(NamedTuple):
    """A size that can run.

    Attributes:
        program: without its steps, whose tables `bound` has copies of: of a ResNet-50 0.8 MB.
        bound: the compiled program.
        steps: their names.
        kernels: of the convolutions, by name.
    """

    program: Program
    bound: Any
    steps: list[str]
    kernels: dict[str, str]


class Session(PackedSession):
    """A packed network, ready to run at every size it was packed for; made by `load`.

    Calls from several threads wait for each other; use one Session per thread to run at the same
    time. Each has the whole file in its own memory, so what happens to the file afterwards
    (replaced, overwritten, truncated, deleted) changes nothing. Threads do not survive a fork():
    in the child all work of a session runs on the calling thread, and a call of a size that was
    not ready may wait for a thread that is gone. Load the file again there.

    Attributes:
        resolutions: packed sizes in pixels, largest first.
        classes: names, empty if the network has none.
        bits: of weights and activations, of each setting in the file, the costliest first.
        widths: shares of the channels, of each setting in the file, all of them first.
        gives_maps: whether it gives one prediction per pixel: logits are maps (N, classes, h, w).
        isa, threads, memory: as in use.
    """

    def __init__(
        self,
        packed: Packed,
        isa: str,
        threads: int,
        memory: Memory,
        kernel: str | None,
        tune: bool,
        interpolate: bool,
        keep_sizes: int,
    ) -> None:
        super().__init__(
            packed,
            interpolate,
            lambda other: type(self)(
                other, isa, threads, memory, kernel, tune, interpolate, keep_sizes
            ),
        )
        self.isa, self.threads, self.memory = isa, threads, memory
        self._workspace = backends.native().Workspace(threads, memory == "low")
        self._bound: Recent[tuple[int, int], _Ready] = Recent(keep_sizes, self._is_packed)
        self._lock = threading.Lock()
        self._loader = threading.Thread(target=self._load_others)
        # Program, kernels, weights, memory: what each needs is there before it, see `_bind`.
        largest = program_at(packed, self.resolutions[0], self.resolutions[0], interpolate)
        self._choice = KernelChoice(isa, threads, memory == "low", kernel)
        if tune:
            self._choice.measure(packed, self._workspace)
        self._weights = PreparedWeights(isa, memory == "low")
        self._bind(largest)
        self._loader.start()

    def __repr__(self) -> str:
        return (
            f"Session({self.packed.describe()}, {self.isa}, threads={self.threads}, "
            f"memory='{self.memory}')"
        )

    def __call__(
        self,
        images: NDArray[Any],
        out: NDArray[np.float32] | None = None,
        *,
        bits: Bits | None = None,
        width: float | None = None,
    ) -> NDArray[np.float32]:
        """Logits of a batch.

        Args:
            images: (N, 3, H, W), pixels as uint8 or, normalised with the network's mean and
                standard deviation, as float32 (turned back into 8-bit pixels; floats that look
                like 0 to 255 or 0 to 1 get an `ImageRangeWarning` once). The size picks the
                BatchNorms: a packed one its own, any other a blend of its neighbours'. Views
                and other orders of memory or bytes are copied.
            out: float32 of the result's shape to write to, possibly a view; None makes one.
            bits: of weights and activations, one of `bits`; None: this session's.
            width: one of `widths`; None: this session's.
        Returns:
            (N, classes) float32; of a network that gives one prediction per pixel
            (N, classes, h, w), where h and w are smaller than the images' sides.
        Raises:
            TypeError: no array of these dtypes.
            ValueError: another shape, NaN or infinity, or a read-only `out`.
            ModelError: a size that is not packed with interpolate=False, or too small a one; bits
                or a width that the file has not.
        """
        if (other := self._others.at(width, bits)) is not None:
            return other(images, out)
        pixels = self._pixels(images)
        program, bound, *_ = self._at(*pixels.shape[2:])
        logits = as_logits(out, (len(pixels), *program.output))
        bound.run(pixels, program.logits, logits.reshape(len(pixels), -1), None)
        if out is None or logits is out:
            return logits
        out[...] = logits
        return out

    def maps(
        self,
        images: NDArray[Any],
        size: Pair | None = None,
        *,
        bits: Bits | None = None,
        width: float | None = None,
    ) -> NDArray[np.float32]:
        """Logits of each pixel, of a network that gives maps: `rsquant.runtime.maps.resized`.

        Args:
            images, bits, width: as for a call.
            size: height and width of the result; None: the images'. That of the photograph, where
                the images were resized from it.
        Returns:
            (N, classes, height, width) float32.
        Raises:
            ModelError: the network gives one prediction per image. Else as a call.
        """
        maps.check_maps(self.gives_maps, "maps")
        logits = self(images, bits=bits, width=width)
        return maps.resized(logits, maps.wanted_size(size, images))

    def masks(
        self,
        images: NDArray[Any],
        size: Pair | None = None,
        *,
        bits: Bits | None = None,
        width: float | None = None,
    ) -> NDArray[Any]:
        """The likeliest class of each pixel, of a network that gives maps.

        Args: as of `maps`.
        Returns:
            (N, height, width) uint8, or uint16 of more than 256 classes.
        Raises:
            ModelError: as `maps`.
        """
        maps.check_maps(self.gives_maps, "masks")
        logits = self(images, bits=bits, width=width)
        return maps.likeliest(logits, maps.wanted_size(size, images))

    def step_seconds(self, size: int, repeats: int = 7) -> list[tuple[str, float]]:
        """Each step's name and its shortest time over some runs of one image of zeros."""
        ready = self._at(size, size)
        seconds = step_seconds(ready.program, ready.bound, repeats)
        return list(zip(ready.steps, seconds, strict=True))

    def step_times(self, size: int, repeats: int) -> tuple[list[str], NDArray[np.float64]]:
        """Each step's name, and its seconds in some runs of one image of zeros (repeats, steps)."""
        ready = self._at(size, size)
        return ready.steps, step_times(ready.program, ready.bound, repeats)

    def program(self, size: int) -> Program:
        """The network folded at a square size, anew."""
        return program_at(self.packed, size, size, self.interpolate)

    def kernels(self, size: int) -> dict[str, str]:
        """The kernel that computes each convolution at a packed size."""
        return dict(self._at(size, size).kernels)

    def prepare(self, size: int) -> None:
        """Make a square size ready, which its first call would do."""
        self._at(size, size)

    def value(self, image: NDArray[np.uint8], number: int) -> NDArray[Any]:
        """A value in the middle of the network for one image (1, 3, H, W): (H', W', C)."""
        pixels = self._pixels(image)
        program, bound, *_ = self._at(*pixels.shape[2:])
        of = program.values[number]
        dtype = np.float32 if of.kind == "float" else np.uint8
        out = np.empty((of.height, of.width, of.channels), dtype)
        bound.inspect(pixels, number, out)
        return out

    @property
    def machine(self) -> str:
        """Version of the kernels, processor, instruction set and threads: what times depend on."""
        return self._choice.machine

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights in the kernels' own layouts, beside the copy of the file."""
        return self._weights.bytes

    @property
    def workspace_bytes(self) -> int:
        """Bytes of working memory, shared by all sizes."""
        return int(self._workspace.bytes)

    def _load_others(self) -> None:
        """Make the smaller sizes ready, while the largest can be used already."""
        for size in self.resolutions[1:]:
            with contextlib.suppress(Exception):  # raised again where the size is used
                self._at(size, size)
        if self.memory == "low":  # what checking and folding needed: some 0.5 MB
            backends.native().trim()

    def _at(self, height: int, width: int) -> _Ready:
        found = self._bound.get((height, width))
        if found is not None:
            return found
        with self._lock:
            found = self._bound.get((height, width))
            if found is not None:
                return found
            return self._bind(program_at(self.packed, height, width, self.interpolate))

    def _bind(self, program: Program) -> _Ready:
        """Make a program ready; from one thread at a time."""
        kernels = self._choice.kernels(program)
        # The loader stays beside what is running.
        alone = threading.current_thread() is self._loader
        with self._weights.of(program, kernels, 1 if alone else self.threads) as weights:
            bound = bind(self.isa, self._workspace, program, weights)
        ready = _Ready(
            replace(program, steps=()),
            bound,
            ["image", *(step.name for step in program.steps)],
            {program.steps[number].name: kernel for number, kernel in kernels.items()},
        )
        self._bound.put((program.height, program.width), ready)
        return ready
