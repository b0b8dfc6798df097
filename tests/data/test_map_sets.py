"""Images with label files: three layouts, all kinds of label files, and what is refused."""

import shutil
import struct
import zlib

import map_set
import numpy as np
import pytest
import torch
from PIL import Image

from rsquant.data.images import UnreadableImage
from rsquant.data.label_maps import Classes, decode_numbers
from rsquant.data.map_sets import open_maps
from rsquant.data.split import IGNORED
from rsquant.errors import DataError


@pytest.fixture
def folder(tmp_path):
    return map_set.write_set(tmp_path / "set")


def test_the_layout_of_camvid(folder):
    source = open_maps(str(folder))
    assert source.classes == ("Sky", "Road", "Car") and source.name == "set"
    assert (len(source.train), len(source.val)) == (4, 2)
    assert source.val.name(0).endswith("images/frame_4.png")
    # Number 2 is ignored, number 3 the third class.
    expected = np.array([0, 1, IGNORED, 2])[map_set.numbers(4)]
    assert np.array_equal(source.val.label(0).numpy(), expected)
    assert source.val.image(0).shape == (3, 36, 48)
    assert len(open_maps(str(folder), 2, 1).train) == 2
    moved = shutil.copytree(folder, folder.parent / "other")
    assert open_maps(str(moved)).fingerprint == source.fingerprint != ""
    (moved / "splits" / "val.txt").write_text("\ufeffframe_5.png\n")  # as some editors begin it
    assert open_maps(str(moved)).fingerprint != source.fingerprint


def test_folders_of_splits_and_classes_from_the_labels(tmp_path):
    for part, i in (("train", 0), ("train", 1), ("test", 2)):
        for kind, scale in (("images", 60), ("labels", 1)):
            place = tmp_path / kind / part / "city"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(map_set.numbers(i) * scale).save(place / f"{i}.png")
    source = open_maps(str(tmp_path))
    assert source.classes == ("0", "1", "2", "3") and (len(source.train), len(source.val)) == (2, 1)
    assert source.val.name(0).endswith("test/city/2.png")


@pytest.mark.parametrize("suffix", ["labelIds", "labelTrainIds"])
def test_the_layout_of_cityscapes(suffix, tmp_path):
    # Road, car, and "ego vehicle", which is no class of the benchmark.
    ids = np.array([[7, 26], [1, 7]], np.uint8)
    if suffix == "labelTrainIds":
        ids = np.array([[0, 13], [255, 0]], np.uint8)
    for part in ("train", "val"):
        for kind, name, pixels in (
            ("leftImg8bit", "a_1_leftImg8bit", ids),
            ("gtFine", f"a_1_gtFine_{suffix}", ids),
            ("gtFine", "a_1_gtFine_color", ids),
        ):
            place = tmp_path / kind / part / "a"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{name}.png")
    source = open_maps(str(tmp_path))
    assert len(source.classes) == 19 and len(source.train) == len(source.val) == 1
    assert source.val.label(0).tolist() == [[0, 13], [IGNORED, 0]]
    assert source.classes[13] == "car"


def test_every_kind_of_label_file(tmp_path):
    grey = np.array([[0, 3], [11, 255]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    palette = Image.fromarray(grey, mode="P")
    palette.putpalette([v for i in range(256) for v in (255 - i, i, 7)])
    palette.save(tmp_path / "palette.png")
    Image.fromarray(grey.astype(np.uint16) * 100).save(tmp_path / "deep.png")
    Image.fromarray(grey > 0).save(tmp_path / "bits.png")
    for name, expected in (("grey", grey), ("palette", grey), ("bits", grey > 0)):
        assert np.array_equal(decode_numbers(tmp_path / f"{name}.png"), expected)
    assert decode_numbers(tmp_path / "deep.png").tolist() == [[0, 300], [1100, 25500]]
    Image.fromarray(np.stack([grey] * 3, 2)).save(tmp_path / "colours.png")
    noise = np.random.default_rng(0).integers(0, 9, (64, 64), np.uint8)
    Image.fromarray(noise).save(tmp_path / "torn.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "torn.png").read_bytes()[:500])
    (tmp_path / "text.png").write_text("no image")
    for name, reason in (
        ("torn", "labels: [^/]*(truncated|broken)[^/]*"),
        ("none", "labels: No such file or directory"),
        ("text", "labels: not an image in a known format"),
    ):
        # In a few words: who skips the image names it, and a path could be long.
        with pytest.raises(UnreadableImage, match=f"^{reason}$"):
            decode_numbers(tmp_path / f"{name}.png")
    Image.fromarray(grey).convert("LA").save(tmp_path / "clear.png")
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "shares.tif")
    for name, reason in (
        ("colours.png", r"has colours \(mode RGB\)"),
        ("clear.png", r"has transparency \(mode LA\)"),
        ("shares.tif", r"has fractions \(mode F\)"),
    ):
        with pytest.raises(DataError, match=f"{name} {reason}; a label file is grey"):
            decode_numbers(tmp_path / name)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_levels_of_few_bits_are_numbers(bits, tmp_path):
    """A PNG file of 4 x 1 pixels, which Pillow cannot write."""
    levels = np.array([0, 1, 2**bits - 1, 1], np.uint8)
    packed = np.packbits(np.unpackbits(levels[:, None], axis=1)[:, 8 - bits :].ravel()).tobytes()

    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + packed)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
    (tmp_path / "a.png").write_bytes(png)
    assert decode_numbers(tmp_path / "a.png").tolist() == [levels.tolist()]


def test_numbers_without_a_meaning_are_named():
    classes = Classes.listed(["a", "b(ignore)", "c"])
    assert classes.apply(np.array([[0, 1, 2, 255]]), "x").tolist() == [[0, IGNORED, 1, IGNORED]]
    with pytest.raises(
        DataError, match=r"x has the label 7 at row 1, column 0, .* \(numbers 0 to 2, 255"
    ):
        classes.apply(np.array([[0, 1], [7, 0]]), "x")
    with pytest.raises(DataError, match="1 to 254 classes can be told apart, got 255"):
        Classes.listed([str(i) for i in range(255)])


@pytest.mark.parametrize(
    "damage,message",
    [
        (lambda f: (f / "labels" / "frame_1.png").unlink(), "lists frame_1, and .*labels has no"),
        (lambda f: (f / "images" / "frame_5.png").unlink(), "lists frame_5, and .*images has no"),
        (lambda f: (f / "splits" / "train.txt").write_text("\n"), "lists no images"),
        (lambda f: (f / "splits" / "val.txt").write_bytes(b"\xff"), "val.txt is not UTF-8 text"),
        (lambda f: (f / "splits" / "val.txt").unlink(), "has no .*val.txt or .*test.txt"),
        (lambda f: shutil.rmtree(f / "splits"), "has no folder train"),
        (lambda f: shutil.rmtree(f / "labels"), "lists frame_0, and .*labels has no"),
        (lambda f: (f / "classes.txt").write_text("a\na\n"), "must name each class once"),
        (lambda f: (f / "classes.txt").write_text("a (Ignore)\n"), "classes.txt names no class"),
        (
            lambda f: shutil.copy(f / "images" / "frame_0.png", f / "images" / "frame_0.jpg"),
            "have one name",
        ),
    ],
)
def test_incomplete_sets_are_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(DataError, match=message):
        open_maps(str(folder))


def test_other_folders_are_refused(tmp_path):
    for spec, limits, message in (
        (str(tmp_path), (), "is no set of images and label files; required layout"),
        ("nowhere", (), "'nowhere' is not a folder of images"),
        (str(tmp_path), (0,), "train_images must be at least 1"),
    ):
        with pytest.raises(DataError, match=message):
            open_maps(spec, *limits)
    for kind in ("images", "labels"):
        for part in ("train", "val"):
            (tmp_path / kind / part).mkdir(parents=True)
    with pytest.raises(DataError, match="holds no images"):
        open_maps(str(tmp_path))
    Image.new("L", (4, 4)).save(tmp_path / "labels" / "train" / "a.png")
    with pytest.raises(DataError, match=r"has no counterpart of that name in .*images/train"):
        open_maps(str(tmp_path))


def test_pairs_are_checked_before_training(folder):
    split = open_maps(str(folder)).train
    quarter = 36 * 48 // 4  # of each image are of one number, and number 2 is ignored
    assert split.check(32).tolist() == [4 * quarter] * 3
    with pytest.raises(DataError, match="is 48x36 pixels, and the network needs 40 each way"):
        split.check(40)
    path = folder / "labels" / "frame_2.png"
    Image.fromarray(map_set.numbers(2)[:, :40]).save(path)
    with pytest.raises(DataError, match=r"is 40x36 pixels and its image .* 48x36; both"):
        split.check(32)
    Image.fromarray(map_set.numbers(2) + 3).save(path)
    with pytest.raises(DataError, match=r"labels/frame_2\.png has the label"):
        split.check(32)


def test_a_part_without_a_pixel_of_a_class_is_refused(folder):
    for i in (4, 5):  # number 2 is ignored
        pixels = np.full((36, 48), 2, np.uint8)
        Image.fromarray(pixels).save(folder / "labels" / f"frame_{i}.png")
    source = open_maps(str(folder))
    source.train.check(32)
    with pytest.raises(DataError, match=r"frame_4.png and all 2 label maps of this part have ign"):
        source.val.check(32)


TORN = r"1 of 4 label maps .*at most 1 % .* first is .*/labels/frame_2.png: labels: not an image"


def test_more_torn_label_files_than_the_loader_skips_are_told_before(folder):
    path = folder / "labels" / "frame_2.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=TORN):
        open_maps(str(folder)).train.check(32)
    names = "frame_2\n" + "frame_0\n" * 99  # one in a hundred
    (folder / "splits" / "train.txt").write_text(names)
    open_maps(str(folder)).train.check(32)


def test_numbers_beyond_the_classes_there_can_be_need_a_list(folder):
    (folder / "classes.txt").unlink()
    deep = map_set.numbers(1).astype(np.uint16) * 100
    Image.fromarray(deep).save(folder / "labels" / "frame_1.png")
    with pytest.raises(DataError, match=r"frame_1.png has the label 300, and without .*.txt"):
        open_maps(str(folder))


def test_labels_are_uint8_and_small(folder):
    assert open_maps(str(folder)).train.label(0).dtype == torch.uint8
