"""Run a packed network on a CUDA GPU: the same file and the same integers as on the CPU.

Importing this module imports torch and Triton; `rsquant.runtime.load(path, device="cuda")` does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rsquant.kernels.gpu import support
from rsquant.packed.build import program_at
from rsquant.packed.fields import Pair
from rsquant.packed.file import Packed
from rsquant.packed.program import Program
from rsquant.runtime.gpu import memory
from rsquant.runtime.gpu.bind import Binder, Launch
from rsquant.runtime.maps import check_maps, wanted_size
from rsquant.runtime.recent import Recent
from rsquant.runtime.settings import PackedSession
from rsquant.settings import Bits

# Batches whose memory and graphs stay.
KEEP_BATCHES = 8


@dataclass(frozen=True)
class Graph:
    """A packed network at one size and batch, its kernels recorded once and replayed together.

    Attributes:
        images: (batch, 3, H, W) uint8 on the device, to be filled before a replay.
        logits: (batch, classes) or (batch, classes, h, w) float32 on the device, valid after a
            replay.
        replay: runs the network on the current stream; does not wait.
        activation_bytes: memory of all values between the layers.
        launches: the steps, to run one by one.
    """

    program: Program
    batch: int
    images: Tensor
    logits: Tensor
    values: tuple[Tensor, ...]
    replay: Callable[[], None]
    activation_bytes: int
    launches: tuple[Launch, ...]


class GpuSession(PackedSession):
    """A packed network on a GPU; made by `rsquant.runtime.load(path, device="cuda")`.

    The first call at a size and batch compiles and times kernels, seconds to minutes once per
    machine, and records a CUDA graph. Calls from several threads wait for each other.

    Attributes:
        resolutions: packed sizes in pixels, largest first.
        classes: names, empty if the network has none.
        bits: of weights and activations, of each setting in the file, the costliest first.
        widths: shares of the channels, of each setting in the file, all of them first.
        gives_maps: whether it gives one prediction per pixel: logits are maps (N, classes, h, w).
        device: as in use.
    """

    def __init__(
        self, packed: Packed, device: str, tune: bool, interpolate: bool, keep_sizes: int
    ) -> None:
        super().__init__(
            packed,
            interpolate,
            lambda other: type(self)(other, device, tune, interpolate, keep_sizes),
        )
        self.device = support.checked(device)
        self._binder = Binder(self.device, tune)
        self._programs: Recent[tuple[int, int], Program] = Recent(keep_sizes, self._is_packed)
        self._graphs: Recent[tuple[int, int, int], Graph] = Recent(
            keep_sizes, lambda key: self._is_packed(key[:2])
        )
        # By batch, the one used last at the end: what all sizes run in.
        self._memory: dict[int, Tensor] = {}
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"GpuSession({self.packed.describe()}, {self.device})"

    @overload
    def __call__(
        self, images: NDArray[Any], *, bits: Bits | None = None, width: float | None = None
    ) -> NDArray[np.float32]: ...
    @overload
    def __call__(
        self, images: Tensor, *, bits: Bits | None = None, width: float | None = None
    ) -> Tensor: ...
    def __call__(
        self, images: NDArray[Any] | Tensor, *, bits: Bits | None = None, width: float | None = None
    ) -> NDArray[np.float32] | Tensor:
        """Logits of a batch.

        Args:
            images: (N, 3, H, W): a numpy array of uint8 pixels or normalised float32, as for the
                CPU's Session, or a uint8 tensor on the session's device.
            bits, width: as for the CPU's Session.
        Returns:
            Logits as the CPU's Session gives, an array for an array, a tensor on the device for a
            tensor.
        Raises:
            TypeError, ValueError, ModelError: as the CPU's Session.
        """
        if (other := self._others.at(width, bits)) is not None:
            return other(images)
        if isinstance(images, Tensor):
            self._check_tensor(images)
            return self._run(images).clone()
        logits: NDArray[np.float32] = self._run(_tensor(self._pixels(images))).cpu().numpy().copy()
        return logits

    @overload
    def maps(
        self,
        images: NDArray[Any],
        size: Pair | None = None,
        *,
        bits: Bits | None = None,
        width: float | None = None,
    ) -> NDArray[np.float32]: ...
    @overload
    def maps(
        self,
        images: Tensor,
        size: Pair | None = None,
        *,
        bits: Bits | None = None,
        width: float | None = None,
    ) -> Tensor: ...
    def maps(
        self,
        images: NDArray[Any] | Tensor,
        size: Pair | None = None,
        *,
        bits: Bits | None = None,
        width: float | None = None,
    ) -> NDArray[np.float32] | Tensor:
        """Logits of each pixel, as the CPU's Session gives; computed on the device."""
        found = self._resized("maps", images, size, bits, width)
        return found if isinstance(images, Tensor) else np.array(found.cpu().numpy())

    @overload
    def masks(
        self,
        images: NDArray[Any],
        size: Pair | None = None,
        *,
        bits: Bits | None = None,
        width: float | None = None,
    ) -> NDArray[Any]: ...
    @overload
    def masks(
        self,
        images: Tensor,
        size: Pair | None = None,
        *,
        bits: Bits | None = None,
        width: float | None = None,
    ) -> Tensor: ...
    def masks(
        self,
        images: NDArray[Any] | Tensor,
        size: Pair | None = None,
        *,
        bits: Bits | None = None,
        width: float | None = None,
    ) -> NDArray[Any] | Tensor:
        """The likeliest class of each pixel, as the CPU's Session gives; computed on the device.

        A tensor for a tensor: uint8, or int32 of more than 256 classes.
        """
        logits = self._resized("masks", images, size, bits, width)
        found = logits.argmax(1).to(torch.uint8 if logits.shape[1] <= 256 else torch.int32)
        if isinstance(images, Tensor):
            return found
        array = found.cpu().numpy()
        return np.array(array if array.dtype == np.uint8 else array.astype(np.uint16))

    def _resized(
        self,
        what: str,
        images: NDArray[Any] | Tensor,
        size: Pair | None,
        bits: Bits | None,
        width: float | None,
    ) -> Tensor:
        check_maps(self.gives_maps, what)
        if (other := self._others.at(width, bits)) is not None:
            return other._resized(what, images, size, None, None)
        if isinstance(images, Tensor):
            self._check_tensor(images)
        pixels = images if isinstance(images, Tensor) else _tensor(self._pixels(images))
        wanted = wanted_size(size, images)
        return functional.interpolate(self._run(pixels), wanted, mode="bilinear")

    def graph(self, size: int, batch: int) -> Graph:
        """The network at a square size, ready to replay."""
        return self._at(size, size, batch)

    def program(self, size: int) -> Program:
        """The folded network at a square size."""
        return self._program(size, size)

    def _run(self, pixels: Tensor) -> Tensor:
        with self._lock, support.current(self.device):
            graph = self._at(pixels.shape[2], pixels.shape[3], len(pixels))
            graph.images.copy_(pixels)
            graph.replay()
            return graph.logits

    def _check_tensor(self, images: Tensor) -> None:
        if images.device != self.device or images.dtype != torch.uint8:
            raise TypeError(
                f"images: a tensor must be uint8 on {self.device}, got {images.dtype} on "
                f"{images.device}"
            )
        if images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise ValueError(
                f"images: must have shape (N, 3, height, width), got {tuple(images.shape)}"
            )

    def _program(self, height: int, width: int) -> Program:
        found = self._programs.get((height, width))
        if found is None:
            found = program_at(self.packed, height, width, self.interpolate)
            self._programs.put((height, width), found)
        return found

    def _at(self, height: int, width: int, batch: int) -> Graph:
        with self._lock, support.current(self.device):
            found = self._graphs.get((height, width, batch))
            if found is None:
                found = self._make(height, width, batch)
                self._graphs.put((height, width, batch), found)
            self._forget_batches(batch)
            return found

    def _forget_batches(self, used: int) -> None:
        """Note the batch used last; give back what belongs to the one unused for longest."""
        self._memory[used] = self._memory.pop(used)
        while len(self._memory) > KEEP_BATCHES:
            del self._memory[next(iter(self._memory))]
        self._graphs.drop(lambda key: key[2] not in self._memory)

    def _make(self, height: int, width: int, batch: int) -> Graph:
        program = self._program(height, width)
        plan = memory.plan(program, batch)
        room = self._memory.get(batch)
        if room is None or room.numel() < plan.words:
            # Room for the largest size at once: all sizes then use the same memory.
            largest = memory.plan(self.program(self.resolutions[0]), batch)
            words = max(plan.words, largest.words)
            room = torch.empty(words, dtype=torch.int32, device=self.device)
            self._memory[batch] = room
        images = torch.zeros(batch, 3, height, width, dtype=torch.uint8, device=self.device)
        values = plan.views(room)
        launches = self._binder.launches(program, images, values)
        logits = values[program.logits].permute(0, 3, 1, 2)
        if not program.gives_maps:
            logits = logits[:, :, 0, 0]
        replay = _record(launches, self.device)
        return Graph(program, batch, images, logits, values, replay, 4 * plan.words, launches)


def _tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """torch warns of memory that must not be written, of a packed file's for one."""
    return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())


def _record(launches: tuple[Launch, ...], device: torch.device) -> Callable[[], None]:
    """All launches as one CUDA graph; on the interpreter's CPU, one after the other."""

    def run() -> None:
        for launch in launches:
            launch.run()

    if device.type != "cuda":
        return run
    run()  # what is compiled when it first runs cannot be while it is recorded
    torch.cuda.synchronize(device)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        run()
    replay: Callable[[], None] = recorded.replay
    return replay
