"""A map of another height and width, of its nearest pixels or blended between four."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rsquant.kernels import reference
from rsquant.packed.fields import FieldError, Fields, Pair
from rsquant.packed.ops.base import GpuCall, OpSpec, Step, Values
from rsquant.packed.plan import BYTE_MAPS, LAST_VALUE, MAX_SIDE
from rsquant.packed.resampling import Taps, in_parts, linear, nearest, scaled_side

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.check import Checker
    from rsquant.packed.program import Program

MODES = ("nearest", "nearest-exact", "bilinear")


@dataclass(frozen=True)
class ResizeSpec(OpSpec):
    """A float value of another size, as torch.nn.functional.interpolate gives it; or bytes.

    Bytes keep their scale and zero point; weights are whole parts of 128 (`resampling.in_parts`),
    and what they give is rounded to a byte, halves to even.

    Attributes:
        mode: one of MODES. align_corners: of bilinear.
        size: height and width of the result; or
        like: the number of a value whose they are; or
        scale: factors, floor(side * factor), which also say where pixels lie, unless `recompute`.
    """

    OP = "resize"
    SINCE = 4
    TORCH = (
        "torch.nn.Upsample",
        "torch.nn.UpsamplingNearest2d",
        "torch.nn.UpsamplingBilinear2d",
        "torch.nn.functional.interpolate",
        "torch.nn.functional.upsample",
        "torch.nn.functional.upsample_nearest",
        "torch.nn.functional.upsample_bilinear",
    )

    name: str
    input: int
    output: int
    mode: str
    align_corners: bool
    size: Pair | None
    like: int | None
    scale: tuple[float, float] | None
    recompute: bool

    @classmethod
    def read(cls, fields: Fields, name: str) -> ResizeSpec:
        mode = fields.text("mode")
        if mode not in MODES:
            raise FieldError(f"{fields.where}: 'mode' must be one of {', '.join(MODES)}")
        size = None if fields.is_null("size") else fields.pair("size", 1, MAX_SIDE)
        like = fields.integer_or_none("like", 0, LAST_VALUE)
        scale = None
        if not fields.is_null("scale"):
            height, width = fields.reals("scale", 2, 2, positive=True)
            scale = height, width
        if [size, like, scale].count(None) != 2:
            raise FieldError(f"{fields.where}: has not one of 'size', 'like' and 'scale'")
        return cls(
            name=name,
            input=fields.integer("input", 1, LAST_VALUE),
            output=fields.integer("output", 1, LAST_VALUE),
            mode=mode,
            align_corners=fields.flag("align_corners"),
            size=size,
            like=like,
            scale=scale,
            recompute=fields.flag("recompute"),
        )

    @classmethod
    def trace(cls, call: Any) -> Any:
        x = call.input()
        mode, aligned = _mode(call)
        if call.argument(6, "antialias", False):
            call.refuse("resizes with antialias", "resize without")
        given = call.size(1, "size")
        factor = call.argument(2, "scale_factor", None)
        inputs: tuple[Any, ...] = (x,)
        size, scale = None, None
        recompute = bool(call.argument(5, "recompute_scale_factor", False))
        if given is not None:
            size, like, scale = _target(call, x, given)
            inputs = (x,) if like is None else (x, like)
            recompute = True
        elif factor is not None:
            scale = tuple(factor) if isinstance(factor, (list, tuple)) else (factor, factor)
            if len(scale) != 2 or not all(type(s) in (int, float) and s > 0 for s in scale):
                call.refuse(f"resizes by {factor}", "use fixed positive factors")
            scale = float(scale[0]), float(scale[1])
        else:
            call.refuse("has neither size nor scale_factor")
        pixels = None
        if not call.sized:
            pixels = size if len(inputs) == 1 else inputs[1].pixels
            if scale is not None and x.pixels is not None:
                pixels = scaled_side(x.pixels[0], scale[0]), scaled_side(x.pixels[1], scale[1])
        fields = {"mode": mode, "align_corners": aligned, "size": size, "scale": scale}
        return call.op(cls.OP, inputs, pixels=pixels, **fields, recompute=recompute)

    @classmethod
    def lower(cls, op: Any, to: Any) -> ResizeSpec:
        x, *others = op.inputs
        like = to.any_value(others[0], op.name) if others else None
        value = to.float_of(x, op.name)
        return cls(
            name=to.name(op.name), input=value, output=to.write_float(op), like=like, **op.fields
        )

    @classmethod
    def reads_size(cls, op: Any, source: Any) -> bool:
        return source is not op.inputs[0]

    def check(self, checker: Checker) -> None:
        if self.like is not None:
            checker.read(self.like)
        source = checker.read_map(self.input, bytes_too=True)
        if source.kind == "codes":
            raise checker.wrong(f"needs a float value or bytes, {self.input} is codes")
        if source.kind == "bytes":
            checker.since(BYTE_MAPS, "resizes bytes, which is known")
        checker.write(self.output, source)

    def build(self, builder: Builder) -> ResizeStep:
        source = builder.values[self.input]
        sides = source.height, source.width
        scales: tuple[float | None, float | None] = (None, None)
        if self.like is not None:
            other = builder.values[self.like]
            out = other.height, other.width
        elif self.size is not None:
            out = self.size
        else:
            assert self.scale is not None
            out = scaled_side(sides[0], self.scale[0]), scaled_side(sides[1], self.scale[1])
            if min(out) < 1:
                raise builder.too_small()
            if max(out) > MAX_SIDE:
                raise builder.invalid(f"gives a map of {out[0]}x{out[1]} pixels")
            if not self.recompute:
                scales = self.scale
        rows, columns = (self._taps(sides[i], out[i], scales[i]) for i in range(2))
        builder.write(out, builder.bounds[self.input], builder.ranges[self.input])
        blend = self.mode == "bilinear"
        if blend and source.kind == "bytes":
            rows, columns = in_parts(rows), in_parts(columns)
        return ResizeStep(self.name, self.input, self.output, *rows, *columns, blend)

    def _taps(self, side: int, out: int, scale: float | None) -> Taps:
        if self.mode == "bilinear":
            return linear(side, out, scale, self.align_corners)
        return nearest(side, out, scale, exact=self.mode == "nearest-exact")


def _mode(call: Any) -> tuple[str, bool]:
    """How a call of torch resizes: its mode, and align_corners."""
    aligned_by_name = {"UpsamplingBilinear2d": "bilinear", "upsample_bilinear": "bilinear"}
    if call.what in aligned_by_name:
        return "bilinear", True
    if call.what == "upsample_nearest":
        return "nearest", False
    mode = call.argument(3, "mode", "nearest")
    if mode not in MODES:
        call.refuse(f"resizes in mode '{mode}'", f"use one of {', '.join(MODES)}")
    return mode, mode == "bilinear" and bool(call.argument(4, "align_corners", False))


def _target(call: Any, x: Any, given: Any) -> tuple[Pair | None, Any, tuple[float, float] | None]:
    """Numbers of pixels; or the value whose size it is; or multiples of the input's own size."""
    sides = tuple(given) if isinstance(given, (list, tuple)) else (given, given)
    if len(sides) == 1:
        sides = sides * 2
    if len(sides) == 2:
        height, width = sides
        if type(height) is int and type(width) is int:
            if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
                call.refuse(f"resizes to {height}x{width} pixels")
            return (height, width), None, None
        found = [getattr(side, "axis", None) for side in sides]
        if found == [2, 3] and height.op is width.op:
            if height.factor == width.factor == 1:
                return None, height.op, None
            if height.op is x:
                return None, None, (float(height.factor), float(width.factor))
    call.refuse(
        f"resizes to {given}",
        "resize to fixed numbers of pixels, to the size of another value (y.shape[-2:]), or by "
        "scale_factor",
    )
    raise AssertionError


@dataclass(frozen=True)
class ResizeStep(Step):
    """Each pixel of two rows and two columns; see `kernels.reference.blend`. Floats or bytes.

    Attributes:
        rows, columns: (OH, 2), (OW, 2) int32. row_weights, column_weights: the same, float32.
        blend: without it a pixel is that of the first row and column alone.
    """

    name: str
    input: int
    output: int
    rows: np.ndarray[Any, np.dtype[np.int32]]
    row_weights: np.ndarray[Any, np.dtype[np.float32]]
    columns: np.ndarray[Any, np.dtype[np.int32]]
    column_weights: np.ndarray[Any, np.dtype[np.float32]]
    blend: bool

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.input,)

    @property
    def writes(self) -> tuple[int, ...]:
        return (self.output,)

    def run(self, program: Program, values: Values) -> None:
        x = values[self.input]
        if self.blend:
            rows, columns = (self.rows, self.row_weights), (self.columns, self.column_weights)
            values.append(reference.blend(x, *rows, *columns))
        else:
            values.append(x[:, self.rows[:, 0]][:, :, self.columns[:, 0]])

    def bind_cpu(self, to: Any) -> None:
        to.program.resize(
            input=self.input,
            output=self.output,
            rows=self.rows,
            row_weights=self.row_weights,
            columns=self.columns,
            column_weights=self.column_weights,
            blend=self.blend,
        )

    def bind_gpu(self, to: Any) -> GpuCall:
        from rsquant.kernels.gpu.resize import resize

        x, out = to.values[self.input], to.values[self.output]
        rows, row_weights = to.put(self.rows), to.put(self.row_weights)
        columns, column_weights = to.put(self.columns), to.put(self.column_weights)
        tables = rows, row_weights, columns, column_weights
        return GpuCall(
            lambda: resize(x, out, rows, row_weights, columns, column_weights, self.blend),
            sum(table.nbytes for table in tables),
        )
