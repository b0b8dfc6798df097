"""A map with pixels of its own around it: reflected, repeated or from the other end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsquant.packed.fields import FieldError, Fields
from rsquant.packed.ops.base import OpSpec
from rsquant.packed.ops.resize import ResizeStep
from rsquant.packed.plan import LAST_VALUE, MAX_SIDE
from rsquant.padding import Pads

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.check import Checker

MODES = ("reflect", "replicate", "circular")
_MODULES = {
    "ReflectionPad2d": "reflect",
    "ReplicationPad2d": "replicate",
    "CircularPad2d": "circular",
}


@dataclass(frozen=True)
class ExtendSpec(OpSpec):
    """A float value with copies of its own pixels around it, as torch.nn.functional.pad gives it.

    Attributes:
        padding: pixels above, left, below and right.
        mode: one of MODES: which pixels, see `source`.
    """

    OP = "extend"
    SINCE = 4
    TORCH = tuple(f"torch.nn.{name}" for name in _MODULES)

    name: str
    input: int
    output: int
    padding: Pads
    mode: str

    @classmethod
    def read(cls, fields: Fields, name: str) -> ExtendSpec:
        mode = fields.text("mode")
        if mode not in MODES:
            raise FieldError(
                f"{fields.where}: 'mode' must be one of {', '.join(MODES)}, got {mode!r:.40}"
            )
        top, left, bottom, right = fields.integers("padding", 0, MAX_SIDE, 4, 4)
        return cls(
            name=name,
            input=fields.integer("input", 1, LAST_VALUE),
            output=fields.integer("output", 1, LAST_VALUE),
            padding=(top, left, bottom, right),
            mode=mode,
        )

    @classmethod
    def trace(cls, call: Any) -> Any:
        """Left, right, top and bottom, as torch has them."""
        mode = _MODULES.get(call.what) or call.argument(2, "mode", "constant")
        pads: Any = call.argument(1, "padding" if call.module is not None else "pad", None)
        plain = isinstance(pads, (list, tuple)) and all(type(p) is int for p in pads)
        if mode not in MODES or not plain or len(pads) != 4 or min(pads) < 0:
            call.refuse(
                f"pads {pads} with {mode} values",
                f"pad height and width by fixed numbers of pixels, with a constant or {MODES}",
            )
        left, right, top, bottom = pads
        return cls.around(call.op, call.input(), (top, left, bottom, right), mode)

    @classmethod
    def around(cls, make: Any, x: Any, padding: Pads, mode: str) -> Any:
        """The operation on x, of `Call.op` or `Call.step`."""
        pixels = None
        if x.pixels is not None:
            pixels = x.pixels[0] + padding[0] + padding[2], x.pixels[1] + padding[1] + padding[3]
        return make(cls.OP, (x,), pixels=pixels, padding=padding, mode=mode)

    def check(self, checker: Checker) -> None:
        checker.write(self.output, checker.read_float(self.input))

    def build(self, builder: Builder) -> ResizeStep:
        value = builder.values[self.input]
        sides = value.height, value.width
        top, left, bottom, right = self.padding
        for side, most in zip(sides, (max(top, bottom), max(left, right)), strict=True):
            if most > (side - 1 if self.mode == "reflect" else side) and self.mode != "replicate":
                raise builder.too_small()
        shape = sides[0] + top + bottom, sides[1] + left + right
        if max(shape) > MAX_SIDE:
            raise builder.invalid(f"gives a map of {shape[0]}x{shape[1]} pixels")
        rows = _taps(sides[0], top, bottom, self.mode)
        columns = _taps(sides[1], left, right, self.mode)
        weights = [np.array([[1, 0]] * len(taps), np.float32) for taps in (rows, columns)]
        builder.write(shape, builder.bounds[self.input], builder.ranges[self.input])
        return ResizeStep(
            self.name, self.input, self.output, rows, weights[0], columns, weights[1], blend=False
        )


def _taps(side: int, before: int, after: int, mode: str) -> NDArray[np.int32]:
    """(before + side + after, 2) int32: the pixel that each place of a side is a copy of, twice.

    reflect: -1 is 1, replicate: -1 is 0, circular: -1 is side - 1.
    """
    place = np.arange(-before, side + after)
    if mode == "circular":
        place = place % side
    elif mode == "replicate":
        place = np.clip(place, 0, side - 1)
    else:
        last = side - 1
        place = last - np.abs(last - np.abs(place))
    return np.stack([place, place], 1).astype(np.int32)
