"""Which device to compute on."""

from __future__ import annotations

import torch

from rsquant.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """ "auto" is CUDA if there is any, else the CPU. Raises ConfigError for one that is absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"device: '{name}' cannot be used here: {reason}") from error
    return device
