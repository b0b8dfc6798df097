"""What a user passes as images and as `out`: checked, and laid out as the kernels need it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def as_pixels(
    images: NDArray[Any], mean: tuple[float, ...], std: tuple[float, ...]
) -> NDArray[np.uint8]:
    """(N, 3, H, W) uint8, contiguous; a view or any other order of memory is copied.

    Args:
        images: (N, 3, H, W): pixels as uint8 or, normalised with `mean` and `std`, as float32.
    Raises:
        TypeError: another type. ValueError: another shape.
    """
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
    if images.dtype != np.uint8:
        images = _pixels(images.astype(np.float32, copy=False), mean, std)
    if any(stride < 0 for stride in images.strides):  # numpy calls some of these contiguous
        return images.copy(order="C")
    return np.ascontiguousarray(images)


def as_logits(out: NDArray[np.float32] | None, images: int, classes: int) -> NDArray[np.float32]:
    """Contiguous memory for the logits: `out` itself, or new memory where `out` is a view.

    Raises:
        TypeError: no numpy array. ValueError: another dtype or shape, or read-only.
    """
    if out is None:
        return np.empty((images, classes), np.float32)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out: must be a numpy array of float32, got {_what_is(out)}")
    if out.dtype != np.float32 or out.shape != (images, classes):
        raise ValueError(f"out: must be float32 ({images}, {classes}), got {out.dtype} {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out: must be writeable, got a read-only array; pass a copy of it")
    if out.flags.c_contiguous and all(stride >= 0 for stride in out.strides):
        return out
    return np.empty((images, classes), np.float32)


def _pixels(
    images: NDArray[np.float32], mean: tuple[float, ...], std: tuple[float, ...]
) -> NDArray[np.uint8]:
    shift, scale = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (mean, std))
    shares = (images * scale + shift).clip(0, 1)
    # Not-a-number has no pixel; black is as good as any.
    return np.rint(np.nan_to_num(shares) * np.float32(255)).astype(np.uint8)


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
    return "make it one of these"


def _hint(images: NDArray[Any]) -> str:
    if images.ndim == 3 and 3 in (images.shape[0], images.shape[-1]):
        first = "images" if images.shape[0] == 3 else "images.transpose(2, 0, 1)"
        return f"; one image is a batch of 1: pass {first}[None]"
    if images.ndim == 4 and images.shape[-1] == 3:
        return "; channels come first: pass images.transpose(0, 3, 1, 2)"
    return ""
