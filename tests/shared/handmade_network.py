"""A small network made by hand, with every step of the first versions of the format: no torch."""

import numpy as np

from rsquant.packed.ops.avgpool import AvgPoolSpec
from rsquant.packed.ops.conv import ConvSpec
from rsquant.packed.ops.epilogue import EpilogueSpec
from rsquant.packed.ops.linear import LinearSpec
from rsquant.packed.ops.map import MapSpec
from rsquant.packed.ops.maxpool import MaxPoolSpec
from rsquant.packed.plan import NetworkSpec, Plan, QuantizerSpec, plane_bytes


def _planes(rng, bits, channels, taps):
    planes = np.zeros((bits, channels, plane_bytes(taps)), np.uint8)
    flags = rng.integers(0, 2, (bits, channels, taps), dtype=np.uint8)
    packed = np.packbits(flags, axis=-1, bitorder="little")
    planes[:, :, : packed.shape[-1]] = packed
    return planes


def _norm(rng, channels):
    table = rng.normal(size=(4, 2, channels)).astype(np.float32)
    table[3] = np.abs(table[3]) + 0.1
    return table


def handmade():
    """(plan, tensors) of image -> conv -> maxpool -> conv + map, add -> convs of codes and floats,
    add -> avgpool -> linear."""
    rng = np.random.default_rng(0)
    plan = Plan(
        network=NetworkSpec(
            "handmade",
            2,
            2,
            (24, 16),
            3,
            ("a", "b", "c"),
            (0.5, 0.5, 0.5),
            (0.2, 0.2, 0.2),
            "coarse",
            4,
        ),
        quantizers=(
            QuantizerSpec(2, (1, 2), 0.5),
            QuantizerSpec(3, (-1, -2, 5), 0.3, (-0.9, -0.5, -0.1, 0.25, 0.7, 1.1, 1.5)),
        ),
        steps=(
            ConvSpec(
                "first",
                0,
                4,
                8,
                (3, 3),
                (2, 2),
                (1, 1),
                (1, 1),
                1,
                EpilogueSpec(norm="n1.norm", eps=1e-5, relu=True, clip=6.0, codes=1, quantizer=0),
            ),
            MaxPoolSpec("pool", 1, 2, (3, 3), (2, 2), (1, 1)),
            MapSpec("float", 2, EpilogueSpec(keep=3)),
            ConvSpec(
                "second",
                2,
                8,
                8,
                (3, 3),
                (1, 1),
                (2, 2),
                (2, 2),
                2,
                EpilogueSpec(
                    add=3, keep=4, codes=5, codes_norm="n2.norm", codes_eps=1e-5, quantizer=1
                ),
            ),
            ConvSpec("third", 5, 8, 5, (1, 1), (1, 1), (0, 0), (1, 1), 1, EpilogueSpec(keep=6)),
            ConvSpec(
                "fourth",
                4,
                8,
                5,
                (3, 3),
                (1, 1),
                (1, 1),
                (1, 1),
                1,
                EpilogueSpec(norm="n4.norm", eps=1e-5, add=6, keep=7),
            ),
            AvgPoolSpec("average", 7, 8, "n3.norm", 1e-5, True, None),
            LinearSpec("last", 8, 9, 5, 3),
        ),
        version="0.1.0",
    )

    def bias(channels):
        return rng.normal(size=channels).astype(np.float32)

    tensors = {
        "first.weight": rng.integers(-32767, 32768, (8, 3, 3, 4), dtype=np.int16),
        "first.scale": np.full(8, 1e-4, np.float32),
        "first.bias": bias(8),
        "second.weight": _planes(rng, 2, 8, 36),
        "second.basis": rng.integers(-7, 8, (8, 2), dtype=np.int8),
        "second.scale": np.full(8, 0.02, np.float32),
        "third.weight": _planes(rng, 1, 5, 8),
        "third.basis": rng.integers(1, 200, (5, 1), dtype=np.int16),
        "third.offset": rng.integers(-127, -70, 5, dtype=np.int8),
        "third.scale": np.full(5, 0.02, np.float32),
        "third.bias": bias(5),
        "fourth.weight": _planes(rng, 2, 5, 72),
        "fourth.basis": rng.integers(-7, 8, (5, 2), dtype=np.int8),
        "fourth.scale": np.full(5, 0.02, np.float32),
        "last.weight": rng.integers(-127, 128, (3, 5), dtype=np.int8),
        "last.scale": np.full(3, 0.01, np.float32),
        "last.bias": bias(3),
        "n1.norm": _norm(rng, 8),
        "n2.norm": _norm(rng, 8),
        "n3.norm": _norm(rng, 5),
        "n4.norm": _norm(rng, 5),
    }
    return plan, tensors
