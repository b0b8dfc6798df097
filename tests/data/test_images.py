"""Decoding: every mode becomes RGB, every damage one short reason."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rsquant.data import images
from rsquant.data.images import UnreadableImage, decode


def gradient(height: int = 40, width: int = 60) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 4, y * 6, (x + y) * 2], 2).astype(np.uint8)


def saved(image: Image.Image, path: Path) -> Path:
    image.save(path)
    return path


def as_hwc(tensor: torch.Tensor) -> np.ndarray:
    return tensor.permute(1, 2, 0).numpy()


def test_rgb_png_is_decoded_exactly_into_channels_last_memory(tmp_path: Path) -> None:
    image = decode(saved(Image.fromarray(gradient()), tmp_path / "a.png"))
    assert image.dtype == torch.uint8 and image.shape == (3, 40, 60)
    assert image.stride() == (1, 180, 3)
    np.testing.assert_array_equal(as_hwc(image), gradient())


def test_bytes_and_path_give_the_same_pixels(tmp_path: Path) -> None:
    path = saved(Image.fromarray(gradient()), tmp_path / "a.jpg")
    assert torch.equal(decode(path.read_bytes()), decode(str(path)))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_other_modes_become_what_pillow_converts_them_to(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(gradient()).convert(mode)
    path = saved(image, tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    np.testing.assert_array_equal(as_hwc(decode(path)), np.array(image.convert("RGB")))


def test_palette_with_transparency_keeps_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(gradient()).quantize(16)
    path = tmp_path / "a.png"
    image.save(path, transparency=bytes([0, 128] + [255] * 14))
    np.testing.assert_array_equal(as_hwc(decode(path)), np.array(image.convert("RGB")))


def test_gray_with_a_transparent_level_keeps_its_levels(tmp_path: Path) -> None:
    gray = gradient()[:, :, 0]
    Image.fromarray(gray).save(tmp_path / "a.png", transparency=8)
    np.testing.assert_array_equal(as_hwc(decode(tmp_path / "a.png"))[:, :, 1], gray)


def test_cmyk_jpeg_is_near_its_rgb_original(tmp_path: Path) -> None:
    path = saved(Image.new("RGB", (32, 32), (200, 60, 20)).convert("CMYK"), tmp_path / "a.jpg")
    # A flat colour: JPEG's quantization moves it by a few levels at most.
    assert np.abs(as_hwc(decode(path)).astype(int) - (200, 60, 20)).max() <= 4


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bit_gray_is_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    levels = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    path = saved(Image.fromarray(levels), tmp_path / name)
    np.testing.assert_array_equal(as_hwc(decode(path))[0, :, 2], [0, 0, 1, 1, 128, 255])


def test_32_bit_gray_is_scaled_like_16_bit(tmp_path: Path) -> None:
    levels = np.array([[-5, 0, 65535, 70000]], dtype=np.int32)
    path = saved(Image.fromarray(levels), tmp_path / "a.tif")
    np.testing.assert_array_equal(as_hwc(decode(path))[0, :, 0], [0, 0, 255, 255])


@pytest.mark.parametrize(
    ("min_side", "shape"),
    [(None, (600, 900)), (400, (600, 900)), (300, (300, 450)), (70, (75, 113))],
)
def test_jpeg_is_decoded_smaller_but_never_below_the_side_needed(
    tmp_path: Path, min_side: int | None, shape: tuple[int, int]
) -> None:
    path = saved(Image.fromarray(gradient(600, 900)), tmp_path / "a.jpg")
    assert decode(path, min_side).shape[1:] == shape


def test_truncated_file_is_unreadable(tmp_path: Path) -> None:
    path = saved(Image.fromarray(gradient(200, 200)), tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(UnreadableImage, match="truncated"):
        decode(path)


def test_zero_byte_file_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UnreadableImage, match="empty file"):
        decode(tmp_path / "a.jpg")
    with pytest.raises(UnreadableImage, match="empty file"):
        decode(b"")


def test_text_file_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(UnreadableImage, match="not an image"):
        decode(tmp_path / "a.jpg")


def test_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="No such file"):
        decode(tmp_path / "gone.jpg")


@pytest.mark.parametrize("mode", ["F", "LAB"])
def test_unsupported_mode_is_unreadable(tmp_path: Path, mode: str) -> None:
    path = saved(Image.new(mode, (8, 8)), tmp_path / "a.tif")
    with pytest.raises(UnreadableImage, match=f"mode {mode} is not supported"):
        decode(path)


def test_format_that_runs_a_program_is_refused() -> None:
    with pytest.raises(UnreadableImage, match="not an image in a known format"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EOF\n")


def test_decompression_bomb_is_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    Image.new("1", (2000, 2000)).save(stream, "PNG")
    monkeypatch.setattr(images, "MAX_PIXELS", 1_000_000)
    with pytest.raises(UnreadableImage, match="2000x2000 is more than 1 megapixels"):
        decode(stream.getvalue())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(UnreadableImage, match="more than 1 megapixels"):
        decode(stream.getvalue())
