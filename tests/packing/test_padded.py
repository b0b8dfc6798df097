"""Networks that pad by themselves pack: as torch computes it, on the reference and the kernels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from low_memory import without_layouts
from padded_networks import DynamicSame, Lite, LowerSame, StaticSame
from torch import nn
from torch.nn import functional

import rsquant
from rsquant import runtime
from rsquant.packed import program as packed_program
from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed
from rsquant.packing.grid import on_grid
from rsquant.packing.write import lowered_network, pack

SIZES = (33, 24)


def static(*args, **kwargs):
    return StaticSame(*args, image_size=32, **kwargs)


class PadsBefore(nn.Module):
    """Paddings as layers and functions in front of convolutions and a max-pooling."""

    def __init__(self, kind):
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.stem, self.norm = kind(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8)
        self.conv, self.norm1 = kind(8, 8, 5, 2, padding=(1, 2)), nn.BatchNorm2d(8)
        self.other, self.norm2 = kind(8, 8, (2, 3), padding="same"), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = functional.relu(self.norm(self.stem(self.pad(x))))
        x = functional.max_pool2d(functional.pad(x, (0, 1, 2, 0)), 3, 1)
        x = functional.pad(self.norm1(self.conv(functional.pad(x, [2, 1, 0, 1]))), (1, 0))
        x = self.norm2(self.other(functional.relu(x)))
        low = functional.pad(x, (0, 1, 0, 1), value=float("-inf"))
        x = x + functional.max_pool2d(low, 2, 1)
        return self.fc(x.mean((2, 3)))


NETWORKS = {
    "same": lambda: Lite(DynamicSame),
    "same-lower": lambda: Lite(LowerSame),
    "static": lambda: Lite(static),
    "before": lambda: PadsBefore(nn.Conv2d),
}


@pytest.fixture(params=NETWORKS)
def network(request, signed_norms):
    torch.manual_seed(0)
    made = signed_norms(rsquant.convert(NETWORKS[request.param](), 2, 2, SIZES))
    return on_grid(made, "coarse").network


def test_a_padded_network_packs_as_torch_computes_it(network, compare, pixels):
    # What is padded in front of a quantizer is padded behind it: both give 0 there.
    pads = {"conv.input_quantizer": (0, 2, 1, 1), "other.input_quantizer": (0, 1, 0, 0)}
    for size in ((33, 33), (24, 31), (30, 25)):
        compared, _, _ = compare(network, pixels(2, *size), pads=pads)
        assert compared > 1000


def test_every_kernel_gives_the_values_of_the_specification(network, tmp_path, pixels):
    path = tmp_path / "x.rsq"
    pack(network, path)
    session = runtime.load(path, threads=1, tune=False)
    with without_layouts():
        low = runtime.load(path, threads=1, tune=False, memory="low")
        for size in ((33, 33), (24, 31), (30, 25)):
            images = pixels(1, *size).numpy()
            program = build_program(session.packed, *size)
            logits, values = packed_program.run(program, images, every=True)
            for number, value in enumerate(values[1:], 1):
                np.testing.assert_array_equal(session.value(images, number), value[0])
            np.testing.assert_array_equal(low(images), logits)


def test_a_file_has_the_version_that_its_paddings_need(network, tmp_path):
    packed, _ = lowered_network(network, Path("x.rsq"))
    pack(network, tmp_path / "x.rsq")
    assert open_packed(tmp_path / "x.rsq").plan.format_version == packed.plan.format_version == 3
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.ZeroPad2d(1),
        nn.Conv2d(4, 4, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    model = on_grid(rsquant.convert(plain, 2, 2, SIZES).eval(), "coarse").network
    packed, _ = lowered_network(model, Path("x.rsq"))
    assert packed.plan.format_version == 2
