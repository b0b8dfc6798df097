"""A BatchNormalization node as a product and a sum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray


def factor_and_offset(
    node: onnx.NodeProto, values: Sequence[NDArray[np.float32]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """y = factor x + offset per channel: gamma / sqrt(var + eps), beta - mean factor.

    Args:
        node: a BatchNormalization.
        values: gamma, beta, mean and variance, (C,) each.
    Returns:
        (C,) each.
    """
    gamma, beta, mean, var = (v.astype(np.float64) for v in values)
    eps = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    factor = gamma / np.sqrt(var + eps)
    return factor, beta - mean * factor
