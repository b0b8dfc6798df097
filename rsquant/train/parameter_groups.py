"""The optimizer's groups of parameters: which decay, and which do not."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def parameter_groups(network: nn.Module, alpha: Tensor, decay: str) -> list[dict[str, Any]]:
    """The optimizer's groups: what weight decay acts on, and what it leaves alone.

    Args:
        decay: "weights": of convolutions and linear layers (the published rule of quantized
            networks); "all": every parameter of the network. Alpha never decays.
    """
    layers = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
    weights = {m.weight for m in network.modules() if isinstance(m, layers)}
    chosen = set(network.parameters()) if decay == "all" else weights
    rest = [p for p in network.parameters() if p not in chosen]
    return [
        {"params": [p for p in network.parameters() if p in chosen]},
        {"params": [*rest, alpha], "weight_decay": 0.0},
    ]
