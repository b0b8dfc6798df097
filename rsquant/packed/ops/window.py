"""Windows that slide over a map: of convolutions and poolings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rsquant.errors import PackError
from rsquant.packed.fields import FieldError, Fields, Pair
from rsquant.packed.plan import ANY_PADDING, MAX_KERNEL
from rsquant.packed.windows import Spans, inside, sliding
from rsquant.padding import (
    RULES,
    Padding,
    Pads,
    all_sides,
    extent_of,
    is_pair,
    output_side,
    pads_at,
)

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.check import Checker


def read_padding(fields: Fields) -> Padding:
    """Two or four numbers of pixels, or the name of a rule."""
    value = fields.take("padding")
    if isinstance(value, str):
        if value not in RULES:
            raise FieldError(
                f"{fields.where}: 'padding' must be pixels or one of {', '.join(RULES)}, "
                f"got {value!r:.40}"
            )
        return value
    pixels = Fields({"padding": value}, fields.where).integers(
        "padding", 0, MAX_KERNEL * MAX_KERNEL, 2, 4
    )
    if len(pixels) == 2:
        return pixels[0], pixels[1]
    if len(pixels) == 4:
        return pixels[0], pixels[1], pixels[2], pixels[3]
    raise FieldError(f"{fields.where}: 'padding' must be 2 or 4 numbers, got 3")


def read_pool_padding(fields: Fields, extent: Pair) -> Padding:
    """Of a pooling, whose windows span `extent` pixels: so little that each window has pixels."""
    padding = read_padding(fields)
    # Alike on both sides, it is torch's to allow; else every window must have pixels.
    most = extent if len(padding) == 4 else (extent[0] // 2 + 1, extent[1] // 2 + 1)
    if reaches(padding, most):
        raise FieldError(
            f"{fields.where}: padding must be at most half the kernel, or, where sides "
            "differ, smaller than the kernel"
        )
    return padding


def read_window(call: Any) -> tuple[Pair, Pair]:
    """Kernel and stride of a pooling that torch calls; the stride is the kernel's where none is."""
    kernel = pair(call.argument(1, "kernel_size"))
    stride = call.argument(2, "stride")
    return kernel, kernel if stride in (None, [], ()) else pair(stride)


# Of the result of an adaptive pooling: an average has a table of all its pixels.
MAX_POOLED = 4096
# Height and width of a result; None: that of the input.
OutputSize = tuple[int | None, int | None]


def read_output_size(fields: Fields) -> OutputSize:
    """Of an adaptive pooling."""
    height, width = (
        None
        if side is None
        else Fields({"size": side}, fields.where).integer("size", 1, MAX_POOLED)
        for side in fields.items("size", 2, 2)
    )
    return height, width


def output_size(call: Any) -> OutputSize:
    """What an adaptive pooling of torch gives."""
    size = call.argument(1, "output_size", None)
    sides = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    if len(sides) == 1:
        sides = sides * 2
    known = all(s is None or (type(s) is int and 1 <= s <= MAX_POOLED) for s in sides)
    if len(sides) != 2 or not known:
        call.refuse(f"pools to {size} pixels", "use fixed numbers of pixels")
    return sides


def adaptive_pixels(pixels: Pair | None, size: OutputSize) -> Pair | None:
    """Height and width of an adaptive pooling's result, where they are the same at every size."""
    height, width = (
        side if side is not None else pixels[i] if pixels else None for i, side in enumerate(size)
    )
    return None if height is None or width is None else (height, width)


def is_whole_map(dims: Any) -> bool:
    """Whether dimensions of a torch reduction are height and width."""
    return (
        isinstance(dims, (list, tuple))
        and all(type(d) is int and -4 <= d < 4 for d in dims)
        and sorted(d % 4 for d in dims) == [2, 3]
    )


def is_size_of(size: Any, x: Any) -> bool:
    """Whether an argument, of `Call.size`, is height and width of a value: x.shape[2:]."""
    if not isinstance(size, (list, tuple)) or len(size) != 2:
        return False
    return all(
        (getattr(side, "op", None), getattr(side, "axis", None)) == (x, axis) and side.factor == 1
        for side, axis in zip(size, (2, 3), strict=True)
    )


def pair(value: Any) -> Pair:
    """Height and width of an argument of torch, which is one number where they are equal."""
    if isinstance(value, int):
        return value, value
    if len(value) == 1:
        return value[0], value[0]
    height, width = value
    return height, width


def takes_zeros(fields: dict[str, Any], zeros: Pads | str) -> bool:
    """Whether a pooling has the same windows where it pads by itself what is padded before it.

    ceil_mode counts from the end of the map, which then is another; windows of a rule fit.

    Args:
        fields: of a traced pooling.
        zeros: pixels above, left, below and right, or a rule of `padding`.
    """
    return isinstance(zeros, str) or fields["stride"] == (1, 1) or not fields["ceil_mode"]


def check_half(name: str, fields: dict[str, Any]) -> None:
    """Raise PackError for a pooling that pads more than half its kernel, as torch does."""
    if any(2 * p > k for p, k in zip(fields["padding"], fields["kernel"], strict=True)):
        raise PackError(f"{name}: pads more than half its kernel; use a smaller padding")


def pooled_pixels(pixels: Pair | None, fields: dict[str, Any]) -> Pair | None:
    """Height and width of a pooling's result, where those of its input are known.

    Args:
        fields: kernel, stride, padding (of torch: a pair) and ceil_mode; dilation or none.
    """
    if pixels is None:
        return None
    dilation = fields.get("dilation", (1, 1))
    height, width = (
        len(
            sliding(
                pixels[i],
                fields["padding"][i],
                fields["padding"][i],
                fields["kernel"][i],
                fields["stride"][i],
                dilation[i],
                fields["ceil_mode"],
            )
        )
        for i in range(2)
    )
    return (height, width) if height and width else None


def reaches(padding: Padding, most: Pair) -> bool:
    """Whether a side is padded by `most` pixels of height or width, or more."""
    if isinstance(padding, str):
        return False
    return any(p >= m for p, m in zip(all_sides(padding), (*most, *most), strict=True))


def version_for(padding: Padding, otherwise: int) -> int:
    """The oldest version of the format that has this padding."""
    return otherwise if is_pair(padding) else ANY_PADDING


def check_padding(checker: Checker, padding: Padding) -> None:
    """A padding that the file's version has."""
    version = checker.plan.format_version
    if version < ANY_PADDING and not is_pair(padding):
        raise checker.wrong(
            f"'padding' must be a pair before version {ANY_PADDING} of the format, and the "
            f"file has version {version}"
        )


def pooled(
    builder: Builder,
    shape: Pair,
    padding: Padding,
    kernel: Pair,
    stride: Pair,
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
) -> tuple[Spans, Spans]:
    """Windows of the rows and of the columns of a pooling, with what lies outside of the map.

    Raises:
        ModelError: there is none, or one has no pixel of the map.
    """
    pads = pads_at(padding, shape, extent_of(kernel, dilation), stride)
    rows, columns = (
        sliding(shape[i], pads[i], pads[2 + i], kernel[i], stride[i], dilation[i], ceil_mode)
        for i in range(2)
    )
    for spans, side, apart in zip((rows, columns), shape, dilation, strict=True):
        cut = inside(spans, side, apart)
        if not len(cut) or (cut[:, 0] >= cut[:, 1]).any():
            raise builder.too_small()
    return rows, columns


def window(
    builder: Builder, shape: Pair, padding: Padding, extent: Pair, stride: Pair
) -> tuple[Pair, Pads]:
    """The output's height and width, and what the input is padded with.

    Args:
        extent: pixels that a window spans.
    Raises:
        ModelError: no window fits.
    """
    pads = pads_at(padding, shape, extent, stride)
    height, width = (
        output_side(shape[i], pads[i], pads[2 + i], extent[i], stride[i]) for i in range(2)
    )
    if height < 1 or width < 1:
        raise builder.too_small()
    return (height, width), pads
