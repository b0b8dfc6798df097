"""What networks are timed on: random pixels, and layers whose values look like a trained one's."""

from __future__ import annotations

import torch
from torch import Tensor

from rsquant.bench.cuda.device import Device
from rsquant.data.transforms import normalise
from rsquant.nn.switchable import SwitchableNetwork

# Sets of random images that visits go through in turn.
IMAGE_SETS = 4
SETTLING_STEPS = 40
SETTLING_BATCH = 16


def random_pixels(device: Device, batch: int, size: int, sets: int = IMAGE_SETS) -> list[Tensor]:
    """Some times (batch, 3, size, size) uint8 on the device; never zeros, which run faster."""
    generator = torch.Generator(device.device).manual_seed(size)
    shape = (batch, 3, size, size)
    return [
        torch.randint(0, 256, shape, dtype=torch.uint8, device=device.device, generator=generator)
        for _ in range(sets)
    ]


def settle(network: SwitchableNetwork, device: Device) -> SwitchableNetwork:
    """Run a fresh network in training mode on random images, forward only; then evaluation mode.

    Its BatchNorms and bases then suit what they meet. As initialised, activations grow from block
    to block, may overflow float16, and all take the top level: data that hardly changes costs the
    device less power, and so less time, than a trained network's.

    Returns:
        The same network, on the CPU.
    """
    spec = network.spec
    network.to(device.device).train()
    images = [
        normalise(random_pixels(device, SETTLING_BATCH, size, 1)[0], spec.mean, spec.std)
        for size in network.resolutions
    ]
    with torch.no_grad():
        for _ in range(SETTLING_STEPS):
            network.forward_all(images)
    return network.to("cpu").eval()
