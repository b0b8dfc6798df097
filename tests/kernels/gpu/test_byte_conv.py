"""Convolutions to bytes, of codes and of bytes, in every width of tile, against `ByteEpilogue`."""

import numpy as np
import pytest
import torch

from rsquant.kernels import reference
from rsquant.kernels.gpu import epilogue, weights, words
from rsquant.kernels.gpu.conv import convolve
from rsquant.kernels.gpu.conv_tiles import Geometry, Tile
from rsquant.packed.ops.integer_epilogue import ByteEpilogue

SIZE, OUTPUTS = (3, 4), 70
LEVELS = np.array([0, 2, 3, 5], np.uint8)


def epilogue_of(rng, acc, add, codes):
    """Results of both signs, many at halves, many beyond both limits."""
    count = 3 if codes else 0
    spread = np.abs(acc).max()
    sizes = rng.choice([0.5, 0.25, 300 / spread], OUTPUTS)
    factor = (rng.choice([-1, 1], OUTPUTS) * sizes).astype(np.float32)
    return ByteEpilogue(
        factor=factor,
        bias=-np.median(acc, (0, 1, 2)).astype(np.int32),
        low=-128,
        high=127,
        add=0 if add else None,
        add_zero=128 if add else 0,
        least=0 if add else -128,
        most=200 if add else 127,
        zero=0 if add else 128,
        keep=1,
        codes=2 if codes else None,
        thresholds=np.sort(rng.integers(-257, 258, (count, OUTPUTS)), axis=0).astype(np.int32),
        sign=rng.choice([-1, 1], OUTPUTS).astype(np.int8),
        levels=LEVELS if codes else LEVELS[:0],
    )


@pytest.mark.parametrize("bn", [32, 64, 128, 256])
@pytest.mark.parametrize(("source", "channels"), [("codes", 20), ("bytes", 11)])
@pytest.mark.parametrize("add", [False, True])
def test_a_convolution_to_bytes(gpu, bn, source, channels, add):
    rng = np.random.default_rng(bn + channels)
    basis, fill, field = ((1, 2), 0, 2) if source == "codes" else ((), 128, words.BYTE_FIELD)
    x = rng.integers(0, 4 if basis else 256, (2, *SIZE, channels))
    limit = 64 if basis else 2  # sums small enough for bytes
    levels = rng.integers(-limit, limit, (OUTPUTS, 3, 3, channels), endpoint=True)
    levels[0], levels[1] = 64, -64
    correction = (fill * levels.sum((1, 2, 3))).astype(np.int32)
    acc = reference.conv_accumulators(x, levels, (1, 1), (1, 1), (1, 1), 1, fill) - correction
    end = epilogue_of(rng, acc, add, codes=add)
    other = rng.integers(0, 256, acc.shape).astype(np.uint8)
    expected = [other]
    end.run(acc, expected)

    shape = (2, *SIZE, channels, *SIZE, OUTPUTS, (3, 3), (1, 1), (1, 1), (1, 1))
    tables = epilogue.byte_tables(
        end.factor, end.bias, end.sign, end.thresholds, end.levels, end.low, end.high,
        end.add_zero, end.least, end.most, end.zero, gpu,
    )  # fmt: skip
    prepared = weights.prepare(levels, None, None, correction, 1, field, tables.field, gpu)
    pixel = torch.full((channels,), fill)
    kept = torch.zeros(2, *SIZE, 72, dtype=torch.uint8, device=gpu)
    kept[..., :OUTPUTS] = torch.from_numpy(other)
    codes = None
    if add:
        codes = torch.zeros(2, *SIZE, words.words_of(OUTPUTS, 2), dtype=torch.int32, device=gpu)
    convolve(
        Geometry(*shape),
        words.pack(torch.from_numpy(x), field).to(gpu),
        prepared,
        tables,
        Tile(64 if bn < 256 else 32, bn, 64, 4, 2),
        basis,
        field,
        words.pack(pixel, field).to(gpu),
        kept if add else None,  # in place
        kept,
        codes,
    )
    np.testing.assert_array_equal(kept.cpu().numpy()[..., :OUTPUTS], expected[1])
    assert not kept[..., OUTPUTS:].any()
    if codes is not None:
        bits = words.unpack(codes.cpu(), OUTPUTS, 2).numpy()
        np.testing.assert_array_equal((bits & 1) * 2 + (bits >> 1) * 3, expected[2])
    assert len(np.unique(expected[1])) > 50
    y = end.factor * (acc + end.bias)
    assert np.mean((y % 1 == 0.5) & (np.abs(y) < 100)) > 0.01
