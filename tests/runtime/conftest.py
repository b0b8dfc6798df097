"""Packed networks for the runtime's tests; tuning choices stay in the test's own folder."""

import shutil

import narrow
import pytest
import shallow  # noqa: F401  (ResNets of few blocks)
import torch
from low_memory import without_layouts
from torch import nn
from torch.nn import functional

import rsquant
from rsquant.packing.write import pack
from rsquant.runtime.cpu import timing


class FloatInputs(nn.Module):
    """Convolutions of float values in every form, between some of codes."""

    # Of the layers below: their inputs are not quantized.
    LAYERS = ("shortcut", "wide", "itself", "strided", "depthwise")

    def __init__(self, width):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width)
        self.shortcut = nn.Conv2d(width, 2 * width, 1, bias=False)
        self.branch = nn.Conv2d(width, 2 * width, 3, 1, 1, bias=False)
        self.bn_s, self.bn_b = nn.BatchNorm2d(2 * width), nn.BatchNorm2d(2 * width)
        self.wide, self.bn_w = nn.Conv2d(2 * width, 65, 1), nn.BatchNorm2d(65)
        self.itself = nn.Conv2d(65, 65, 3, 1, 2, 2, groups=5, bias=False)
        self.strided, self.bn_t = nn.Conv2d(65, 17, (3, 2), 2, (1, 0)), nn.BatchNorm2d(17)
        self.depthwise, self.last = nn.Conv2d(17, 17, 3, 1, 1, groups=17), nn.Conv2d(17, 9, 1)
        self.fc = nn.Linear(9, 7)

    def forward(self, x):
        x = functional.relu(self.bn(self.conv(x)))
        x = functional.max_pool2d(x, 2)
        x = functional.relu(self.bn_s(self.shortcut(x)) + self.bn_b(self.branch(x)))
        x = self.bn_w(self.wide(x))
        x = x + self.itself(x)  # added to what its windows read
        x = functional.relu6(self.bn_t(self.strided(x)))
        x = self.last(self.depthwise(x))
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class Maps(nn.Module):
    """Elementwise steps of codes and floats, with and without an addition, to both."""

    def __init__(self, width):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width)
        self.a, self.b = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.bn_a, self.bn_b = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 7)

    def forward(self, x):
        x = functional.relu6(self.bn(self.conv(x)))
        x = functional.relu(x + x)
        y = self.bn_b(self.a(x) + self.b(self.bn_a(x)))
        y = functional.relu6(y + y) + self.b(functional.relu(y))
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(y, 1), 1))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RSQUANT_CACHE", str(tmp_path / "cache"))
    # Weights that lie in the caches are as right as others, and tuning is quicker.
    monkeypatch.setattr(timing, "_CACHES", 2**16)


@pytest.fixture(params=["full", "low", "low without layouts"])
def memory(request):
    """`memory` of a session, also as large layers are computed."""
    if request.param != "low without layouts":
        yield request.param
        return
    with without_layouts():
        yield "low"


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Packed networks that a test has asked for, by what it asked for."""
    return tmp_path_factory.mktemp("packed"), {}


@pytest.fixture
def make(tmp_path, vary, made):
    """make(arch, ...) -> path of a packed network with BatchNorms that differ and partly fall."""
    folder, files = made

    def own(*arguments, **options):
        asked = repr((arguments, sorted(options.items())))
        if asked not in files:
            files[asked] = packed(folder / str(len(files)), *arguments, **options)
        path = tmp_path / files[asked].name
        shutil.copyfile(files[asked], path)  # tests may change it
        return path

    def packed(folder, arch="resnet10", wbits=2, abits=2, sizes=(64, 48, 32), width=8, **options):
        torch.manual_seed(0)
        if arch == "mobilenet":
            body = narrow.mobilenet_v2(7, 0.35)
            network = rsquant.convert(body, wbits, abits, sizes, grid="coarse")
        elif arch == "maps":
            network = rsquant.convert(Maps(width), wbits, abits, sizes, grid="coarse")
        elif arch == "floats":
            network = rsquant.convert(FloatInputs(width), wbits, abits, sizes, grid="coarse")
            for layer in FloatInputs.LAYERS:
                network.body.get_submodule(layer).input_quantizer = None
        else:
            network = rsquant.create(
                arch, wbits, abits, sizes, 7, width=width, grid="coarse", **options
            )
        vary(network)
        with torch.no_grad():
            for name, p in network.named_parameters():
                if p.dim() == 2 and p.shape[0] == len(sizes) and name.endswith("weight"):
                    p[:, ::5] *= -1
                    p[:, 3::7] = 0
        folder.mkdir()
        path = folder / f"{arch}_{wbits}{abits}_{width}.rsq"
        pack(network, path)
        return path

    return own
