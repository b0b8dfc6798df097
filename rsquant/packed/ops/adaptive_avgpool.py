"""The means of windows that cover a map, as many as the result has pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rsquant.packed.fields import Fields, Pair
from rsquant.packed.ops.avgpool2d import AvgPool2dStep, averaged
from rsquant.packed.ops.base import OpSpec
from rsquant.packed.ops.window import (
    MAX_POOLED,
    OutputSize,
    adaptive_pixels,
    output_size,
    read_output_size,
)
from rsquant.packed.plan import LAST_VALUE
from rsquant.packed.windows import adaptive

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.check import Checker


@dataclass(frozen=True)
class AdaptiveAvgPoolSpec(OpSpec):
    """Means of windows; `size` is height and width of the result, None: that of the input.

    Attributes:
        least: height and width that the result has at least; None: 1.
    """

    OP = "adaptive_avgpool"
    SINCE = 4
    # What of torch becomes it, `avgpool` has: the mean of the whole map is that operation's.

    name: str
    input: int
    output: int
    size: OutputSize
    least: Pair | None = None

    def to_json(self) -> dict[str, Any]:
        fields = super().to_json()
        if self.least is None:
            del fields["least"]
        return fields

    @classmethod
    def read(cls, fields: Fields, name: str) -> AdaptiveAvgPoolSpec:
        return cls(
            name,
            fields.integer("input", 1, LAST_VALUE),
            fields.integer("output", 1, LAST_VALUE),
            read_output_size(fields),
            fields.pair("least", 1, MAX_POOLED) if fields.has("least") else None,
        )

    @classmethod
    def trace(cls, call: Any) -> Any:
        source, size = call.input(), output_size(call)
        return call.op(cls.OP, (source,), pixels=adaptive_pixels(source.pixels, size), size=size)

    def check(self, checker: Checker) -> None:
        checker.write(self.output, checker.read_float(self.input))

    def build(self, builder: Builder) -> AvgPool2dStep:
        source = builder.values[self.input]
        height, width = self.size
        least = self.least or (1, 1)
        rows = adaptive(source.height, max(height or source.height, least[0]))
        columns = adaptive(source.width, max(width or source.width, least[1]))
        pixels = np.outer(rows[:, 1] - rows[:, 0], columns[:, 1] - columns[:, 0])
        return averaged(builder, self, rows, columns, pixels.astype(np.int64))
