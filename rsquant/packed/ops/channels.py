"""Some channels of a map, in another order: splits, slices and shuffles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsquant.packed.fields import FieldError, Fields
from rsquant.packed.ops.base import GpuCall, OpSpec, Step, Values, ValueSpec
from rsquant.packed.ops.maxpool import MaxPoolSpec
from rsquant.packed.plan import LAST_VALUE, MAX_CHANNELS

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.check import Checker
    from rsquant.packed.program import Program


@dataclass(frozen=True)
class ChannelsSpec(OpSpec):
    """Channels `first` to `first + count` of a float value, shuffled in `groups`.

    With n = count / groups, channel i of the result is channel first + (i mod groups) n + i div
    groups: a table of groups x n channels, read by columns. With one group they keep their order.
    """

    OP = "channels"
    SINCE = 4
    TORCH = (
        "torch.chunk",
        "torch.split",
        "torch.functional.split",
        "torch.tensor_split",
        "torch.narrow",
        "torch.channel_shuffle",
        "torch.nn.functional.channel_shuffle",
        "torch.nn.ChannelShuffle",
        "operator.getitem",
        ".chunk",
        ".split",
        ".tensor_split",
        ".narrow",
    )

    name: str
    input: int
    output: int
    first: int
    count: int
    groups: int

    @classmethod
    def read(cls, fields: Fields, name: str) -> ChannelsSpec:
        step = cls(
            name=name,
            input=fields.integer("input", 1, LAST_VALUE),
            output=fields.integer("output", 1, LAST_VALUE),
            first=fields.integer("first", 0, MAX_CHANNELS - 1),
            count=fields.integer("count", 1, MAX_CHANNELS),
            groups=fields.integer("groups", 1, MAX_CHANNELS),
        )
        if step.count % step.groups:
            raise FieldError(
                f"{fields.where}: groups must divide the channels, got groups={step.groups}, "
                f"count={step.count}"
            )
        return step

    @classmethod
    def trace(cls, call: Any) -> Any:
        x = call.input()
        if call.what == "getitem":
            return _sliced(call, x)
        if call.what in ("channel_shuffle", "ChannelShuffle"):
            return cls.shuffled(call, x, call.argument(1, "groups"))
        if call.what == "narrow":
            dim, first, count = (
                call.argument(i, name) for i, name in ((1, "dim"), (2, "start"), (3, "length"))
            )
            if dim not in (1, -3) or type(first) is not int or type(count) is not int:
                call.refuse("narrows another dimension than channels", "use dim=1")
            return call.op(cls.OP, (x,), channels=count, first=first, count=count, groups=1)
        parts = call.argument(
            1, {"split": "split_size_or_sections", "chunk": "chunks"}.get(call.what, "sections")
        )
        if parts is None:  # as the method calls it
            parts = call.argument(1, "split_size")
        if call.argument(2, "dim", 0) not in (1, -3):
            call.refuse("splits along another dimension than channels", "use dim=1")
        counts = _counts(call.what, parts, x.channels)
        if sum(counts) != x.channels or min(counts, default=0) < 1:
            call.refuse(f"splits {x.channels} channels by {parts}", "use fixed numbers of channels")
        firsts = np.cumsum([0, *counts[:-1]]).tolist()
        return tuple(
            call.op(cls.OP, (x,), channels=n, part=i, pixels=x.pixels, first=f, count=n, groups=1)
            for i, (f, n) in enumerate(zip(firsts, counts, strict=True))
        )

    @classmethod
    def shuffled(cls, call: Any, x: Any, groups: Any) -> Any:
        """All channels of x, shuffled."""
        if type(groups) is not int or groups < 1 or x.channels % groups:
            call.refuse(f"shuffles {x.channels} channels in {groups} groups")
        return call.op(cls.OP, (x,), pixels=x.pixels, first=0, count=x.channels, groups=groups)

    def check(self, checker: Checker) -> None:
        source = checker.read_float(self.input)
        if self.first + self.count > source.channels:
            raise checker.wrong(
                f"takes channels {self.first} to {self.first + self.count} of {source.channels}"
            )
        checker.write(self.output, ValueSpec("float", self.count))

    def build(self, builder: Builder) -> ChannelsStep:
        source = builder.values[self.input]
        builder.write(
            (source.height, source.width), builder.bounds[self.input], builder.ranges[self.input]
        )
        order = np.arange(self.count, dtype=np.int32).reshape(self.groups, -1).T
        index = self.first + order.reshape(-1)
        return ChannelsStep(self.name, self.input, self.output, index.astype(np.int32))


@dataclass(frozen=True)
class ChannelsStep(Step):
    """Channel i of the result is channel index[i] of a float value; index (O,) int32."""

    name: str
    input: int
    output: int
    index: NDArray[np.int32]

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.input,)

    @property
    def writes(self) -> tuple[int, ...]:
        return (self.output,)

    def run(self, program: Program, values: Values) -> None:
        values.append(np.ascontiguousarray(values[self.input][..., self.index]))

    def bind_cpu(self, to: Any) -> None:
        to.program.channels(input=self.input, output=self.output, index=self.index)

    def bind_gpu(self, to: Any) -> GpuCall:
        from rsquant.kernels.gpu.channels import channels

        x, out = to.values[self.input], to.values[self.output]
        index = to.put(self.index)
        return GpuCall(lambda: channels(x, index, out), index.nbytes)


def _counts(what: str, parts: Any, channels: int) -> list[int]:
    """Channels of each part; none where they are no fixed numbers."""
    if isinstance(parts, (list, tuple)):
        if not all(type(n) is int for n in parts):
            return []
        if what == "tensor_split":  # where each part ends
            ends = [*parts, channels]
            return [end - start for start, end in zip([0, *parts], ends, strict=True)]
        return list(parts)
    if type(parts) is not int or parts < 1:
        return []
    if what == "tensor_split":
        return [channels // parts + (i < channels % parts) for i in range(parts)]
    size = -(-channels // parts) if what == "chunk" else parts
    return [min(size, channels - first) for first in range(0, channels, size)]


def _sliced(call: Any, x: Any) -> Any:
    """x[:, a:b]: the channels in part; or x[:, :, ::2, ::2]: every other pixel."""
    what = call.argument(1, "index")
    places = list(what) if isinstance(what, tuple) else [what]
    if Ellipsis in places:
        at = places.index(Ellipsis)
        places[at : at + 1] = [slice(None)] * (4 - len(places) + 1)
    places += [slice(None)] * (4 - len(places))
    plain = all(
        isinstance(place, slice)
        and all(part is None or type(part) is int for part in (place.start, place.stop, place.step))
        for place in places
    )
    if not plain or len(places) != 4:
        call.refuse(f"takes [{what}]", "take whole images or a range of channels, x[:, a:b]")
    batch, channels, *pixels = places
    whole = slice(None)
    if all(place == whole for place in places):
        return x
    if (batch, channels) == (whole, whole) and all(
        place.start in (None, 0) and place.stop is None and (place.step or 1) >= 1
        for place in pixels
    ):
        height, width = (place.step or 1 for place in pixels)
        return MaxPoolSpec.every_pixel(call, x, (height, width))
    if any(place != slice(None) for place in (batch, *pixels)):
        call.refuse("takes some of the images or pixels", "take a range of channels, x[:, a:b]")
    first, end, step = channels.indices(x.channels)
    if step != 1 or end <= first:
        call.refuse(f"takes channels {first} to {end} by {step}", "take a range of channels")
    count = end - first
    return call.op(
        ChannelsSpec.OP, (x,), channels=count, pixels=x.pixels, first=first, count=count, groups=1
    )
