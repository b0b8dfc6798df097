"""Weights in the order the convolution kernel reads them.

A convolution of G groups runs as one of G' <= G wider groups, weights between different groups of
the original being 0, so that the channels of a wide group fill whole words on both sides: the
tensor cores multiply whole tiles in any case, and a depthwise convolution becomes small dense ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsquant.kernels.gpu import words

# A row of weights is filled up to a multiple of this, the longest step along it.
ROW_BYTES = 256


@dataclass(frozen=True)
class Weights:
    """A convolution's weights on the device.

    Attributes:
        levels: (parts, G', O / G', R) int8; row: taps, then words, then `channel_order`. Weights
            beyond 127 have several parts: level = first + 256 * (sum of the others).
        packed: (O, R / V) int32, fields as wide as the activations', the same order; None where
            there are none (groups, the image, bytes, floats, more bits than the activations have).
        basis: (O, 5) int32, what the bits of `packed` are worth, not negative, and the level
            without any of them.
        groups: G'.
        group_words: words of a pixel that a group reads.
        bits: of `packed`; 0 without.
        correction: (O,) int32, to subtract from every sum.
    """

    levels: Tensor
    packed: Tensor | None
    basis: Tensor | None
    groups: int
    group_words: int
    bits: int
    correction: Tensor


def wide_groups(groups: int, inputs: int, outputs: int, in_word: int, out_word: int) -> int:
    """G': the most groups whose channels fill whole words on both sides; else 1.

    Args:
        inputs, outputs: channels of one original group.
        in_word, out_word: channels in a word; 1 where outputs are not packed.
    """
    for merged in range(1, groups):
        if groups % merged == 0 and not (merged * inputs % in_word or merged * outputs % out_word):
            return groups // merged
    return 1


def dense(levels: NDArray[np.int64], groups: int, wide: int) -> NDArray[np.int64]:
    """(O, kh, kw, C / G) to (O, kh, kw, C / G'): the same convolution in fewer, wider groups."""
    outputs, kh, kw, inputs = levels.shape
    merged = groups // wide
    out = np.zeros((outputs, kh, kw, merged, inputs), levels.dtype)
    # The place of an output's group inside its wide group.
    place = np.arange(outputs) // (outputs // groups) % merged
    out[np.arange(outputs), :, :, place] = levels
    return out.reshape(outputs, kh, kw, merged * inputs)


def rows(levels: NDArray[np.int64], field: int) -> NDArray[np.int64]:
    """(O, kh, kw, C) to (O, R): every word's channels in the order they are decoded in."""
    outputs, kh, kw, channels = levels.shape
    count = words.word_channels(field)
    padded = np.zeros((outputs, kh * kw, words.words_of(channels, field), count), levels.dtype)
    flat = padded.reshape(outputs, kh * kw, -1)
    flat[:, :, :channels] = levels.reshape(outputs, kh * kw, channels)
    ordered = padded[..., words.channel_order(field)].reshape(outputs, -1)
    return np.pad(ordered, ((0, 0), (0, -ordered.shape[1] % ROW_BYTES)))


def prepare(
    levels: NDArray[np.int64],
    basis: NDArray[np.int16] | None,
    offset: NDArray[np.int8] | None,
    correction: NDArray[np.int32],
    groups: int,
    in_field: int,
    out_field: int,
    device: torch.device,
) -> Weights:
    """Weight levels (O, kh, kw, C / G) as the kernel reads them.

    Args:
        basis, offset: (O, K) and (O,), that the levels are made of; None for the image's weights.
        correction: (O,), that the specification subtracts.
        in_field, out_field: bits of a field of the input, and of the codes written (0: none).
    """
    outputs = len(levels)
    count = words.word_channels(in_field)
    wide = wide_groups(
        groups,
        levels.shape[3],
        outputs // groups,
        count,
        words.word_channels(out_field) if out_field else 1,
    )
    ordered = rows(dense(levels, groups, wide), in_field)
    correction = correction.astype(np.int64)
    if in_field == words.BYTE_FIELD:
        parts = _bytes(ordered)
        # The kernel reads bytes minus 128.
        correction = correction - 128 * ordered.sum(1)
    else:
        parts = ordered[None]
    shape = (len(parts), wide, outputs // wide, -1)
    packed = packed_basis = None
    bits = 0
    codes = in_field < words.BYTE_FIELD
    few = basis is not None and basis.shape[1] <= in_field
    if basis is not None and offset is not None and few and wide == groups == 1 and codes:
        bits = basis.shape[1]
        packed, packed_basis = _packed(levels, basis, offset, in_field)
    per_group = levels.shape[3] * (groups // wide)

    def put(array: NDArray[Any], dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(dtype).to(device)

    return Weights(
        put(parts.reshape(shape), torch.int8),
        None if packed is None else packed.to(device),
        None if packed_basis is None else put(packed_basis, torch.int32),
        wide,
        words.words_of(per_group, in_field),
        bits,
        put(correction, torch.int32),
    )


def _bytes(levels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Levels as signed bytes: (1 to 3, ...), level = first + 256 * (sum of the others).

    One is enough up to 127 (integer networks), two up to 127 * 256 + 127, as `rsquant.pack` writes
    the others.
    """
    if np.abs(levels).max(initial=0) <= 127:
        return levels[None]
    low = (levels + 128) % 256 - 128
    high = (levels - low) // 256
    parts = [low, np.minimum(high, 127)]
    if high.max(initial=0) > 127:
        parts.append(high - parts[1])
    return np.stack(parts)


def _packed(
    levels: NDArray[np.int64], basis: NDArray[np.int16], offset: NDArray[np.int8], field: int
) -> tuple[Tensor, NDArray[np.int64]]:
    """Fields of the weights, by which subset of the basis's sizes makes each, and those sizes.

    A bit of a negative size is turned: offset - s b = (offset - s) + s (1 - b).
    """
    outputs, bits = basis.shape
    worth = np.sort(np.abs(basis.astype(np.int64)), axis=1)
    lowest = offset.astype(np.int64) + basis.astype(np.int64).clip(max=0).sum(1)
    patterns = np.arange(2**bits)[:, None] >> np.arange(bits) & 1
    made = lowest + patterns @ worth.T  # (L, O)
    fields = np.zeros(levels.shape, np.int64)
    for pattern in range(2**bits):
        fields[levels == made[pattern][:, None, None, None]] = pattern
    channels, count = levels.shape[3], words.word_channels(field)
    by_tap = fields.reshape(outputs, -1, channels)
    packed = words.pack(torch.from_numpy(by_tap), field).flatten(1)
    padding = -packed.shape[1] % (ROW_BYTES // count)
    padded = torch.nn.functional.pad(packed, (0, padding))
    return padded, np.column_stack([np.pad(worth, ((0, 0), (0, 4 - bits))), lowest])
