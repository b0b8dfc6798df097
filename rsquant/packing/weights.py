"""A trained layer to the tensors of a packed file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rsquant.errors import PackError
from rsquant.nn.padded import pads_of
from rsquant.nn.quantized import QuantConv2d, QuantLinear
from rsquant.packed.format import Tensors
from rsquant.packed.plan import IMAGE_CHANNELS, IMAGE_LIMIT, MAX_LEVEL, plane_bytes
from rsquant.packed.weight_levels import largest
from rsquant.padding import SAME, Padding, Pads, all_sides, extent_of, pair, plainest, with_zeros
from rsquant.quantizers import IntegerForm, WeightQuantizer

Pair = tuple[int, int]
Float64Array = NDArray[np.float64]

# Of the first convolution: two signed bytes, low + 256 high, which the GPU multiplies one by one.
_LARGEST = 127 * 256 + 127


@dataclass(frozen=True)
class Geometry:
    """A convolution's shape."""

    in_channels: int
    out_channels: int
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Padding = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


def geometry(name: str, layer: nn.Module, image: bool, zeros: Pads | str | None = None) -> Geometry:
    """The shape of a convolution, or of a linear layer as a 1x1 convolution.

    Args:
        image: it reads the image.
        zeros: what its input was padded with before, above, left, below and right, or the rule by
            which it was.
    Raises:
        PackError: something the runtime does not have.
    """
    if isinstance(layer, nn.Linear):
        return Geometry(layer.in_features, layer.out_features)
    assert isinstance(layer, nn.Conv2d)
    if image and (layer.in_channels != 3 or layer.groups != 1):
        raise PackError(
            f"{name}: reads the image with in_channels={layer.in_channels}, groups={layer.groups}; "
            "the first convolution must have 3 and 1"
        )
    kernel, dilation = pair(layer.kernel_size), pair(layer.dilation)
    extent = extent_of(kernel, dilation)
    padding = pads_of(layer)
    if padding is None and isinstance(layer.padding, str):
        padding = SAME if layer.padding == "same" else (0, 0)
    elif padding is None:
        padding = pair(layer.padding)
    if layer.padding_mode != "zeros":  # a step before it does (`extend`)
        padding = (0, 0)
    if isinstance(zeros, str):  # instead of its own, of which there is none
        padding, zeros = zeros, None
    padding = plainest(padding, extent, pair(layer.stride))
    if isinstance(padding, tuple):
        padding = with_zeros(padding, zeros)
        if any(p >= e for p, e in zip(all_sides(padding), (*extent, *extent), strict=True)):
            raise PackError(
                f"{name}: padding {padding} is as large as its kernel; use a smaller one"
            )
    elif zeros is not None:
        raise PackError(
            f"{name}: pads '{padding}' what was padded before; leave out one of the two"
        )
    return Geometry(
        layer.in_channels,
        layer.out_channels,
        kernel,
        pair(layer.stride),
        padding,
        dilation,
        layer.groups,
    )


def conv_tensors(name: str, layer: QuantConv2d | QuantLinear, halved: bool = True) -> Tensors:
    """Bit planes, bases and scales of a layer whose weight quantizer has a grid.

    Plane k has the digit k of each weight's pattern. Where the levels are symmetric in every
    channel, weight = scale sum_k basis_k (2 bit_k - 1); else there is an offset, and
    weight = scale (offset + sum_k basis_k bit_k).

    Args:
        halved: odd sums of a symmetric basis may be written as twice themselves, with half the
            scale. Sums are then twice as large, which integer arithmetic rounds differently.
    Raises:
        PackError: levels beyond what the kernels take.
    """
    quantizer = layer.weight_quantizer
    assert quantizer is not None
    form = quantizer.on_grid()
    limit = largest(form.basis.numpy(), form.offset.numpy())
    if limit > MAX_LEVEL:
        raise PackError(
            f"{name}: its weights have integer levels up to {limit}, at most {MAX_LEVEL} fit; snap "
            "the levels of its quantizer to a grid"
        )
    pattern = _patterns(layer.weight.detach(), quantizer, form.patterns)
    if pattern.ndim == 4:
        pattern = pattern.transpose(0, 2, 3, 1)
    digits, scale = _digits(name, form, halved)
    tensors: Tensors = {
        f"{name}.weight": _planes(pattern.reshape(len(pattern), -1), form.basis.shape[-1]),
        **digits,
        f"{name}.scale": scale.numpy(),
    }
    if layer.bias is not None:
        tensors[f"{name}.bias"] = _array(layer.bias)
    return tensors


def _digits(name: str, form: IntegerForm, halved: bool) -> tuple[Tensors, Tensor]:
    """The tensors of a basis, with an offset only where one is needed, and the scale (O,)."""
    if torch.equal(2 * form.offset, -form.basis.sum(-1)):
        # scale (offset + sum_k basis_k b_k) = scale / 2 sum_k basis_k (2 b_k - 1)
        even = bool((form.basis % 2 == 0).all())
        basis = form.basis // 2 if even else form.basis
        if (even or halved) and int(basis.abs().sum(-1).max()) <= MAX_LEVEL:
            scale = form.scale if even else 0.5 * form.scale
            return {f"{name}.basis": basis.numpy().astype(np.int8)}, scale
    return {
        f"{name}.basis": form.basis.numpy().astype(np.int16),
        f"{name}.offset": form.offset.numpy().astype(np.int8),
    }, form.scale


def image_tensors(
    name: str, layer: nn.Conv2d, mean: tuple[float, ...], std: tuple[float, ...]
) -> Tensors:
    """Weights of the first convolution, for pixels 0 to 255 and a fourth channel of 255.

        sum_c w_c (x_c / 255 - mean_c) / std_c = sum_c w'_c x_c + w'_3 255
        w'_c = w_c / (255 std_c)        w'_3 = -sum_c w_c mean_c / std_c / 255

    The fourth channel is 0 in the padding, as the mean is: exact at the borders too. The bias
    takes back what rounding adds to a window of pixels 255 mean.

    int16, not int8: the first convolution feeds every 2-bit code there is, and rounding it to 8
    bits turns enough of them to change the top-1 prediction of 5 to 9 % of photographs (ResNet-18
    of width 24 at 96 and 32 pixels), though not how many are right; 16 bits change 0.4 to 1 %.
    """
    weight = _array(quantized_weight(layer)).astype(np.float64)  # (O, 3, kh, kw)
    means, stds = (np.array(v, np.float64)[:, None, None] for v in (mean, std))
    wide = np.empty((len(weight), IMAGE_CHANNELS, *weight.shape[2:]))
    wide[:, :3] = weight / (255 * stds)
    wide[:, 3] = -(weight * means / stds).sum(1) / 255
    rows = wide.reshape(len(wide), -1)
    # The sum over a window fits 32 bits, rounding included.
    most = (2**31 - 1) // IMAGE_LIMIT - rows.shape[1]
    sizes = np.maximum(np.abs(rows).max(1) / _LARGEST, np.abs(rows).sum(1) / most)
    # Rounded up, so that no weight comes out larger.
    scale = np.nextafter(sizes.astype(np.float32), np.float32(np.inf)) * (sizes > 0)
    integers = np.rint(rows / _divisor(scale)[:, None])
    error = (integers * scale.astype(np.float64)[:, None] - rows).reshape(wide.shape)
    bias = -np.einsum("ochw,c->o", error, 255 * np.array([*mean, 1.0]))
    if layer.bias is not None:
        bias = bias + _array(layer.bias)
    return {
        f"{name}.weight": integers.reshape(wide.shape).transpose(0, 2, 3, 1).astype(np.int16),
        f"{name}.scale": scale,
        f"{name}.bias": bias.astype(np.float32),
    }


def linear_tensors(name: str, layer: nn.Linear) -> Tensors:
    """int8 weights of the classifier, one scale per class."""
    rounded, scale = _to_int8(_array(quantized_weight(layer)).astype(np.float64))
    bias = np.zeros(len(scale), np.float32) if layer.bias is None else _array(layer.bias)
    return {
        f"{name}.weight": rounded.astype(np.int8),
        f"{name}.scale": scale,
        f"{name}.bias": bias,
    }


def head_tensors(name: str, layer: nn.Conv2d | nn.Linear) -> Tensors:
    """int8 weights of a convolution that gives a map of logits, one scale per class."""
    weight = _array(quantized_weight(layer)).astype(np.float64)
    rounded, scale = _to_int8(weight.reshape(len(weight), -1))
    rounded = rounded.reshape(weight.shape if weight.ndim == 4 else (*weight.shape, 1, 1))
    tensors: Tensors = {
        f"{name}.weight": np.ascontiguousarray(rounded.transpose(0, 2, 3, 1).astype(np.int8)),
        f"{name}.scale": scale,
    }
    if layer.bias is not None:
        tensors[f"{name}.bias"] = _array(layer.bias)
    return tensors


def is_float(layer: nn.Module) -> bool:
    """Whether a layer has weights that no quantizer rounds."""
    return not isinstance(layer, (QuantConv2d, QuantLinear)) or layer.weight_quantizer is None


def quantized_weight(layer: nn.Conv2d | nn.Linear) -> Tensor:
    """The weights a layer computes with."""
    if isinstance(layer, (QuantConv2d, QuantLinear)):
        return layer.quantized_weight()
    return layer.weight


def _divisor(scale: NDArray[np.float32]) -> Float64Array:
    """A row of zeros has the scale 0, and may be divided by anything."""
    return np.where(scale > 0, scale, 1).astype(np.float64)


def _to_int8(rows: Float64Array) -> tuple[Float64Array, NDArray[np.float32]]:
    """Rows (O, n) to integers of at most 127 in size, and a scale for each row."""
    scale = (np.abs(rows).max(1) / MAX_LEVEL).astype(np.float32)
    rounded = np.rint(rows / _divisor(scale)[:, None])
    return np.clip(rounded, -MAX_LEVEL, MAX_LEVEL), scale


def _patterns(weight: Tensor, quantizer: WeightQuantizer, patterns: Tensor) -> NDArray[np.uint8]:
    """Which pattern of digits each weight takes, as its quantizer decides: shape of `weight`."""
    codes = quantizer.codes(weight).flatten(1)
    return patterns.gather(1, codes).view_as(weight).to(torch.uint8).numpy()


def _planes(pattern: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """(O, n) patterns to (K, O, R) bit planes."""
    channels, taps = pattern.shape
    planes = np.zeros((bits, channels, plane_bytes(taps)), np.uint8)
    for k in range(bits):
        packed = np.packbits((pattern >> k) & 1, axis=-1, bitorder="little")
        planes[k, :, : packed.shape[-1]] = packed
    return planes


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().float().numpy()
