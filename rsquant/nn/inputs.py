"""What is wrong with the images given to a network, once it has failed on them."""

from __future__ import annotations

import torch
from torch import Tensor

_NORMALISE = "rsquant.data.transforms.normalise(images, network.spec.mean, network.spec.std)"
# Words of torch's refusals of dtypes, which differ by operation.
_OF_DTYPES = ("should be the same", "scalar type", "dtype", "not implemented for", "data type")


def complaint(images: Tensor, dtype: torch.dtype, error: Exception) -> str | None:
    """A line that says what the images are and what to pass; None if they are not the cause.

    Looked at after the failure: a network may well cast or transpose its images by itself.

    Args:
        images: should be (N, 3, H, W), normalised.
        dtype: of the network's parameters.
        error: what the network raised.
    """
    shape = tuple(images.shape)
    if images.dim() != 4:
        more = ", as images[None] of a single image" if images.dim() == 3 else ""
        return f"images: must be (N, 3, H, W), got {shape}; pass a batch{more}"
    if shape[1] != 3 and shape[3] == 3:
        return f"images: must be (N, 3, H, W), got {shape}; pass images.permute(0, 3, 1, 2)"
    if images.dtype != dtype and any(words in str(error) for words in _OF_DTYPES):
        return None if _autocast(images) else dtypes_line(images.dtype, dtype)
    return None


def dtypes_line(given: torch.dtype, wanted: torch.dtype) -> str:
    """The line for images of another dtype than the network's."""
    line = f"images: are {given}, but the network is {wanted}; "
    if given.is_floating_point:
        return f"{line}pass images.to({wanted}), or cast the network"
    cast = "" if wanted == torch.float32 else f".to({wanted})"
    return f"{line}normalise them first: {_NORMALISE}{cast}"


def _autocast(images: Tensor) -> bool:
    """Whether autocast makes these images of the dtype that it computes in."""
    enabled = torch.is_autocast_enabled(images.device.type)
    return enabled and images.is_floating_point() and images.dtype != torch.float64
