"""Decoding: every mode becomes RGB, every damage one short reason."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

from rsquant import decoding
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


def tiff(path: Path, bits: int, levels: list[int], photometric: int = 1, order: str = "<") -> Path:
    """One row of gray levels of 12 or 16 bits, which Pillow can read and not write."""
    if bits == 12:
        numbers = "".join(f"{level:012b}" for level in levels)
        data = int(numbers, 2).to_bytes(len(numbers) // 8, "big")
    else:
        data = struct.pack(f"{order}{len(levels)}H", *levels)
    short, long = 3, 4
    tags = [
        (256, short, len(levels)),
        (257, short, 1),
        (258, short, bits),
        (259, short, 1),
        (262, short, photometric),
        (273, long, 8),
        (277, short, 1),
        (278, short, 1),
        (279, long, len(data)),
    ]
    at = 8 + len(data) + len(data) % 2
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", at)
    table = struct.pack(f"{order}H", len(tags))
    for tag, kind, value in tags:
        number = struct.pack(f"{order}{'H' if kind == short else 'I'}", value)
        table += struct.pack(f"{order}HHI", tag, kind, 1) + number.ljust(4, b"\0")
    path.write_bytes(head + data.ljust(at - 8, b"\0") + table + bytes(4))
    return path


def test_twelve_bit_gray_has_the_whole_range(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", 12, [0, 8, 9, 16, 2048, 4095])
    # Rounded: level / 4095 * 255.
    np.testing.assert_array_equal(as_hwc(decode(path))[0, :, 1], [0, 0, 1, 1, 128, 255])


@pytest.mark.parametrize("order", "<>")
def test_sixteen_bit_gray_is_read_in_both_orders_of_bytes(tmp_path: Path, order: str) -> None:
    path = tiff(tmp_path / "a.tif", 16, [0, 4095, 65535], order=order)
    np.testing.assert_array_equal(as_hwc(decode(path))[0, :, 0], [0, 16, 255])


def test_gray_whose_zero_is_white_is_inverted(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", 16, [0, 65535 - 257, 65535], photometric=0)
    np.testing.assert_array_equal(as_hwc(decode(path))[0, :, 0], [255, 1, 0])


def test_twelve_bit_gray_of_a_pgm_has_the_whole_range(tmp_path: Path) -> None:
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 3 1 4095\n" + np.array([0, 2048, 4095], ">u2").tobytes())
    np.testing.assert_array_equal(as_hwc(decode(path))[0, :, 0], [0, 128, 255])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tif", "webp", "jpg"])
def test_images_are_turned_upright(tmp_path: Path, orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"a.{kind}"
    options = {"lossless": True} if kind == "webp" else {}
    Image.fromarray(gradient()).save(path, exif=exif, **options)
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
    got = decode(path)
    assert got.shape == ((3, 40, 60) if orientation < 5 else (3, 60, 40))
    assert got.permute(1, 2, 0).is_contiguous()
    np.testing.assert_array_equal(as_hwc(got), np.array(upright.convert("RGB")))


def test_wide_gray_and_palettes_are_turned_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    levels = gradient()[:, :, 0]
    Image.fromarray(levels.astype(np.uint16) * 257).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(as_hwc(decode(tmp_path / "a.png"))[:, :, 0], np.rot90(levels, -1))
    palette = Image.fromarray(gradient()).quantize(16)
    palette.save(tmp_path / "b.png", exif=exif, transparency=bytes([0] * 16))
    expected = np.rot90(np.array(palette.convert("RGB")), -1)
    np.testing.assert_array_equal(as_hwc(decode(tmp_path / "b.png")), expected)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0nonsense", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"]
)
def test_damaged_metadata_does_not_make_an_image_unreadable(tmp_path: Path, exif: bytes) -> None:
    Image.fromarray(gradient()).save(tmp_path / "a.jpg", exif=exif)
    assert decode(tmp_path / "a.jpg").shape == (3, 40, 60)


def test_an_orientation_that_does_not_exist_turns_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 9
    Image.fromarray(gradient()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(as_hwc(decode(tmp_path / "a.png")), gradient())


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
    monkeypatch.setattr(decoding, "MAX_PIXELS", 1_000_000)
    with pytest.raises(UnreadableImage, match="2000x2000 is more than 1 megapixels"):
        decode(stream.getvalue())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(UnreadableImage, match="more than 1 megapixels"):
        decode(stream.getvalue())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_strips_give_the_pixels_of_the_whole(tmp_path, monkeypatch, mode):
    """7 rows, two at a time; turned by EXIF too."""
    values = np.random.default_rng(0).integers(0, 256, (7, 5, 4), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(values[:, :, 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(values, "RGBA").convert("RGB").convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image.save(path, exif=exif)
    whole = decode(path)
    monkeypatch.setattr(decoding, "STRIP_PIXELS", 10)
    assert torch.equal(decode(path), whole)
    assert whole.float().std() > 0
