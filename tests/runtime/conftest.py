"""Packed networks for the runtime's tests; tuning choices stay in the test's own folder."""

import pytest
import torch
import torchvision

import rsquant
from rsquant.packing.write import pack


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RSQUANT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def make(tmp_path, vary):
    """make(arch, ...) -> path of a packed network with BatchNorms that differ and partly fall."""

    def packed(arch="resnet18", wbits=2, abits=2, sizes=(64, 48, 32), width=8, **options):
        torch.manual_seed(0)
        if arch == "mobilenet":
            body = torchvision.models.mobilenet_v2(num_classes=7, width_mult=0.35)
            network = rsquant.convert(body, wbits, abits, sizes, grid="coarse")
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
        path = tmp_path / f"{arch}_{wbits}{abits}_{width}.rsq"
        pack(network, path)
        return path

    return packed
