"""Weight levels of a convolution, in the one form that kernels compute with.

    level = offset_o + sum_k basis_ok b_k        b in {0, 1}: the bits of a weight

A file without offsets stores half the basis, level = sum_k p_k (2 b_k - 1): the basis is then 2 p
and the offset -sum_k p_k.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Digits = tuple[NDArray[np.int64], NDArray[np.int64]]


def digits(name: str, tensors: Mapping[str, NDArray[Any]]) -> Digits:
    """Basis (O, K) and offset (O,) of the convolution of a name."""
    basis = tensors[f"{name}.basis"].astype(np.int64)
    offset = tensors.get(f"{name}.offset")
    if offset is None:
        return 2 * basis, -basis.sum(1)
    return basis, offset.astype(np.int64)


def largest(basis: NDArray[np.int64], offset: NDArray[np.int64]) -> int:
    """The largest size of a level, of all bits that a weight could have."""
    # The highest is offset + (sum |b| + sum b) / 2, the lowest offset - (sum |b| - sum b) / 2.
    basis = basis.T.copy()  # rows of K would be added up one by one
    return int((np.abs(basis).sum(0) + np.abs(2 * offset + basis.sum(0))).max()) // 2


def sums(
    basis: NDArray[np.int64], offset: NDArray[np.int64], planes: NDArray[np.uint8], taps: int
) -> NDArray[np.int64]:
    """(O,): the sum of the levels of each output channel's `taps` weights.

    sum over taps of offset + sum_k basis_k bit_k = taps offset + sum_k basis_k popcount_k
    """
    ones = np.bitwise_count(planes.view(np.uint64)).sum(-1, dtype=np.int64)  # (K, O)
    total: NDArray[np.int64] = taps * offset + (ones * basis.T).sum(0)
    return total
