"""Packed codes on the GPU: their layout against a channel-by-channel count, and the decoding."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from rsquant.kernels.gpu import words

BASES = [(1,), (1, 2), (3, 5), (7, 7), (1, 2, 4), (3, 4, 5), (1, 2, 4, 8), (0, 5, 5, 117)]


@pytest.mark.parametrize("field", [1, 2, 4, 8])
@pytest.mark.parametrize("channels", [1, 7, 16, 31, 32, 33, 64])
def test_channel_c_is_field_c_of_its_pixel(field, channels):
    rng = np.random.default_rng(channels)
    fields = rng.integers(0, 2**field, (2, 3, channels))
    packed = words.pack(torch.from_numpy(fields), field)
    assert packed.shape == (2, 3, words.words_of(channels, field)) and packed.dtype == torch.int32
    for pixel in np.ndindex(2, 3):
        number = sum((int(w) % 2**32) << 32 * i for i, w in enumerate(packed[pixel]))
        expected = sum(int(f) << field * c for c, f in enumerate(fields[pixel]))
        assert number == expected
    assert np.array_equal(words.unpack(packed, channels, field).numpy(), fields)


@triton.jit
def decode_activations(
    words_ptr, out_ptr, q0, q1, q2, q3, BITS: tl.constexpr, FIELD: tl.constexpr, WORDS: tl.constexpr
):
    at = tl.arange(0, 2)[:, None] * WORDS + tl.arange(0, WORDS)[None, :]
    size: tl.constexpr = WORDS * 32 // FIELD
    decoded = words.activation_bytes(tl.load(words_ptr + at), q0, q1, q2, q3, BITS, FIELD, size)
    tl.store(out_ptr + tl.arange(0, 2)[:, None] * size + tl.arange(0, size)[None, :], decoded)


@triton.jit
def decode_weights(
    words_ptr, out_ptr, v_ptr, BITS: tl.constexpr, FIELD: tl.constexpr, WORDS: tl.constexpr
):
    row = tl.arange(0, 2)
    at = row[:, None] * WORDS + tl.arange(0, WORDS)[None, :]
    size: tl.constexpr = WORDS * 32 // FIELD
    v0 = tl.load(v_ptr + 5 * row)[:, None]
    v1 = tl.load(v_ptr + 5 * row + 1)[:, None]
    v2 = tl.load(v_ptr + 5 * row + 2)[:, None]
    v3 = tl.load(v_ptr + 5 * row + 3)[:, None]
    low = tl.load(v_ptr + 5 * row + 4)[:, None]
    decoded = words.weight_bytes(tl.load(words_ptr + at), v0, v1, v2, v3, low, BITS, FIELD, size)
    tl.store(out_ptr + row[:, None] * size + tl.arange(0, size)[None, :], decoded)


def in_decoded_order(values, field):
    """(..., C) by channel to the order in which the kernels decode words."""
    count = words.word_channels(field)
    return values.reshape(*values.shape[:-1], -1, count)[..., words.channel_order(field)].reshape(
        values.shape
    )


@pytest.mark.parametrize("basis", BASES, ids=str)
def test_activations_decode_to_sums_of_their_basis(gpu, basis):
    field = words.field_bits(len(basis))
    channels = 4 * words.word_channels(field)
    fields = np.random.default_rng(0).integers(0, 2 ** len(basis), (2, channels))
    expected = sum(q * (fields >> k & 1) for k, q in enumerate(basis))
    packed = words.pack(torch.from_numpy(fields), field).to(gpu)
    out = torch.empty(2, channels, dtype=torch.int8, device=gpu)
    decode_activations[(1,)](
        packed, out, *(*basis, 0, 0, 0)[:4], BITS=len(basis), FIELD=field, WORDS=4
    )
    assert np.array_equal(out.cpu().numpy(), in_decoded_order(expected, field))


def test_pixels_decode_to_their_bytes_minus_128(gpu):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16))
    packed = words.pack(torch.from_numpy(pixels), 8).to(gpu)
    out = torch.empty(2, 16, dtype=torch.int8, device=gpu)
    decode_activations[(1,)](packed, out, 0, 0, 0, 0, BITS=0, FIELD=8, WORDS=4)
    assert np.array_equal(out.cpu().numpy(), pixels - 128)


@pytest.mark.parametrize("basis", [*BASES, (254,), (3, 251), (1, 3, 250), (1, 2, 4, 247)], ids=str)
def test_weights_decode_to_an_offset_and_sums_of_their_basis(gpu, basis):
    field = words.field_bits(len(basis))
    channels = 4 * words.word_channels(field)
    fields = np.random.default_rng(0).integers(0, 2 ** len(basis), (2, channels))
    worth = np.zeros((2, 5), np.int32)
    worth[0, : len(basis)] = basis
    worth[1, : len(basis)] = basis[::-1]
    worth[:, 4] = -127, 127 - sum(basis)  # both ends of the levels
    bits = fields[:, :, None] >> np.arange(4) & 1
    expected = worth[:, 4:] + (bits * worth[:, None, :4]).sum(2)
    assert expected.min() >= -127 and expected.max() <= 127
    out = torch.empty(2, channels, dtype=torch.int8, device=gpu)
    decode_weights[(1,)](
        words.pack(torch.from_numpy(fields), field).to(gpu),
        out,
        torch.from_numpy(worth).to(gpu),
        BITS=len(basis),
        FIELD=field,
        WORDS=4,
    )
    assert np.array_equal(out.cpu().numpy(), in_decoded_order(expected, field))


@pytest.mark.parametrize("basis", BASES, ids=str)
def test_every_byte_has_a_field_that_makes_it(basis):
    for byte, field in words.field_of_byte(basis).items():
        assert sum(q for k, q in enumerate(sorted(basis)) if field >> k & 1) == byte
    assert words.field_of_byte(basis)[0] == 0
    # Negative basis values move the zero, not the fields.
    assert words.field_of_byte([-q for q in basis]) == words.field_of_byte(basis)
