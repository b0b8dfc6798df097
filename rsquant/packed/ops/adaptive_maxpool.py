"""The largest values of windows that cover a map, as many as the result has pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rsquant.packed.fields import Fields
from rsquant.packed.ops.base import OpSpec
from rsquant.packed.ops.maxpool import MaxPoolStep
from rsquant.packed.ops.window import (
    OutputSize,
    adaptive_pixels,
    is_whole_map,
    output_size,
    read_output_size,
)
from rsquant.packed.plan import LAST_VALUE
from rsquant.packed.windows import adaptive

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.check import Checker


@dataclass(frozen=True)
class AdaptiveMaxPoolSpec(OpSpec):
    """Largest values of windows; `size` is height and width of the result, None: the input's."""

    OP = "adaptive_maxpool"
    SINCE = 4
    TORCH = (
        "torch.nn.AdaptiveMaxPool2d",
        "torch.nn.functional.adaptive_max_pool2d",
        "torch.amax",
        ".amax",
    )

    name: str
    input: int
    output: int
    size: OutputSize

    @classmethod
    def read(cls, fields: Fields, name: str) -> AdaptiveMaxPoolSpec:
        return cls(
            name,
            fields.integer("input", 1, LAST_VALUE),
            fields.integer("output", 1, LAST_VALUE),
            read_output_size(fields),
        )

    @classmethod
    def trace(cls, call: Any) -> Any:
        source = call.input()
        size: OutputSize = (1, 1)
        if call.what != "amax":
            if call.argument(2, "return_indices", False):
                call.refuse("has return_indices", "use a pooling without")
            size = output_size(call)
        elif not is_whole_map(call.argument(1, "dim", ())):
            call.refuse("is not a maximum over whole maps", "use amax((2, 3))")
        return call.op(cls.OP, (source,), pixels=adaptive_pixels(source.pixels, size), size=size)

    def check(self, checker: Checker) -> None:
        checker.write(self.output, checker.read_float(self.input))

    def build(self, builder: Builder) -> MaxPoolStep:
        source = builder.values[self.input]
        height, width = self.size
        rows = adaptive(source.height, height or source.height)
        columns = adaptive(source.width, width or source.width)
        builder.write(
            (len(rows), len(columns)), builder.bounds[self.input], builder.ranges[self.input]
        )
        return MaxPoolStep(self.name, self.input, self.output, rows, columns)
