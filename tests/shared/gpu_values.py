"""Every value that a session on a GPU computes, as the specification has them."""

import numpy as np
import torch

from rsquant.kernels.gpu import support, words


def all_values(session, pixels):
    """Arrays (N, H, W, C) as `packed.program.run` has them: bytes, also of codes, or floats.

    Each is read after the step that writes it, before another takes its place.

    Args:
        pixels: (N, 3, H, W) uint8.
    """
    images = torch.from_numpy(session._pixels(pixels).copy())
    found = []
    with support.current(session.device):
        graph = session._at(images.shape[2], images.shape[3], len(images))
        graph.images.copy_(images)
        for launch in graph.launches:
            launch.run()
            for number in range(len(found), launch.last_value + 1):
                stored = graph.values[number].cpu()
                found.append(_as_bytes(graph.program.values[number], stored))
    return found


def _as_bytes(value, stored):
    if value.kind == "image":
        return words.unpack(stored, 4, 8).numpy()
    if value.kind in ("float", "bytes"):
        return stored[..., : value.channels].numpy().copy()
    field = words.field_bits(len(value.basis))
    fields = words.unpack(stored, value.channels, field).numpy()
    return np.asarray(sum(q * (fields >> k & 1) for k, q in enumerate(value.basis)), np.uint8)
