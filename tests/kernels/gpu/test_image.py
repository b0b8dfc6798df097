"""The image as the GPU's kernels read it."""

import numpy as np
import torch

from rsquant.kernels.gpu import words
from rsquant.kernels.gpu.image import load_image


def test_the_image_is_read_as_words(gpu):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 7)).astype(np.uint8)
    out = torch.empty(2, 5, 7, 1, dtype=torch.int32, device=gpu)
    load_image(torch.from_numpy(images).to(gpu), out)
    found = words.unpack(out.cpu(), 4, 8).numpy()
    assert np.array_equal(found[..., :3], images.transpose(0, 2, 3, 1))
    assert (found[..., 3] == 255).all()
