"""Crops against Pillow and torchvision."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as V

from rsquant.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    crop_box,
    evaluation_crop,
    normalise,
    resize,
    training_crop,
    training_side,
)
from rsquant.errors import DataError


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def smooth(height: int, width: int) -> torch.Tensor:
    return resize(noise(8, 8), height, width)


def difference(a: torch.Tensor, b: torch.Tensor) -> int:
    return int((a.int() - b.int()).abs().max())


def pillow(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


@pytest.mark.parametrize("size", [(24, 24), (96, 50), (200, 333), (64, 65)])
def test_resize_equals_pillow(size: tuple[int, int]) -> None:
    image = noise(131, 177)
    expected = pillow(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    # Both use fixed-point weights; the last bit may round differently.
    assert difference(resize(image, *size), V.pil_to_tensor(expected)) <= 1


def test_resize_of_a_strided_view_equals_resize_of_its_copy() -> None:
    view = noise(90, 120)[:, 11:71, 7:100]
    assert torch.equal(resize(view, 32, 32), resize(view.clone(), 32, 32))


def test_resized_images_have_the_layout_of_batches() -> None:
    for image in (noise(50, 40), noise(50, 40).contiguous(), noise(50, 40)[:, 3:, 5:20]):
        assert resize(image, 24, 16).stride() == (1, 3 * 16, 3)  # else copying them takes longer


def test_training_crop_equals_pillow_crop_and_resize() -> None:
    image = noise(150, 200)
    top, left, h, w = crop_box(150, 200, np.random.default_rng(3), (0.3, 0.9), (0.75, 4 / 3))
    out = training_crop(image, (64, 48), np.random.default_rng(3), (0.3, 0.9), flip=False)
    part = pillow(image).crop((left, top, left + w, top + h))
    for tensor, side in zip(out, (64, 48), strict=True):
        expected = part.resize((side, side), Image.Resampling.BILINEAR)
        assert difference(tensor, V.pil_to_tensor(expected)) <= 1


def test_single_crop_shows_the_same_region_at_every_size() -> None:
    for seed in range(20):
        out = training_crop(smooth(200, 260), (128, 96, 64), np.random.default_rng(seed))
        for small in out[1:]:
            again = resize(out[0], small.shape[1], small.shape[2])
            assert (again.float() - small.float()).abs().mean() < 2


def test_multi_crop_shows_different_regions() -> None:
    out = training_crop(smooth(200, 260), (96, 96, 96), np.random.default_rng(0), crop="multi")
    assert (out[0].float() - out[1].float()).abs().mean() > 5
    assert (out[1].float() - out[2].float()).abs().mean() > 5


def test_half_of_the_crops_are_flipped_and_none_without_flip() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).expand(3, 64, 64).contiguous()

    def flipped(seed: int, flip: bool) -> bool:
        (out,) = training_crop(ramp, (32,), np.random.default_rng(seed), (0.9, 1.0), flip=flip)
        return bool(out[0, 0, 0] > out[0, 0, -1])

    # 200 fair tosses: 100 +- 4 standard deviations of 7.07.
    assert 72 <= sum(flipped(s, True) for s in range(200)) <= 128
    assert not any(flipped(s, False) for s in range(50))


def test_crop_boxes_are_distributed_as_torchvisions() -> None:
    ours = np.array(
        [
            crop_box(300, 400, np.random.default_rng(s), (0.08, 1), (0.75, 4 / 3))
            for s in range(3000)
        ]
    )
    torch.manual_seed(0)
    theirs_transform = v2.RandomResizedCrop(8)
    boxes = [theirs_transform.make_params([torch.empty(3, 300, 400)]) for _ in range(3000)]
    theirs = np.array([[b["top"], b["left"], b["height"], b["width"]] for b in boxes])
    # Means of 3000 draws of standard deviation < 100 differ by < 4 * 100 * sqrt(2 / 3000).
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=10.4)
    np.testing.assert_allclose(ours.std(0), theirs.std(0), atol=8)


@pytest.mark.parametrize(
    ("size", "box"),
    [((20, 1000), (0, 486, 20, 27)), ((1000, 20), (486, 0, 27, 20)), ((1, 1), (0, 0, 1, 1))],
)
def test_extreme_shapes_fall_back_to_the_largest_centred_box(
    size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    assert crop_box(*size, np.random.default_rng(0), (0.9, 1.0), (0.75, 4 / 3)) == box


def test_no_training_crop_is_enlarged_from_an_image_of_training_side() -> None:
    side = training_side(96, (0.08, 1.0))
    boxes = [
        crop_box(side, side + 50, np.random.default_rng(s), (0.08, 1), (0.75, 4 / 3))
        for s in range(2000)
    ]
    assert min(min(h, w) for _, _, h, w in boxes) >= 96


def test_unknown_crop_is_refused() -> None:
    with pytest.raises(DataError, match="crop must be 'single' or 'multi', got 'double'"):
        training_crop(noise(8, 8), (4,), np.random.default_rng(0), crop="double")


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (96, 96), (40, 41), (20, 900)])
@pytest.mark.parametrize("resolution", [96, 224, 33])
def test_evaluation_crop_equals_torchvision(size: tuple[int, int], resolution: int) -> None:
    image = noise(*size)
    reference = v2.Compose([v2.Resize(int(resolution / 0.875)), v2.CenterCrop(resolution)])
    out = evaluation_crop(image, resolution)
    assert out.shape == (3, resolution, resolution)
    assert difference(out, reference(image)) <= 1


def test_normalise_equals_torchvision_and_is_channels_last() -> None:
    batch = torch.stack([noise(16, 16, s) for s in range(3)])
    out = normalise(batch, IMAGENET_MEAN, IMAGENET_STD)
    reference = V.normalize(batch.float() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))
    assert out.is_contiguous(memory_format=torch.channels_last)
    # Values up to 2.7; a handful of float32 roundings of 2**-23 relative each.
    torch.testing.assert_close(out, reference, rtol=0, atol=2e-6)
