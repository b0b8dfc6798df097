"""torch's generator inside of a block, for libraries that take no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Draw by this seed inside the block, on the CPU; afterwards the generator is as before.

    Args:
        seed: 0 to 2**63 - 1.
    """
    before = torch.get_rng_state()
    try:
        # Not torch.manual_seed, which seeds GPUs too.
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(before)
