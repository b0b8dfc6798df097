"""What a user passes as images, as 8-bit pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def as_pixels(
    images: NDArray[Any], mean: tuple[float, ...], std: tuple[float, ...]
) -> NDArray[np.uint8]:
    """(N, 3, H, W) uint8, contiguous.

    Args:
        images: (N, 3, H, W): pixels as uint8 or, normalised with `mean` and `std`, as float32.
    Raises:
        TypeError: another dtype. ValueError: another shape.
    """
    if not isinstance(images, np.ndarray) or images.dtype not in (np.uint8, np.float32):
        got = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
        raise TypeError(f"images: must be a numpy array of uint8 or float32, got {got}")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(
            f"images: must have shape (N, 3, height, width), got {images.shape}"
            + ("; channels come first" if images.ndim == 4 and images.shape[-1] == 3 else "")
        )
    if images.dtype == np.float32:
        shift, scale = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (mean, std))
        shares = (images * scale + shift).clip(0, 1)
        # Not-a-number has no pixel; black is as good as any.
        return np.rint(np.nan_to_num(shares) * np.float32(255)).astype(np.uint8)
    return np.ascontiguousarray(images)
