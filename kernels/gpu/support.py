"""Whether the kernels can run, and why not."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

from rsquant.errors import ConfigError
from rsquant.packages import install

# The first generation with the int8 instruction the convolution is compiled to on every later one.
OLDEST = (8, 0)


def interpreted() -> bool:
    """True under TRITON_INTERPRET=1: kernels run slowly, on CPU tensors, without a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def one_rounding() -> dict[str, bool]:
    """Options of a launch whose float32 operations round one by one, as specified."""
    return {} if interpreted() else {"enable_fp_fusion": False}


def why_not(device: torch.device | str = "cuda") -> str:
    """Why the kernels cannot run on a device; "" where they can."""
    found = torch.device(device)
    if find_spec("triton") is None:
        return f"Triton is not installed; {install('gpu')}"
    if interpreted():
        return "" if found.type == "cpu" else "TRITON_INTERPRET=1 runs kernels on the CPU"
    if found.type != "cuda":
        return f"they are for CUDA devices, not for {found.type}"
    return _why_not_cuda(found.index or 0)


@cache
def _why_not_cuda(index: int) -> str:
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA device"
    if index >= torch.cuda.device_count():
        return f"there are {torch.cuda.device_count()} CUDA devices, cuda:{index} is none of them"
    capability = torch.cuda.get_device_capability(index)
    if capability < OLDEST:
        name = torch.cuda.get_device_name(index)
        return (
            f"{name} has compute capability {capability[0]}.{capability[1]}, the kernels need "
            f"{OLDEST[0]}.{OLDEST[1]} (Ampere) or newer"
        )
    return ""


def current(device: torch.device) -> AbstractContextManager[Any]:
    """Make a device the current one, on which Triton launches, whatever its arguments are on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def checked(device: torch.device | str) -> torch.device:
    """The device, with its index. Raises ConfigError where the kernels cannot run on it."""
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device: '{device}' is no device of PyTorch's") from error
    why = why_not(found)
    if why:
        raise ConfigError(f"device '{found}': no GPU kernels: {why}")
    if str(found) == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return found
