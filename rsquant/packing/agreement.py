"""Whether a packed integer network computes the very codes of the network it was made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rsquant.data.transforms import normalise
from rsquant.errors import PackError
from rsquant.nn.integer.exact import codes_of
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.packed.build import build_program
from rsquant.runtime.cpu.session import Session

# What is compared last, beside codes.
LOGITS = "the logits"


@dataclass
class Compared:
    """Codes of some layers, two by two.

    Attributes:
        codes: how many were compared, logits not counted.
        other: by name of a layer, in order, how many differ; `LOGITS` is the last. Those that
            agree are left out.
    """

    codes: int = 0
    other: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, own: NDArray[Any], theirs: NDArray[Any]) -> None:
        """Count the differences of a layer."""
        if other := own.size if own.shape != theirs.shape else int((own != theirs).sum()):
            self.other[name] = other


def check_codes(network: SwitchableNetwork, session: Session, values: Mapping[str, int]) -> int:
    """Run an image of noise at every resolution, and one between two of them, through both.

    Args:
        network, session, values: as in `compare_codes`.
    Returns:
        How many codes were compared.
    Raises:
        PackError: naming the first layer with another code.
    """
    spec, compared = network.spec, 0
    sizes = [(size, size) for size in spec.resolutions]
    if len(sizes) > 1:
        sizes.append((spec.resolutions[0], spec.resolutions[-1]))
    rng = np.random.default_rng(0)
    for height, width in sizes:
        pixels = rng.integers(0, 256, (1, 3, height, width), dtype=np.uint8)
        found = compare_codes(network, session, values, pixels)
        for name in found.other:
            raise PackError(
                f"{name} of the packed file differs from the network's (a fault of rsquant, not "
                "of your network)"
            )
        compared += found.codes
    return compared


@torch.no_grad()
def compare_codes(
    network: SwitchableNetwork,
    session: Session,
    values: Mapping[str, int],
    pixels: NDArray[np.uint8],
) -> Compared:
    """Every code of every layer, and the logits, of one image in the network and in its file.

    Args:
        network: in evaluation mode.
        session: of its packed file.
        values: by name of a layer, the value of the file that holds what it gives.
        pixels: (1, 3, H, W).
    """
    spec, compared = network.spec, Compared()
    with _codes(network, values) as found:
        logits = network(normalise(torch.from_numpy(pixels), spec.mean, spec.std))
    program = build_program(session.packed, *pixels.shape[2:])
    for name, codes in found.items():
        own = session.value(pixels, values[name]).astype(np.int64)
        own -= program.values[values[name]].fill
        theirs = codes[0].cpu().numpy()
        theirs = theirs.transpose(1, 2, 0) if theirs.ndim == 3 else theirs[None, None]
        compared.add(name, own, theirs)
        compared.codes += own.size
    compared.add(LOGITS, session(pixels), logits.cpu().numpy())
    return compared


@contextmanager
def _codes(network: SwitchableNetwork, values: Mapping[str, int]) -> Iterator[dict[str, Tensor]]:
    """Codes of layers, by name, of the forwards within."""
    found: dict[str, Tensor] = {}

    def note(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, args: object, result: Tensor) -> None:
            found[name] = codes_of(result, module.out, network.active.rows)  # type: ignore[arg-type]

        return layer.register_forward_hook(hook)

    layers = dict(network.body.named_modules())
    named = [(name, layers[name]) for name in values if name in layers]
    handles = [note(name, layer) for name, layer in named if hasattr(layer, "out")]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
