"""Why the GPU kernels cannot run: one line that says so."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from rsquant.errors import ConfigError
from rsquant.kernels import gpu_why_not, pick_device
from rsquant.kernels.gpu import support


@pytest.fixture
def a_gpu(monkeypatch):
    """As if PyTorch had one CUDA device, compute capability 9.0."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla V100")
    support._why_not_cuda.cache_clear()
    yield
    support._why_not_cuda.cache_clear()


def test_a_recent_gpu_is_picked(a_gpu):
    assert gpu_why_not("cuda") == ""
    assert pick_device("auto") == "cuda"
    assert pick_device("cuda:0") == "cuda:0"
    assert pick_device("cpu") == "cpu"


def test_an_old_gpu_is_refused_by_name(a_gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 0))
    with pytest.raises(ConfigError, match=r"Tesla V100 has compute capability 7\.0.*8\.0"):
        pick_device("cuda")
    assert pick_device("auto") == "cpu"


def test_a_device_that_is_not_there(a_gpu):
    with pytest.raises(ConfigError, match="1 CUDA devices, cuda:3 is none of them"):
        pick_device("cuda:3")


def test_no_gpu_at_all(a_gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="PyTorch finds no CUDA device"):
        pick_device("cuda")
    with pytest.raises(ConfigError, match="no GPU kernels: PyTorch finds no CUDA device"):
        support.checked("cuda")
    assert pick_device("auto") == "cpu"


def test_a_pytorch_without_cuda(a_gpu, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert gpu_why_not() == "this PyTorch is built without CUDA"


@pytest.mark.parametrize("missing", ["triton", "torch"])
def test_a_missing_library_is_named(a_gpu, monkeypatch, missing):
    found = importlib.util.find_spec
    hidden = lambda name: None if name == missing else found(name)  # noqa: E731
    monkeypatch.setattr("rsquant.kernels.backends.find_spec", hidden)
    monkeypatch.setattr(support, "find_spec", hidden)
    with pytest.raises(ConfigError, match=r"not installed; pip install 'rsquant\[gpu\]'"):
        pick_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:-1", ""])
def test_an_unknown_device(name):
    with pytest.raises(ConfigError, match="must be cpu, cuda, cuda:N or auto"):
        pick_device(name)


def test_a_device_of_another_kind(a_gpu):
    with pytest.raises(ConfigError, match="for CUDA devices, not for cpu"):
        support.checked("cpu")
    with pytest.raises(ConfigError, match="no device of PyTorch's"):
        support.checked("nonsense")


def test_the_kernels_package_imports_no_torch():
    script = "import sys, rsquant.kernels, rsquant.runtime; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ)
