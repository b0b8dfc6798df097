"""The specification of a program: every step in plain numpy, slowly.

A compiled kernel is right when each of its values equals the one computed here, bit for bit.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from rsquant.kernels import reference
from rsquant.runtime.program import (
    AvgPoolStep,
    ConvStep,
    Epilogue,
    LinearStep,
    MapStep,
    MaxPoolStep,
    Program,
    Value,
)

Values = list[NDArray[Any]]


@overload
def run(program: Program, images: NDArray[np.uint8]) -> NDArray[np.float32]: ...
@overload
def run(
    program: Program, images: NDArray[np.uint8], every: Literal[True]
) -> tuple[NDArray[np.float32], Values]: ...


def run(
    program: Program, images: NDArray[np.uint8], every: bool = False
) -> NDArray[np.float32] | tuple[NDArray[np.float32], Values]:
    """Run a program.

    Args:
        images: (N, 3, height, width) uint8, of the program's size.
        every: return all values too.
    Returns:
        logits (N, classes) float32; with `every` also the values by number, each
        (N, height, width, channels), uint8 for the image and codes, float32 for floats.
    Raises:
        ValueError: images of another type or shape.
    """
    size = (3, program.height, program.width)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != size:
        raise ValueError(
            f"run: images must be uint8 (N, 3, {program.height}, {program.width}), "
            f"got {images.dtype} {images.shape}"
        )
    # Pixels, and a fourth channel that is 255 inside the image.
    image = np.full((len(images), *size[1:], 4), 255, np.uint8)
    image[..., :3] = images.transpose(0, 2, 3, 1)
    values: Values = [image]
    for step in program.steps:
        x = values[step.input]
        if isinstance(step, ConvStep):
            acc = accumulators(step, x, program.values[step.input])
            _epilogue(step.epilogue, acc, values)
        elif isinstance(step, MapStep):
            _epilogue(step.epilogue, x, values)
        elif isinstance(step, MaxPoolStep):
            values.append(reference.max_pool(x, step.kernel, step.stride, step.padding))
        elif isinstance(step, AvgPoolStep):
            values.append(reference.average_pool(x, step.scale, step.shift, step.relu, step.clip))
        else:
            values.append(_linear(step, x))
    logits = values[program.logits][:, 0, 0]
    return (logits, values) if every else logits


def weights(step: ConvStep) -> NDArray[np.int64]:
    """Weight levels of a convolution, (O, kh, kw, C / groups)."""
    if step.image_weight is not None:
        return step.image_weight.astype(np.int64)
    if step.planes is None or step.basis is None or step.offset is None:
        raise ValueError(
            f"{step.name}: a convolution needs image_weight, or planes, basis and offset"
        )
    shape = (step.out_channels, *step.kernel, step.in_channels // step.groups)
    taps = shape[1] * shape[2] * shape[3]
    return reference.weight_levels(step.planes, step.basis, step.offset, taps).reshape(shape)


def accumulators(step: ConvStep, x: NDArray[Any], source: Value) -> NDArray[np.int32]:
    """(N, OH, OW, O) int32, the correction subtracted."""
    if step.inverse_step is not None:
        x = reference.fixed_point(x, step.inverse_step, step.input_limit)
    raw = reference.conv_accumulators(
        x, weights(step), step.stride, step.padding, step.dilation, step.groups, source.fill
    )
    return raw - step.correction


def _epilogue(epilogue: Epilogue, x: NDArray[Any], values: Values) -> None:
    """Append the values an epilogue writes."""
    v = reference.affine(x, epilogue.scale, epilogue.shift)
    if epilogue.add is not None:
        v = v + values[epilogue.add]
    if epilogue.keep is not None:
        values.append(reference.clamp(v, epilogue.relu, epilogue.clip))
    if epilogue.codes is not None:
        compared = x if epilogue.integer else v
        values.append(
            reference.to_codes(compared, epilogue.thresholds, epilogue.sign, epilogue.levels)
        )


def _linear(step: LinearStep, x: NDArray[np.float32]) -> NDArray[np.float32]:
    logits = reference.linear(x[:, 0, 0], step.weight, step.scale, step.bias)
    return logits[:, None, None]
