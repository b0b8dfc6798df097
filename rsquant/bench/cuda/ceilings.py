"""What a device can do at most: a large copy and large matrix products, timed with the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from rsquant.bench.cuda.device import Device
from rsquant.bench.timing import Times

SIDE = 8192
COPIED = 2**30


@dataclass(frozen=True)
class Ceiling:
    """A call and what it does: bytes read and written, or multiply-adds."""

    call: Callable[[], object]
    amount: float


@dataclass(frozen=True)
class Rates:
    """What was reached, per second; None where the device cannot do it.

    Attributes:
        bytes: of a copy inside the device's memory, read and written.
        bf16, int8: multiply-adds of a square matrix product.
    """

    bytes: float
    bf16: float
    int8: float | None


def ceilings(device: Device, side: int = SIDE, copied: int = COPIED) -> dict[str, Ceiling]:
    """The calls, named as in Rates; on random data, since zeros take less power and run faster.

    Args:
        side: of the matrices. copied: bytes of the copy, at most an eighth of the memory.
    """
    at = device.device
    generator = torch.Generator(at).manual_seed(0)
    count = min(copied, device.memory_bytes // 8)
    source = torch.randint(0, 256, (count,), dtype=torch.uint8, device=at, generator=generator)
    target = torch.empty_like(source)
    macs = float(side) ** 3

    def normal() -> torch.Tensor:
        values = torch.randn(side, side, device=at, generator=generator)
        return values.to(torch.bfloat16)

    a, b = normal(), normal()
    product = torch.empty_like(a)
    found = {
        "bytes": Ceiling(lambda: target.copy_(source), 2.0 * count),
        "bf16": Ceiling(lambda: torch.mm(a, b, out=product), macs),
    }

    def integers() -> torch.Tensor:
        shape = (side, side)
        return torch.randint(-127, 128, shape, dtype=torch.int8, device=at, generator=generator)

    # The second factor transposed in memory is the one form that cuBLAS has for int8 everywhere.
    left, right = integers(), integers().t()
    sums = torch.empty(side, side, dtype=torch.int32, device=at)
    if runs(lambda: torch._int_mm(left, right, out=sums)):
        found["int8"] = Ceiling(lambda: torch._int_mm(left, right, out=sums), macs)
    return found


def rates(found: Mapping[str, Ceiling], times: Mapping[str, Times]) -> Rates:
    """Amount by the fastest time: anything that slows a sample is no property of the device."""
    reached = {name: c.amount / (times[name].fastest / 1e3) for name, c in found.items()}
    return Rates(reached["bytes"], reached["bf16"], reached.get("int8"))


def runs(call: Callable[[], object]) -> bool:
    """Whether a library has what a call asks of it; want of memory is raised all the same."""
    try:
        call()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return False
    return True
