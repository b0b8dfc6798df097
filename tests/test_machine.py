"""What a measurement says about the machine it was made on."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rsquant import machine


@pytest.fixture
def no_driver(monkeypatch, tmp_path):
    """Neither nvidia-smi nor the kernel's file; returns what to answer with."""
    answers = {"smi": None, "file": None}

    def run(command, **_):
        if answers["smi"] is None:
            raise FileNotFoundError(command[0])
        return SimpleNamespace(stdout=answers["smi"])

    def read_text(path):
        assert path == Path("/proc/driver/nvidia/version")
        if answers["file"] is None:
            raise FileNotFoundError(path)
        return answers["file"]

    monkeypatch.setattr(machine.subprocess, "run", run)
    monkeypatch.setattr(machine.Path, "read_text", read_text)
    return answers


def test_the_driver_is_what_nvidia_smi_or_the_kernel_says(no_driver):
    assert machine.driver_version() is None
    no_driver["file"] = (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\n"
        "GCC version:  gcc version 12.2.0\n"
    )
    assert machine.driver_version() == "580.159.04"
    no_driver["smi"] = "570.86.15\n570.86.15\n"
    assert machine.driver_version() == "570.86.15"
    no_driver["smi"] = "NVIDIA-SMI has failed because it couldn't communicate with the driver.\n"
    assert machine.driver_version() == "580.159.04"


def test_a_driver_that_hangs_is_not_waited_for(no_driver, monkeypatch):
    def hangs(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(machine.subprocess, "run", hangs)
    assert machine.driver_version() is None


def test_a_gpu_is_named_with_its_libraries(monkeypatch):
    properties = SimpleNamespace(
        name="NVIDIA H200",
        major=9,
        minor=0,
        total_memory=150_000_000_000,
        multi_processor_count=132,
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(machine, "driver_version", lambda: "580.1")
    described = machine.describe()
    assert described["gpu"] == "NVIDIA H200" and described["gpu_capability"] == "9.0"
    assert described["gpu_memory_bytes"] == 150_000_000_000
    assert (described["driver"], described["cudnn"]) == ("580.1", "9.10.2")
    assert described["cuda"] == torch.version.cuda
    assert {"triton", "torch", "cpu", "python"} <= set(described)
    assert machine._dotted(8902) == "8.9.2" and machine._dotted(None) is None


def test_without_a_gpu_nothing_is_said_of_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.gpu() == {}
    assert not any(key.startswith("gpu") for key in machine.describe())
