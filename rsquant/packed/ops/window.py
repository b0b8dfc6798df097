"""Windows that slide over a map: of convolutions and poolings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rsquant.packed.fields import FieldError, Fields, Pair
from rsquant.packed.plan import ANY_PADDING, MAX_KERNEL
from rsquant.padding import RULES, Padding, Pads, all_sides, is_pair, output_side, pads_at

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


def read_window(call: Any) -> tuple[Pair, Pair]:
    """Kernel and stride of a pooling that torch calls; the stride is the kernel's where none is."""
    kernel = pair(call.argument(1, "kernel_size"))
    stride = call.argument(2, "stride")
    return kernel, kernel if stride in (None, [], ()) else pair(stride)


def pair(value: Any) -> Pair:
    """Height and width of an argument of torch, which is one number where they are equal."""
    if isinstance(value, int):
        return value, value
    if len(value) == 1:
        return value[0], value[0]
    height, width = value
    return height, width


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
