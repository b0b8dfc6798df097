"""A small packed network with names of classes."""

from dataclasses import replace

import pytest
import shallow  # noqa: F401  (ResNets of few blocks)
import torch
from shallow import RESNET10

import rsquant
from rsquant import runtime

SIZES = (64, 48, 32)


@pytest.fixture(scope="session")
def model():
    torch.manual_seed(0)
    made = rsquant.create(RESNET10, 2, 2, SIZES, 5, width=8)
    made.spec = replace(made.spec, classes=("ant", "bee", "cat", "dog", "eel"))
    with torch.no_grad():
        for module in made.modules():
            if hasattr(module, "running_mean"):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    return made


@pytest.fixture(scope="session")
def packed(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("serve") / "net.rsq"
    rsquant.pack(model, path)
    return path


@pytest.fixture(scope="session")
def session(packed):
    return runtime.load(packed, threads=1, tune=False)
