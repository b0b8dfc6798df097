"""The bytes that codes are stored as."""

import numpy as np


def levels_of(basis):
    """All sums of subsets, ascending: bytes of codes."""
    patterns = np.arange(2 ** len(basis))[:, None] >> np.arange(len(basis)) & 1
    return np.sort(patterns @ np.array(basis)).astype(np.uint8)
