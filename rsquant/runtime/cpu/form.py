"""The convolutions of a program, and which compiled kernels can compute them."""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache
from typing import Any

from rsquant.kernels.backends import native
from rsquant.packed.ops.conv import ConvForm, ConvStep
from rsquant.packed.program import Program


def convolutions(program: Program) -> dict[int, ConvStep]:
    """By the number of the step."""
    return {n: step for n, step in enumerate(program.steps) if isinstance(step, ConvStep)}


# A network asks for each of its forms several times, at every size.
@lru_cache(4096)
def native_form(form: ConvForm) -> Any:
    """What decides which kernels can compute a convolution, as C++ takes it."""
    return native().ConvForm(**{field.name: getattr(form, field.name) for field in fields(form)})


def pixel_bytes(form: ConvForm) -> int:
    """Of a pixel of the input: its channels, and as many as make them a multiple of 4."""
    return -(-form.in_channels // 4) * 4


@lru_cache(4096)
def has_small_layout(isa: str, kernel: str, form: ConvForm) -> bool:
    """Whether low memory keeps a kernel's layout of a convolution's weights, too."""
    return bool(native().has_small_layout(isa, kernel, native_form(form), pixel_bytes(form)))


@lru_cache(4096)
def eligible_kernels(isa: str, form: ConvForm) -> tuple[str, ...]:
    """The kernels that compute a convolution exactly, the one to use untimed first."""
    return tuple(native().conv_kernels(isa, native_form(form)))
