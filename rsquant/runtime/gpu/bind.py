"""A program bound to the GPU's kernels: tables and weights on the device, a launch per step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsquant.kernels.gpu import epilogue, weights, words
from rsquant.kernels.gpu.conv import convolve
from rsquant.kernels.gpu.conv_tiles import Geometry
from rsquant.kernels.gpu.image import load_image
from rsquant.packed.ops.base import GpuCall, Step
from rsquant.packed.ops.conv import ConvStep
from rsquant.packed.ops.integer_epilogue import AnyEpilogue, ByteEpilogue
from rsquant.packed.program import Program
from rsquant.runtime.gpu.choice import TileChoice

Values = tuple[Tensor, ...]


@dataclass(frozen=True)
class Launch:
    """A step's kernel on its buffers.

    Attributes:
        step: None for the copy of the image.
        run: launches it on the current stream.
        last_value: highest number of a value it writes.
        bytes: what it reads and writes at least, each once.
        macs: multiply-adds.
        tile: how a convolution is cut up, for the user; "" otherwise.
    """

    step: Step | None
    run: Callable[[], None]
    last_value: int
    bytes: int
    macs: int = 0
    tile: str = ""


class Binder:
    """Holds what all sizes and batches share: the weights on the device."""

    def __init__(self, device: torch.device, tune: bool) -> None:
        self.device = device
        self._choice = TileChoice(device, tune)
        self._weights: dict[str, weights.Weights] = {}
        self._kept: dict[str, tuple[Tensor, ...]] = {}

    def launches(self, program: Program, images: Tensor, values: Values) -> tuple[Launch, ...]:
        """The program's steps on their buffers, the copy of the image first."""
        bound = Bound(self, program, values)

        def load() -> None:
            load_image(images, values[0])

        found = [Launch(None, load, 0, images.nbytes + values[0].nbytes)]
        for step in program.steps:
            call = step.bind_gpu(bound)
            # A sum in the place of what it adds to is read and written.
            moved = sum(values[value].nbytes for value in {*step.reads, *step.writes})
            found.append(
                Launch(step, call.run, max(step.writes), moved + call.bytes, call.macs, call.tile)
            )
        self._choice.save()
        return tuple(found)

    def weights_of(self, step: ConvStep, in_field: int, out_field: int) -> weights.Weights:
        """A convolution's weights, the same at every size."""
        found = self._weights.get(step.name)
        if found is None:
            found = self._weights[step.name] = weights.prepare(
                step.levels(),
                step.basis,
                step.offset,
                step.correction,
                step.groups,
                in_field,
                out_field,
                self.device,
            )
        return found

    def kept(self, name: str, *arrays: NDArray[Any]) -> tuple[Tensor, ...]:
        """Weights of a step on the device, the same at every size.

        Args:
            name: of the step.
        """
        if name not in self._kept:
            self._kept[name] = tuple(self.put(array) for array in arrays)
        return self._kept[name]

    def put(self, array: NDArray[Any]) -> Tensor:
        """A copy on the device."""
        return torch.from_numpy(np.array(array)).to(self.device)

    def tile(self, *args: Any) -> Any:
        """The tile for a convolution; see `choice`."""
        return self._choice.tile(*args)


class Bound:
    """What the steps of one program take from one set of buffers.

    Attributes:
        program: the program.
        values: its values on the device, by number.
    """

    def __init__(self, binder: Binder, program: Program, values: Values) -> None:
        self.binder, self.program, self.values = binder, program, values

    def basis(self, value: int) -> tuple[int, ...]:
        """What the bits of a value's codes are worth; empty where it is no codes."""
        return self.program.values[value].basis

    def put(self, array: NDArray[Any]) -> Tensor:
        """A copy on the device."""
        return self.binder.put(array)

    def kept(self, name: str, *arrays: NDArray[Any]) -> tuple[Tensor, ...]:
        """Weights of a step on the device; see `Binder.kept`."""
        return self.binder.kept(name, *arrays)

    def conv(self, step: ConvStep) -> GpuCall:
        """A convolution, cut up in the way that is fastest."""
        x, source = self.values[step.input], self.program.values[step.input]
        basis = source.basis
        in_field = words.field_bits(len(basis)) if basis else words.BYTE_FIELD
        if source.kind == "float":
            in_field = words.FLOAT_FIELD
        if source.kind == "bytes":
            x = x.view(torch.int32)
        tables = self.tables(step.epilogue)
        prepared = self.binder.weights_of(step, in_field, tables.field)
        add, keep, codes = self.targets(step.epilogue)
        out = keep if keep is not None else codes
        if out is None:
            raise ValueError(f"{step.name}: writes nothing")
        n, out_height, out_width = out.shape[:3]
        form = Geometry(
            n,
            source.height,
            source.width,
            step.in_channels,
            out_height,
            out_width,
            step.out_channels,
            step.kernel,
            step.stride,
            step.padding[:2],
            step.dilation,
        )
        outside = None
        if source.fill and any(step.padding):
            field = words.field_of_byte(basis)[source.fill] if basis else source.fill
            pixel = torch.full((step.in_channels,), field, device=x.device)
            outside = words.pack(pixel, in_field)

        def launch(tile: Any) -> None:
            convolve(
                form,
                x,
                prepared,
                tables,
                tile,
                basis,
                in_field,
                outside,
                add,
                keep,
                codes,
                step.inverse_step or 0.0,
                step.input_limit,
            )

        tile = self.binder.tile(form, prepared, tables, in_field, add is not None, launch)
        used = prepared.packed if tile.packed and prepared.packed is not None else prepared.levels
        taps = step.kernel[0] * step.kernel[1] * step.in_channels // step.groups
        macs = form.pixels * step.out_channels * taps
        return GpuCall(lambda: launch(tile), used.nbytes + tables.nbytes, macs, str(tile))

    def targets(self, e: AnyEpilogue) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The buffers added, kept and of codes."""
        add, keep, codes = (None if v is None else self.values[v] for v in (e.add, e.keep, e.codes))
        return add, keep, codes

    def tables(self, e: AnyEpilogue, correction: int = 0) -> epilogue.Tables:
        """An epilogue's numbers on the device.

        Args:
            correction: how much the integers that become bytes are too large.
        """
        if isinstance(e, ByteEpilogue):
            return epilogue.byte_tables(
                e.factor,
                e.bias - np.int32(correction),
                e.sign,
                e.thresholds,
                e.levels,
                e.low,
                e.high,
                e.add_zero,
                e.least,
                e.most,
                e.zero,
                self.binder.device,
            )
        return epilogue.tables(
            e.scale,
            e.shift,
            e.sign,
            e.thresholds,
            e.levels,
            e.relu,
            e.clip,
            e.integer,
            self.binder.device,
        )
