"""What a user passes as images and as `out`: checked, and laid out as the kernels need it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsquant.errors import ImageRangeWarning

# No usual mean and std make a pixel larger than this; white is 2.64 in ImageNet's.
LARGEST_NORMALISED = 20.0
# Normalised pixels that all lie in 0 to 1 are within a fifth of the range from black to white;
# unnormalised ones of this contrast or more are photographs.
SMALLEST_CONTRAST = 0.5


class PixelReader:
    """Turns images into 8-bit pixels; warns once of floats that look unnormalised.

    Args:
        mean, std: what float images are normalised with, in units of 0 to 1.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self._shift, self._scale = (
            np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (mean, std)
        )
        # What black and white are, normalised.
        self._low = min(-m / s for m, s in zip(mean, std, strict=True))
        self._high = max((1 - m) / s for m, s in zip(mean, std, strict=True))
        self._warned = False

    def __call__(self, images: NDArray[Any]) -> NDArray[np.uint8]:
        """(N, 3, H, W) uint8, contiguous; a view or any other order of memory is copied.

        Args:
            images: (N, 3, H, W): pixels as uint8 or, normalised, as float32.
        Raises:
            TypeError: another type. ValueError: another shape, NaN or infinity.
        """
        _check(images)
        if images.dtype != np.uint8:
            images = self._pixels(images.astype(np.float32, copy=False))
        if any(stride < 0 for stride in images.strides):  # numpy calls some of these contiguous
            return images.copy(order="C")
        return np.ascontiguousarray(images)

    def _pixels(self, images: NDArray[np.float32]) -> NDArray[np.uint8]:
        low, high = float(images.min()), float(images.max())  # NaN where there is one
        if not (math.isfinite(low) and math.isfinite(high)):
            wrong = np.flatnonzero(~np.isfinite(images).all((1, 2, 3)))
            raise ValueError(
                f"images: must be finite, but image {wrong[0]} of {len(images)} has NaN or "
                f"infinity ({len(wrong)} such); check how it was computed"
            )
        self._check_range(low, high)
        shares = images * self._scale
        shares += self._shift
        np.clip(shares, 0, 1, out=shares)
        shares *= np.float32(255)
        return np.rint(shares, out=shares).astype(np.uint8)

    def _check_range(self, low: float, high: float) -> None:
        """Warn of pixels of 0 to 255 or 0 to 1, unless the network is normalised to these.

        A plain image says nothing: zeros are what one warms up with, and bright ones are above 0.
        """
        if self._warned or low < 0 or high - low < SMALLEST_CONTRAST:
            return
        if high > LARGEST_NORMALISED and self._high < LARGEST_NORMALISED:
            what = "pixels of 0 to 255; pass them as uint8"
        elif high <= 1 and self._low < 0:
            what = (
                "shares of 0 to 1 that are not normalised; pass (images - mean) / std, or "
                "np.rint(255 * images).astype(np.uint8)"
            )
        else:
            return
        self._warned = True
        warnings.warn(
            f"images: floats of {low:.3g} to {high:.3g} look like {what}. Floats must be "
            f"normalised with the network's mean and std: black is {self._low:.2f}, white "
            f"{self._high:.2f}. (This warning is shown once per session.)",
            ImageRangeWarning,
            stacklevel=5,
        )


def _check(images: NDArray[Any]) -> None:
    """Raise for what is no batch of images."""
    if not isinstance(images, np.ndarray):
        raise TypeError(
            f"images: must be a numpy array of uint8 or float32, got {_what_is(images)}"
        )
    # A byte order is not a type: files and networks hold floats of either.
    if images.dtype != np.uint8 and images.dtype.newbyteorder("=") != np.float32:
        raise TypeError(
            f"images: must be a numpy array of uint8 or float32, got {images.dtype}; "
            f"{_conversion(images.dtype)}"
        )
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(
            f"images: must have shape (N, 3, height, width), got {images.shape}{_hint(images)}"
        )


def as_logits(out: NDArray[np.float32] | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Contiguous memory for the logits: `out` itself, or new memory where `out` is a view.

    Raises:
        TypeError: no numpy array. ValueError: another dtype or shape, or read-only.
    """
    if out is None:
        return np.empty(shape, np.float32)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out: must be a numpy array of float32, got {_what_is(out)}")
    if out.dtype != np.float32 or out.shape != shape:
        raise ValueError(f"out: must be float32 {shape}, got {out.dtype} {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out: must be writeable, got a read-only array; pass a copy of it")
    if out.flags.c_contiguous and all(stride >= 0 for stride in out.strides):
        return out
    return np.empty(shape, np.float32)


def _what_is(given: object) -> str:
    """The type of what is no array, and how it becomes one."""
    kind = type(given)
    name = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
    if hasattr(given, "detach") and hasattr(given, "cpu"):  # torch is not imported to ask
        return f"a {name}; pass .detach().cpu().numpy() of it"
    if isinstance(given, (list, tuple)):
        return f"a {kind.__name__}; pass np.stack of its images, or call once for each"
    if hasattr(given, "__array__") or hasattr(given, "__array_interface__"):
        return f"a {name}; pass np.asarray of it, channels first"
    return f"a {kind.__name__}"


def _conversion(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "f":
        return "use .astype(np.float32)"
    if dtype.kind in "iu":
        return "for pixels of 0 to 255 use .astype(np.uint8)"
    return "convert it to one of these"


def _hint(images: NDArray[Any]) -> str:
    if images.ndim == 3 and 3 in (images.shape[0], images.shape[-1]):
        first = "images" if images.shape[0] == 3 else "images.transpose(2, 0, 1)"
        return f"; one image is a batch of 1: pass {first}[None]"
    if images.ndim == 4 and images.shape[-1] == 3:
        return "; channels come first: pass images.transpose(0, 3, 1, 2)"
    return ""
