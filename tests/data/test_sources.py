"""What the name of a data set opens, and what it says when it cannot."""

import builtins
import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image

from rsquant.data import open_source
from rsquant.data.images import UnreadableImage
from rsquant.data.torchvision_sets import available
from rsquant.errors import DataError


def make_folder(root: Path, train: dict[str, int], val: dict[str, int] | None = None) -> Path:
    for part, classes in (("train", train), ("val", train if val is None else val)):
        for name, count in classes.items():
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (6, 5), (i, 0, 0)).save(root / part / name / f"{i:03}.png")
    return root


def test_folder_lists_classes_and_files_in_name_order(tmp_path: Path) -> None:
    source = open_source(str(make_folder(tmp_path, {"dog": 2, "cat": 3})))
    assert source.classes == ("cat", "dog")
    assert [source.train.label(i) for i in range(5)] == [0, 0, 0, 1, 1]
    assert [Path(source.val.name(i)).name[:3] for i in range(5)] == [
        "000",
        "001",
        "002",
        "000",
        "001",
    ]
    assert source.train.name(3) == str(tmp_path / "train" / "dog" / "000.png")
    assert source.train.image(4)[:, 0, 0].tolist() == [1, 0, 0]


def test_folder_skips_hidden_and_other_files_and_enters_subfolders(tmp_path: Path) -> None:
    make_folder(tmp_path, {"cat": 1})
    cat = tmp_path / "train" / "cat"
    (cat / "._000.png").write_bytes(b"x")
    (cat / "notes.txt").write_text("x")
    (cat / "naïve").mkdir()
    Image.new("RGB", (2, 2)).save(cat / "naïve" / "B.JPG")
    (tmp_path / "train" / ".git").mkdir()
    train = open_source(str(tmp_path)).train
    assert [train.name(i) for i in range(len(train))] == [
        str(cat / "000.png"),
        str(cat / "naïve" / "B.JPG"),
    ]


def test_every_name_of_an_image_counts_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    make_folder(tmp_path, {"cat": 1})
    cat = tmp_path / "train" / "cat"
    picture = Image.new("RGB", (6, 5), (9, 0, 0))
    for name, kind in (
        ("a.jfif", "JPEG"),
        ("b.JPE", "JPEG"),
        ("c", "JPEG"),
        ("d", "PNG"),
        ("e", "WEBP"),
        ("f", "TIFF"),
        ("g", "GIF"),
        ("h", "BMP"),
        ("i", "PPM"),
        ("j.j2k", "JPEG2000"),
        ("k", "JPEG2000"),
        ("l", "AVIF"),
    ):
        picture.save(cat / name, kind)
    for name in ("README", "empty", "m.txt", "n.webm"):
        (cat / name).write_text("" if name == "empty" else "Biggest cat")
    (cat / "o").symlink_to(cat / "nowhere")
    source = open_source(str(tmp_path), train_images=13)
    train = [source.train.name(i) for i in range(len(source.train))]
    assert [Path(name).name[0] for name in train] == list("0abcdefghijkl")
    assert all(source.train.image(i).shape == (3, 5, 6) for i in range(len(train)))
    assert source.note.startswith("data: 5 files are not images (judged by name")
    assert "train/cat/" in source.note
    for name in ("README", "empty", "m.txt", "n.webm", "o"):
        (cat / name).unlink()
    assert open_source(str(tmp_path)).note == ""


@pytest.mark.parametrize(
    ("limit", "per_class"),
    [(6, [2, 2, 2]), (7, [3, 2, 2]), (11, [4, 5, 2]), (2, [1, 1, 0]), (99, [4, 9, 2])],
)
def test_limit_takes_an_even_share_of_every_class(
    tmp_path: Path, limit: int, per_class: list[int]
) -> None:
    make_folder(tmp_path, {"a": 4, "b": 9, "c": 2})
    first = open_source(str(tmp_path), train_images=limit)
    second = open_source(str(tmp_path), seed=7, train_images=limit)
    labels = [first.train.label(i) for i in range(len(first.train))]
    assert np.bincount(labels, minlength=3).tolist() == per_class
    names = [first.train.name(i) for i in range(len(labels))]
    assert len(set(names)) == len(names)
    assert names == [second.train.name(i) for i in range(len(labels))]
    assert len(first.val) == 15


def test_missing_folder_says_what_can_be_given(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'.*gone' is not a folder; give `data` a folder .*shapes"):
        open_source(str(tmp_path / "gone"))


@pytest.mark.parametrize("part", ["train", "val"])
def test_missing_part_is_named_with_the_layout(tmp_path: Path, part: str) -> None:
    (tmp_path / ("val" if part == "train" else "train")).mkdir()
    with pytest.raises(DataError, match=f"has no {part}/ folder; required layout: train/<class>"):
        open_source(str(tmp_path))


def test_part_without_classes_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 1}, {})
    (tmp_path / "val").mkdir()
    with pytest.raises(DataError, match=r"val holds no class folders"):
        open_source(str(tmp_path))


def test_first_differing_class_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 1, "c": 1, "d": 1}, {"a": 1, "b": 1, "d": 1})
    with pytest.raises(DataError, match=r"class 'b' is in .*val but not in .*train \(2 such\)"):
        open_source(str(tmp_path))


def test_class_without_images_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 1, "b": 0})
    with pytest.raises(DataError, match=r"b holds no images .*add some or delete the folder"):
        open_source(str(tmp_path))


def test_limit_below_one_is_refused() -> None:
    with pytest.raises(DataError, match=r"val_images must be at least 1, got 0"):
        open_source("shapes", val_images=0)


def test_unknown_torchvision_name_suggests_the_nearest() -> None:
    with pytest.raises(DataError, match=r"'CIFAR11'; did you mean 'CIFAR100?'"):
        open_source("torchvision:CIFAR11")
    with pytest.raises(DataError, match=r"did you mean 'FashionMNIST'"):
        open_source("torchvision:fashionmnist")


def test_the_usual_torchvision_sets_are_available() -> None:
    usual = {"CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "SVHN", "STL10", "Imagenette"}
    assert usual | {"Flowers102", "Food101", "OxfordIIITPet"} <= set(available())


class FakeSet:
    """Stands in for a torchvision dataset: three parts, labels under a changing name."""

    classes = (("tench", "Tinca tinca"), ("springer",))

    def __init__(self, root: Path, split: str = "train", download: bool = False) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"Unknown value '{split}' for argument split.")
        if not download and not (Path(root) / "here").exists():
            raise RuntimeError("Dataset not found. You can use download=True")
        (Path(root) / "here").touch()
        self._samples = [("a", 0), ("b", 1), ("c", 1)][: 3 if split == "train" else 2]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        if i == 2:
            raise OSError("image file is truncated")
        return Image.new("L", (4, 3), 9), self._samples[i][1]


def test_torchvision_set_is_downloaded_once_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision.datasets, "FakeSet", FakeSet, raising=False)
    source = open_source("torchvision:FakeSet", root=tmp_path)
    assert source.classes == ("tench", "springer")
    assert (len(source.train), len(source.val)) == (3, 2)
    assert source.train.label(2) == 1
    assert torch.equal(source.val.image(0), torch.full((3, 3, 4), 9, dtype=torch.uint8))
    with pytest.raises(UnreadableImage, match=r"truncated"):
        source.train.image(2)
    assert source.train.name(2) == "FakeSet[2]"


def test_a_set_already_on_disk_is_read_without_a_download(tmp_path: Path) -> None:
    # MNIST, because its file format is simple to write.
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 5), ("t10k", 3)):
        header = np.array([0x803, count, 28, 28], dtype=">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + bytes(count * 784))
        header = np.array([0x801, count], dtype=">i4").tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + bytes(range(count)))
    source = open_source("torchvision:MNIST", root=tmp_path)
    assert (len(source.train), len(source.val), len(source.classes)) == (5, 3, 10)
    assert [source.train.label(i) for i in range(5)] == [0, 1, 2, 3, 4]
    assert source.train.image(0).shape == (3, 28, 28)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError("<urlopen error\n no route>"),
            "could not be downloaded to .*<urlopen error no route>",
        ),
        (ModuleNotFoundError("No module named 'scipy'"), "needs a package .*'scipy'"),
        (ValueError("The original URL is broken"), "FakeSet: The original URL is broken"),
        (ValueError("Unknown value 'val'"), "has no validation part"),
    ],
)
def test_failed_download_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(self: Any, root: Path, split: str = "train", download: bool = False) -> None:
        if isinstance(error, ValueError) and "Unknown" in str(error) and split == "train":
            self._samples = [("a", 0)]
            return
        raise error

    monkeypatch.setattr(FakeSet, "__init__", fail)
    monkeypatch.setattr(torchvision.datasets, "FakeSet", FakeSet, raising=False)
    with pytest.raises(DataError, match=message) as caught:
        open_source("torchvision:FakeSet", root=tmp_path)
    assert "\n" not in str(caught.value)


def test_listing_a_folder_opens_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path, {"a": 3})

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("opened a file")

    monkeypatch.setattr(builtins, "open", refuse)
    assert len(open_source(str(tmp_path)).train) == 3


@pytest.mark.parametrize(
    "where,to",
    [
        ("train/cat/loop", "train/cat"),
        ("train/cat/loop", "train"),
        ("train/cat/loop", "."),
        ("val/cat/deep/loop", "val/cat"),
        ("train/cat/loop/", "train/cat/deep"),
    ],
)
def test_a_link_back_is_refused_before_images_count_twice(
    tmp_path: Path, where: str, to: str
) -> None:
    for part in ("train", "val"):
        (tmp_path / part / "cat/deep").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / part / "cat/deep/a.png")
    if to == "train/cat/deep":  # a link beside a folder, to it, is none back: its images count
        (tmp_path / where).symlink_to(tmp_path / to)
        assert len(open_source(str(tmp_path)).train) == 2
        return
    (tmp_path / where).symlink_to(tmp_path / to)
    with pytest.raises(DataError, match=r"is a link to a folder that contains it.*remove the link"):
        open_source(str(tmp_path))


def test_links_to_themselves_are_left_out_as_images_and_refused_as_classes(tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / part / "cat").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / part / "cat/a.png")
    (tmp_path / "train/cat/self").symlink_to("self")
    source = open_source(str(tmp_path))
    assert len(source.train) == 1 and "the first is train/cat/self" in source.note
    (tmp_path / "train/dog").symlink_to("dog")
    with pytest.raises(DataError, match=r"train/dog: Too many levels .*; it is a link to itself"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("folder", ["train", "val/cat", "train/cat/deep"])
def test_a_folder_that_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    for part in ("train", "val"):
        (tmp_path / part / "cat/deep").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / part / "cat/a.png")
    locked, scandir = tmp_path / folder, os.scandir

    def refuse(path: Any) -> Any:  # root may read everything, so the mode would not do
        if Path(path) == locked:
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    line = f"data: {tmp_path} cannot be read: {locked}: Permission denied; change its permissions"
    with pytest.raises(DataError) as caught:
        open_source(str(tmp_path))
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "file/in"])
def test_impossible_names_of_folders_are_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"^data: "):
        open_source(str(tmp_path / name))
