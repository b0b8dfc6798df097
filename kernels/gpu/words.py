"""Packed codes on the GPU: how a pixel's channels lie in 32-bit words.

A code of K bits has a field of F bits, F = 1, 2, 4, 4 for K = 1, 2, 3, 4, and a word holds
V = 32 / F channels: channel c of a pixel is field c % V of word c // V, lowest bits first.
Bit k of a field is worth `basis[k]`, so that with the basis's absolute values, ascending,

    byte = sum_k basis[k] * bit_k        the byte of `rsquant.packed.program`: level + zero

The field of the lowest level is 0, and its byte too: fields beyond the last channel are 0 and add
nothing to any sum. The image's words are its pixels: 4 bytes, F = 8. A float value has a word for
each channel, F = 32.

A kernel decodes a word in P = 8 / F steps of four channels at a time, one per byte:

    (word >> F j + k) & 0x01010101       bit k of the channels j, P + j, 2 P + j, 3 P + j

No byte exceeds 127, so bytes never carry into each other. The four bytes of each step stay together
and steps follow each other, so the channels of a word come out in the order of `channel_order`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

IMAGE_FIELD = 8
FLOAT_FIELD = 32


def field_bits(bits: int) -> int:
    """F: bits of a field that holds a code of 1 to 4 bits."""
    return 4 if bits == 3 else bits


def word_channels(field: int) -> int:
    """V: channels in a word."""
    return 32 // field


def words_of(channels: int, field: int) -> int:
    """Words of a pixel."""
    return -(-channels // word_channels(field))


def channel_order(field: int) -> NDArray[np.int64]:
    """(V,): which channel of a word stands at each place of the decoded bytes."""
    if field == FLOAT_FIELD:
        return np.zeros(1, np.int64)
    steps = 8 // field
    return np.arange(word_channels(field)).reshape(4, steps).T.reshape(-1)


def field_basis(basis: Sequence[int]) -> tuple[int, ...]:
    """What the bits of a field are worth: absolute values, ascending."""
    return tuple(sorted(abs(value) for value in basis))


def four(basis: Sequence[int]) -> tuple[int, int, int, int]:
    """The basis as kernels take it, of whatever number of bits."""
    q0, q1, q2, q3 = (*basis, 0, 0, 0, 0)[:4]
    return q0, q1, q2, q3


def field_of_byte(basis: Sequence[int]) -> dict[int, int]:
    """byte -> its field; where two fields make one byte, the lower."""
    worth = field_basis(basis)
    found: dict[int, int] = {}
    for field in range(2 ** len(worth)):
        byte = sum(value for k, value in enumerate(worth) if field >> k & 1)
        found.setdefault(byte, field)
    return found


def pack(fields: Tensor, field: int) -> Tensor:
    """(..., C) integers below 2**F to (..., ceil(C / V)) int32 words."""
    count = word_channels(field)
    padded = torch.nn.functional.pad(fields.long(), (0, -fields.shape[-1] % count))
    shifts = torch.arange(count, device=fields.device) * field
    words = (padded.unflatten(-1, (-1, count)) << shifts).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def unpack(words: Tensor, channels: int, field: int) -> Tensor:
    """(..., ceil(C / V)) int32 words to (..., C) fields, uint8."""
    shifts = torch.arange(word_channels(field), device=words.device) * field
    fields = (words.long().unsqueeze(-1) >> shifts) & (2**field - 1)
    return fields.flatten(-2)[..., :channels].to(torch.uint8)


@triton.jit
def byte_of(field, q):
    """The byte of each field; q: `four` of the basis."""
    return (
        (field & 1) * q[0]
        + (field >> 1 & 1) * q[1]
        + (field >> 2 & 1) * q[2]
        + (field >> 3 & 1) * q[3]
    )


@triton.jit
def _lanes(word, j: tl.constexpr, k: tl.constexpr, field: tl.constexpr):
    """Bit k of step j's four channels, one per byte."""
    return (word >> (field * j + k)) & 0x01010101


@triton.jit
def _step(words, start, q0, q1, q2, q3, j: tl.constexpr, bits: tl.constexpr, field: tl.constexpr):
    """start + sum_k q_k bit_k of the channels of step j, four bytes to a word."""
    lanes = start + _lanes(words, j, 0, field) * q0
    if bits > 1:
        lanes += _lanes(words, j, 1, field) * q1
    if bits > 2:
        lanes += _lanes(words, j, 2, field) * q2
    if bits > 3:
        lanes += _lanes(words, j, 3, field) * q3
    return lanes


@triton.jit
def _steps(words, start, q0, q1, q2, q3, bits: tl.constexpr, field: tl.constexpr):
    """(A, B) words to their 8 / F steps, side by side in new axes of 2."""
    s0 = _step(words, start, q0, q1, q2, q3, 0, bits, field)
    s1 = _step(words, start, q0, q1, q2, q3, 1, bits, field)
    if field == 4:
        out = tl.join(s0, s1)
    else:
        s2 = _step(words, start, q0, q1, q2, q3, 2, bits, field)
        s3 = _step(words, start, q0, q1, q2, q3, 3, bits, field)
        if field == 2:
            out = _four(s0, s1, s2, s3)
        else:
            s4 = _step(words, start, q0, q1, q2, q3, 4, bits, field)
            s5 = _step(words, start, q0, q1, q2, q3, 5, bits, field)
            s6 = _step(words, start, q0, q1, q2, q3, 6, bits, field)
            s7 = _step(words, start, q0, q1, q2, q3, 7, bits, field)
            out = tl.join(_four(s0, s2, s4, s6), _four(s1, s3, s5, s7))
    return out


@triton.jit
def activation_bytes(
    words, q0, q1, q2, q3, bits: tl.constexpr, field: tl.constexpr, size: tl.constexpr
):
    """(A, B) words to (A, size = B V) int8, in the order of `channel_order`.

    Codes become their bytes; the image's become minus 128, so that they fit the signed type.
    """
    if field == 8:
        steps = words ^ -2139062144  # 0x80808080
    else:
        steps = _steps(words, 0, q0, q1, q2, q3, bits, field)
    return _bytes(steps, size)


@triton.jit
def weight_bytes(
    words, v0, v1, v2, v3, lowest, bits: tl.constexpr, field: tl.constexpr, size: tl.constexpr
):
    """(A, B) words of weights to (A, size = B V) int8 levels, in the order of `channel_order`.

    level = lowest + sum_k v_k bit_k, v_k >= 0, from -127 to 127; v and lowest (A, 1) each. Bytes
    hold level + 128, from 1 to 255, until the top bit is turned, which takes 128 from each without
    a carry.
    """
    start = (128 + lowest) * 0x01010101
    steps = _steps(words, start, v0, v1, v2, v3, bits, field)
    return _bytes(steps ^ -2139062144, size)


@triton.jit
def _four(a, b, c, d):
    """Four tensors side by side, a, b, c, d when the two new axes are read as one."""
    return tl.join(tl.join(a, c), tl.join(b, d))


@triton.jit
def _bytes(steps, size: tl.constexpr):
    """Words of four bytes to int8, the words of a row side by side."""
    b0 = steps.to(tl.int8)
    b1 = (steps >> 8).to(tl.int8)
    b2 = (steps >> 16).to(tl.int8)
    b3 = (steps >> 24).to(tl.int8)
    return tl.reshape(_four(b0, b1, b2, b3), (steps.shape[0], size))
