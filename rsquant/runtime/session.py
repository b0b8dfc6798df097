"""Run a packed network: numpy in, numpy out."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rsquant.kernels import backends
from rsquant.packed.build import build_program, program_at
from rsquant.packed.file import Packed
from rsquant.packed.ops.conv import ConvForm, ConvStep
from rsquant.packed.program import Program
from rsquant.runtime import tuning
from rsquant.runtime.bind import Weights, bind, eligible_kernels, prepare
from rsquant.runtime.pixels import PixelReader, as_logits
from rsquant.runtime.recent import Recent
from rsquant.runtime.timing import fastest_kernels, step_seconds, step_times

Memory = Literal["full", "low"]
# Of tuning a file, all its sizes together, but for the run under way when they are over.
TUNE_SECONDS = 4.5


class Session:
    """A packed network, ready to run at every size it was packed for; made by `load`.

    Calls from several threads wait for each other; use one Session per thread to run at the same
    time. Each has the whole file in its own memory, so what happens to the file afterwards
    (replaced, overwritten, truncated, deleted) changes nothing. A Session does not survive a
    fork(): load it in the child.

    Attributes:
        resolutions: packed sizes in pixels, largest first.
        classes: names, empty if the network has none.
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
        self.packed = packed
        network = packed.plan.network
        self.resolutions: tuple[int, ...] = network.resolutions
        self.classes: tuple[str, ...] = network.classes
        self.isa, self.threads, self.memory = isa, threads, memory
        self.interpolate = interpolate
        self._pixels = PixelReader(network.mean, network.std)
        self._kernel = kernel
        self._workspace = backends.native().Workspace(threads)
        self._weights: Weights = {}
        self._bound: Recent[tuple[int, int], tuple[Program, Any]] = Recent(
            keep_sizes, self._is_packed
        )
        self._kernels_of: dict[ConvForm, list[str]] = {}
        self._lock = threading.Lock()
        self._loader = threading.Thread(target=self._load_others)
        self._choices = tuning.read()
        if tune and kernel is None and memory == "full":
            self._tune()
        self._at(self.resolutions[0], self.resolutions[0])
        self._loader.start()

    def __repr__(self) -> str:
        return (
            f"Session({self.packed.describe()}, {self.isa}, threads={self.threads}, "
            f"memory='{self.memory}')"
        )

    def __call__(
        self, images: NDArray[Any], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Logits of a batch.

        Args:
            images: (N, 3, H, W), pixels as uint8 or, normalised with the network's mean and
                standard deviation, as float32 (turned back into 8-bit pixels; floats that look
                like 0 to 255 or 0 to 1 get an `ImageRangeWarning` once). The size picks the
                BatchNorms: a packed one its own, any other a blend of its neighbours'. Views
                and other orders of memory or bytes are copied.
            out: (N, classes) float32 to write to, possibly a view; None makes one.
        Returns:
            (N, classes) float32.
        Raises:
            TypeError: no array of these dtypes.
            ValueError: another shape, NaN or infinity, or a read-only `out`.
            ModelError: a size that is not packed with interpolate=False, or too small a one.
        """
        pixels = self._pixels(images)
        program, bound = self._at(*pixels.shape[2:])
        classes = program.values[program.logits].channels
        logits = as_logits(out, len(pixels), classes)
        bound.run(pixels, program.logits, logits, None)
        if out is None or logits is out:
            return logits
        out[...] = logits
        return out

    def step_seconds(self, size: int, repeats: int = 7) -> list[tuple[str, float]]:
        """Each step's name and its shortest time over some runs of one image of zeros."""
        program, bound = self._at(size, size)
        return list(zip(_names(program), step_seconds(program, bound, repeats), strict=True))

    def step_times(self, size: int, repeats: int) -> tuple[list[str], NDArray[np.float64]]:
        """Each step's name, and its seconds in some runs of one image of zeros (repeats, steps)."""
        program, bound = self._at(size, size)
        return _names(program), step_times(program, bound, repeats)

    def program(self, size: int) -> Program:
        """The folded network at a square size."""
        return self._at(size, size)[0]

    def kernels(self, size: int) -> dict[str, str]:
        """The kernel that computes each convolution at a packed size."""
        program, _ = self._at(size, size)
        return {
            step.name: self._choose(program, step)
            for step in program.steps
            if isinstance(step, ConvStep)
        }

    def value(self, image: NDArray[np.uint8], number: int) -> NDArray[Any]:
        """A value in the middle of the network for one image (1, 3, H, W): (H', W', C)."""
        pixels = self._pixels(image)
        program, bound = self._at(*pixels.shape[2:])
        of = program.values[number]
        dtype = np.float32 if of.kind == "float" else np.uint8
        out = np.empty((of.height, of.width, of.channels), dtype)
        bound.inspect(pixels, number, out)
        return out

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights in the kernels' own layouts, beside the copy of the file."""
        return sum(prepared.bytes for prepared in self._weights.values())

    @property
    def workspace_bytes(self) -> int:
        """Bytes of working memory, shared by all sizes."""
        return int(self._workspace.bytes)

    def _load_others(self) -> None:
        """Make the smaller sizes ready, while the largest can be used already."""
        for size in self.resolutions[1:]:
            with contextlib.suppress(Exception):  # raised again where the size is used
                self._at(size, size)

    def _at(self, height: int, width: int) -> tuple[Program, Any]:
        found = self._bound.get((height, width))
        if found is not None:
            return found
        with self._lock:
            found = self._bound.get((height, width))
            if found is not None:
                return found
            program = program_at(self.packed, height, width, self.interpolate)
            self._prepare(program)
            bound = bind(
                self.isa,
                self._workspace,
                program,
                lambda _, step: self._choose(program, step),
                self._weights,
            )
            self._bound.put((height, width), (program, bound))
            return program, bound

    def _is_packed(self, size: tuple[int, int]) -> bool:
        return size[0] == size[1] and size[0] in self.resolutions

    def _eligible(self, step: ConvStep) -> list[str]:
        form = step.form
        if form not in self._kernels_of:
            names = eligible_kernels(self.isa, form)
            if self.memory == "low":
                names = [n for n in names if backends.native().low_memory(self.isa, n)]
            self._kernels_of[form] = names
        return self._kernels_of[form]

    def _choose(self, program: Program, step: ConvStep) -> str:
        eligible = self._eligible(step)
        wanted = self._kernel
        if wanted is None and len(eligible) > 1:
            wanted = self._choices.get(tuning.key(self.isa, self.threads, program, step))
        return wanted if wanted is not None and wanted in eligible else eligible[0]

    def _prepare(self, program: Program) -> None:
        """Lay out the weights that the chosen kernels need; in parallel."""
        if self.memory == "low":
            return
        wanted = {}
        for step in program.steps:
            if isinstance(step, ConvStep):
                name = self._choose(program, step)
                if (step.name, name) not in self._weights:
                    wanted[step.name, name] = step, name
        # The loader stays beside what is running.
        threads = 1 if threading.current_thread() is self._loader else self.threads
        self._weights.update(prepare(self.isa, list(wanted.values()), threads))

    def _tune(self) -> None:
        """Time every eligible kernel in its place, for convolutions that have no choice yet.

        Sizes share TUNE_SECONDS, smallest first, each at most an equal part of what is left: a
        small one needs a fraction of its part, and the rest is left to the large ones.
        """
        done = tuning.file_key(self.isa, self.threads, self.packed.path)
        if done in self._choices:
            return
        found: tuning.Choices = {done: ""}
        end = time.monotonic() + TUNE_SECONDS
        sizes = sorted(self.resolutions)
        for number, size in enumerate(sizes):
            program = build_program(self.packed, size, size)
            unknown = self._unknown(program)
            seconds = (end - time.monotonic()) / (len(sizes) - number)
            if unknown and seconds > 0:
                found.update(
                    fastest_kernels(
                        self.isa, self._workspace, program, unknown, self._choose, seconds
                    )
                )
        self._choices.update(found)
        tuning.write(found)

    def _unknown(self, program: Program) -> dict[int, tuple[str, list[str]]]:
        """By number, the convolutions without a choice: its name, and the eligible kernels."""
        unknown = {}
        for number, step in enumerate(program.steps):
            if isinstance(step, ConvStep):
                eligible = self._eligible(step)
                where = tuning.key(self.isa, self.threads, program, step)
                if len(eligible) > 1 and self._choices.get(where) not in eligible:
                    unknown[number] = where, eligible
        return unknown


def _names(program: Program) -> list[str]:
    return ["image", *(step.name for step in program.steps)]
