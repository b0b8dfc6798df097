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
from rsquant.kernels.gpu.conv import Geometry, convolve
from rsquant.kernels.gpu.elementwise import elementwise
from rsquant.kernels.gpu.image import load_image
from rsquant.kernels.gpu.linear import linear
from rsquant.kernels.gpu.pool import average_pool, max_pool
from rsquant.runtime.gpu import memory
from rsquant.runtime.gpu.tiles import Choices
from rsquant.runtime.program import (
    AvgPoolStep,
    ConvStep,
    Epilogue,
    LinearStep,
    MapStep,
    MaxPoolStep,
    Program,
    Step,
)
from rsquant.runtime.reference import weights as weight_levels

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
        self._choices = Choices(device, tune)
        self._weights: dict[str, weights.Weights] = {}
        self._classifiers: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def launches(self, program: Program, images: Tensor, values: Values) -> tuple[Launch, ...]:
        """The program's steps on their buffers, the copy of the image first."""
        bound = _Bound(self, program, values)

        def load() -> None:
            load_image(images, values[0])

        found = [Launch(None, load, 0, images.nbytes + values[0].nbytes)]
        for step in program.steps:
            run, extra, macs, tile = bound.step(step)
            touched = {*memory.read(step), *memory.written(step)}
            moved = sum(values[value].nbytes for value in touched)
            # A sum in the place of what it adds to is read and written.
            last = max(memory.written(step))
            found.append(Launch(step, run, last, moved + extra, macs, tile))
        self._choices.save()
        return tuple(found)

    def as_bytes(self, program: Program, number: int, stored: Tensor) -> NDArray[Any]:
        """A value as the specification has it, (N, H, W, C): bytes of codes, or floats."""
        value = program.values[number]
        array = stored.cpu()
        if value.kind == "image":
            return words.unpack(array, 4, 8).numpy()
        if value.kind == "float":
            floats: NDArray[np.float32] = array.numpy().copy()
            return floats
        basis = bases(program)[number]
        fields = words.unpack(array, value.channels, words.field_bits(len(basis))).numpy()
        bytes_ = sum(q * (fields >> k & 1) for k, q in enumerate(basis))
        return np.asarray(bytes_, np.uint8)

    def weights_of(self, step: ConvStep, in_field: int, out_field: int) -> weights.Weights:
        """A convolution's weights, the same at every size."""
        found = self._weights.get(step.name)
        if found is None:
            found = self._weights[step.name] = weights.prepare(
                weight_levels(step),
                step.basis,
                step.offset,
                step.correction,
                step.groups,
                in_field,
                out_field,
                self.device,
            )
        return found

    def classifier_of(self, step: LinearStep) -> tuple[Tensor, Tensor, Tensor]:
        """weight, scale and bias on the device."""
        found = self._classifiers.get(step.name)
        if found is None:
            parts = (step.weight, step.scale, step.bias)
            weight, scale, bias = (torch.from_numpy(np.array(p)).to(self.device) for p in parts)
            found = self._classifiers[step.name] = weight, scale, bias
        return found

    def tile(self, *args: Any) -> Any:
        """The tile for a convolution; see `tiles`."""
        return self._choices.tile(*args)


def bases(program: Program) -> dict[int, tuple[int, ...]]:
    """What the bits of each value's codes are worth, by number."""
    found: dict[int, tuple[int, ...]] = {}
    for step in program.steps:
        if isinstance(step, (ConvStep, MapStep)):
            if step.epilogue.codes is not None:
                levels = step.epilogue.levels
                bits = len(levels).bit_length() - 1
                found[step.epilogue.codes] = epilogue.basis_of_levels(levels, bits)
        elif isinstance(step, MaxPoolStep) and step.input in found:
            found[step.output] = found[step.input]
    return found


# What runs a step, bytes of its weights and tables, its multiply-adds, its tile.
_Bind = tuple[Callable[[], None], int, int, str]


class _Bound:
    """Binds the steps of one program to one set of buffers."""

    def __init__(self, binder: Binder, program: Program, values: Values) -> None:
        self.binder, self.program, self.values = binder, program, values
        self.bases = bases(program)

    def step(self, step: Step) -> _Bind:
        if isinstance(step, ConvStep):
            return self.conv(step)
        if isinstance(step, MapStep):
            return self.map(step)
        if isinstance(step, MaxPoolStep):
            return self.max_pool(step)
        if isinstance(step, AvgPoolStep):
            return self.average_pool(step)
        return self.linear(step)

    def conv(self, step: ConvStep) -> _Bind:
        x, source = self.values[step.input], self.program.values[step.input]
        basis = self.bases.get(step.input, ())
        in_field = words.field_bits(len(basis)) if basis else words.IMAGE_FIELD
        if source.kind == "float":
            in_field = words.FLOAT_FIELD
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
            field = words.field_of_byte(basis)[source.fill]
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
        return lambda: launch(tile), used.nbytes + _bytes(tables), macs, str(tile)

    def map(self, step: MapStep) -> _Bind:
        x, basis = self.values[step.input], self.bases.get(step.input, ())
        tables = self.tables(step.epilogue)
        add, keep, codes = self.targets(step.epilogue)

        def run() -> None:
            elementwise(x, step.channels, tables, basis, add, keep, codes)

        return run, _bytes(tables), 0, ""

    def max_pool(self, step: MaxPoolStep) -> _Bind:
        x, out = self.values[step.input], self.values[step.output]
        basis = self.bases.get(step.input, ())

        def run() -> None:
            max_pool(x, out, step.kernel, step.stride, step.padding[:2], basis)

        return run, 0, 0, ""

    def average_pool(self, step: AvgPoolStep) -> _Bind:
        x, out = self.values[step.input], self.values[step.output]
        scale, shift = (torch.from_numpy(a).to(x.device) for a in (step.scale, step.shift))
        low = 0.0 if step.relu else float("-inf")

        def run() -> None:
            average_pool(x, scale, shift, low, step.clip, out)

        return run, scale.nbytes + shift.nbytes, 0, ""

    def linear(self, step: LinearStep) -> _Bind:
        x, out = self.values[step.input][:, 0, 0], self.values[step.output][:, 0, 0]
        weight, scale, bias = self.binder.classifier_of(step)

        def run() -> None:
            linear(x, weight, scale, bias, out)

        macs = len(x) * weight.numel()
        return run, weight.nbytes + scale.nbytes + bias.nbytes, macs, ""

    def targets(self, e: Epilogue) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The buffers added, kept and of codes."""
        add, keep, codes = (None if v is None else self.values[v] for v in (e.add, e.keep, e.codes))
        return add, keep, codes

    def tables(self, e: Epilogue) -> epilogue.Tables:
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


def _bytes(tables: epilogue.Tables) -> int:
    parts = (tables.scale, tables.shift, tables.sign, tables.thresholds)
    return sum(part.nbytes for part in parts)
