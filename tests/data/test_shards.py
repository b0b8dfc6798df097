"""WebDataset shards: every image by its number, whatever is wrong with some of them is told."""

import gc
import io
import os
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from braceexpand import braceexpand
from PIL import Image
from shard_files import PER_SHARD, cut, make, opened, picture, samples, write

from rsquant.data import evaluation_batches, shard_index, training_batches
from rsquant.data.images import UnreadableImage
from rsquant.data.shard_names import _count, divide, of_pattern
from rsquant.data.shards import shards_source
from rsquant.errors import DataError


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("shards"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_split_holds_what_the_library_reads(shards, tmp_path):
    source = opened(shards, tmp_path)
    urls = [str(shards / f"train-{s:03}.tar") for s in range(3)]
    reference = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    gc.collect()  # it leaves files open
    assert len(source.train) == len(reference) == 3 * PER_SHARD
    for i, sample in enumerate(reference):
        pixels = np.asarray(Image.open(io.BytesIO(sample["png"])))
        assert np.array_equal(source.train.image(i).permute(1, 2, 0).numpy(), pixels)
        assert source.train.label(i) == int(sample["cls"])
        assert source.train.name(i) == f"{sample['__url__']}/{sample['__key__']}.png"
    assert len(source.val) == PER_SHARD and source.classes == ("0", "1", "2")
    assert source.place == str(shards.resolve()) and source.note == ""


@pytest.mark.parametrize(
    "pattern",
    [
        "{train-{000..002},val-000}.tar",
        "train-{000..002}.tar::val-000.tar",
        "*-*.tar",
    ],
)
def test_a_pattern_means_what_its_folder_means(shards, tmp_path, monkeypatch, pattern):
    whole = opened(shards, tmp_path)
    monkeypatch.chdir(shards)
    source = opened(pattern, tmp_path)
    assert source.fingerprint == whole.fingerprint
    monkeypatch.chdir(tmp_path)  # a run is continued from any folder
    assert opened(source.place, tmp_path).fingerprint == whole.fingerprint


@pytest.mark.parametrize(
    "names,train,val",
    [
        (["a/imagenet-train-00.tar", "a/imagenet-validation-00.tar"], [0], [1]),
        (["train/00.tar", "valid/00.tar"], [0], [1]),
        (["s/00.tar", "s/01.tar", "s/val-00.tar"], [0, 1], [2]),
        (["val/train-0.tar", "x/cifar-test-0.tar"], [0], [1]),
        (["http://h/a/train-0.tar", "http://h/val/0.tar?key=train"], [0], [1]),
        (["interval-0.tar", "val-0.tar", "test-0.tar"], [0], [1]),
    ],
)
def test_the_name_says_the_part(names, train, val):
    parts = divide(names, "")
    assert parts.train == [names[i] for i in train] and parts.val == [names[i] for i in val]
    assert ("test are left out" in parts.note) == (len(names) == 3 and "test-0.tar" in names)


def test_batches_are_those_of_any_number_of_workers_and_of_a_continued_epoch(shards, tmp_path):
    train = opened(shards, tmp_path).train

    def epoch(workers, skip=0):
        return list(training_batches(train, (16, 12), 4, 1, 3, workers, skip=skip))

    alone, two, rest = epoch(0), epoch(2), epoch(0, skip=2)
    assert len(alone) == 3 and len(rest) == 1
    for a, b in [*zip(alone, two, strict=True), (alone[2], rest[0])]:
        assert torch.equal(a.indices, b.indices) and torch.equal(a.labels, b.labels)
        assert all(torch.equal(x, y) for x, y in zip(a.images, b.images, strict=True))


def test_ranks_have_every_image_of_all_shards_once(shards, tmp_path):
    train = opened(shards, tmp_path).train
    seen = [
        i
        for rank in range(2)
        for batch in evaluation_batches(train, (12,), 5, 0, rank=rank, world=2)
        for i in batch.indices.tolist()
    ]
    assert sorted(seen) == list(range(len(train)))


@pytest.mark.parametrize(
    "label",
    [
        {"kind": "json", "label": lambda i: i % 3},
        {"kind": "json", "label": lambda i: str(i % 3)},
        {"label": lambda i: f"{i % 3}\n"},
    ],
)
def test_numbers_are_classes_wherever_they_stand(tmp_path, label):
    source = opened(make(tmp_path / "s", 1, **label), tmp_path)
    assert source.classes == ("0", "1", "2")
    assert [source.train.label(i) for i in range(4)] == [0, 1, 2, 0]


@pytest.mark.parametrize("kind", ["cls", "json"])
def test_names_are_classes_in_their_order(tmp_path, kind):
    names = ("tench", "cock", "hen")
    source = opened(make(tmp_path / "s", 1, kind=kind, label=lambda i: names[i % 3]), tmp_path)
    assert source.classes == ("cock", "hen", "tench")
    assert [source.train.label(i) for i in range(4)] == [2, 0, 1, 2]


def test_an_index_is_made_once_for_the_same_file(tmp_path, monkeypatch):
    folder = make(tmp_path / "s")
    first = opened(folder, tmp_path)
    monkeypatch.setattr(shard_index, "read_index", lambda *_: pytest.fail("read again"))
    assert opened(folder, tmp_path).fingerprint == first.fingerprint
    monkeypatch.undo()
    for kept in (tmp_path / "cache" / "indexes").iterdir():  # damaged: made again
        kept.write_bytes(b'{"of": [')
    assert opened(folder, tmp_path).fingerprint == first.fingerprint
    write(folder / "train-001.tar", samples(50, 3))  # another file: its index is another
    assert len(opened(folder, tmp_path).train) == 2 * PER_SHARD + 3


def break_header(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + 512] = b"\xff" * 512
    path.write_bytes(bytes(data))


# The second image's bytes begin at 2560 plus the length of its own header; the shard has 10240.
@pytest.mark.parametrize(
    "damage,reason",
    [
        (lambda p: p.unlink(), r"train-001.tar cannot be read: No such file"),
        (lambda p: cut(p, 0), r"train-001.tar is damaged: no tar file, .*empty file"),
        (lambda p: cut(p, 5000), r"train-001.tar is damaged: it ends in the middle of set/0000\d"),
        (lambda p: cut(p, 9216), r"train-001.tar is damaged: it ends "),
        (lambda p: break_header(p, 0), r"train-001.tar is damaged: no tar file"),
        (lambda p: break_header(p, 5120), r"train-001.tar is damaged: .*(header|middle)"),
        (lambda p: p.write_bytes(b"\x1f\x8b" + bytes(600)), r"is damaged: no tar file"),
    ],
)
def test_a_missing_or_damaged_shard_is_named(tmp_path, damage, reason):
    folder = make(tmp_path / "s")
    damage(folder / "train-001.tar")
    pattern = folder / "{train-{000..002},val-000}.tar"
    with pytest.raises(DataError, match=rf"of the 3 shards to train on about [\d.]+ % .*{reason}"):
        opened(pattern, tmp_path)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, b"Z"])
def test_a_negative_size_does_not_lead_back(tmp_path, kind):
    folder = make(tmp_path / "s", 1)
    member = tarfile.TarInfo("set/00000.png")
    member.size, member.type = -1024, kind
    header = member.tobuf(tarfile.GNU_FORMAT)
    whole = (folder / "train-000.tar").read_bytes()
    (folder / "train-000.tar").write_bytes(whole[:1024] + header + whole[1024:])
    with pytest.raises(DataError, match=r"train-000\.tar is damaged"):
        opened(folder, tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_shards_altered_at_random_are_read_or_refused(shards, tmp_path, seed):
    rng = np.random.default_rng(seed)
    whole = np.fromfile(shards / "train-000.tar", np.uint8)
    for _ in range(40):
        data = whole.copy()
        places = rng.integers(0, len(data) // 512, 3) * 512 + rng.integers(0, 512, 3)
        data[places] = rng.choice(np.array([0, 55, 128, 255], np.uint8), 3)
        header = int(rng.integers(0, len(data) // 512)) * 512
        block = data[header : header + 512]
        if bytes(block[257:262]) == b"ustar":  # a right checksum, or nothing is read behind it
            total = 256 + int(block.sum(dtype=np.int64)) - int(block[148:156].sum(dtype=np.int64))
            block[148:156] = np.frombuffer(b"%06o\0 " % total, np.uint8)
        path = tmp_path / "altered.tar"
        data[: rng.integers(1, len(data) + 1)].tofile(path)
        with path.open("rb") as file:
            index = shard_index.read_index(file, path.stat().st_size)
        for offset, size in zip(index.offsets, index.sizes, strict=True):
            assert min(offset, size) >= 0 and offset + size <= path.stat().st_size


def test_one_damaged_shard_of_many_is_left_out_and_told(tmp_path):
    folder = tmp_path / "s"
    write(folder / "val-0.tar", samples(1000, 4))
    for s in range(2):
        write(folder / f"train-{s}.tar", samples(200 * s, 200))
    whole = opened(folder, tmp_path)
    cut(folder / "train-1.tar", (folder / "train-1.tar").stat().st_size - 11_000)
    source = opened(folder, tmp_path)
    lost = len(whole.train) - len(source.train)
    assert 1 <= lost <= 4 and source.fingerprint != whole.fingerprint
    assert source.note.startswith("data: left out of what to train on: shard ")
    assert "train-1.tar is damaged: it ends" in source.note
    for i in (0, 250, len(source.train) - 1):  # what is there is what was there
        assert source.train.name(i) == whole.train.name(i)
        assert torch.equal(source.train.image(i), whole.train.image(i))


@pytest.mark.parametrize("damage", [lambda p: cut(p, 9216), lambda p: p.unlink()])
def test_how_much_the_only_shard_lost_is_not_known(tmp_path, damage):
    folder = make(tmp_path / "s", 1)
    pattern = f"{folder}/{{train-000,val-000}}.tar"
    damage(folder / "val-000.tar")
    with pytest.raises(DataError, match=r"of the 1 shards to validate on not one is whole; shard "):
        opened(pattern, tmp_path)


def test_a_missing_shard_of_more_than_a_hundred_is_left_out(tmp_path):
    folder = make(tmp_path / "s", 1)
    data = (folder / "train-000.tar").read_bytes()
    for s in range(1, 120):
        if s != 77:
            (folder / f"train-{s:03}.tar").write_bytes(data)
    source = shards_source(of_pattern(f"{folder}/{{train-{{000..119}},val-000}}.tar"), None)
    assert len(source.train) == 119 * PER_SHARD
    assert "train-077.tar cannot be read: No such file or directory" in source.note


@pytest.mark.parametrize(
    "label,reason",
    [
        ([("set/1.cls", b"\xff")], None),  # a name, if a strange one
        ([("set/1.cls", b" \n")], "set/1.cls has no label"),
        ([("set/1.json", b"{}")], "set/1.json has no label: no number or name `label`"),
        ([("set/1.json", b'{"label": true}')], "set/1.json has no label"),
        ([("set/1.json", b"[" * 100_000)], "set/1.json is not JSON"),
        ([("set/1.txt", b"3")], "has no label: no .cls and no .json beside it"),
        ([("set/1.png", picture(1)), ("set/1.cls", b"a")], "duplicate"),
    ],
)
def test_a_sample_without_a_label_is_named(tmp_path, label, reason):
    rest = [(f"set/{i}.{kind}", data) for i in range(2, 90) for kind, data in PAIR]
    write(tmp_path / "s/val-0.tar", [("v.png", picture(0)), ("v.cls", b"a")])
    write(tmp_path / "s/train-0.tar", [("set/1.png", picture(1)), *label, *rest])
    if reason is None:
        assert len(opened(tmp_path / "s", tmp_path).train) == 89
    else:
        with pytest.raises(DataError, match=reason):
            opened(tmp_path / "s", tmp_path)


PAIR = (("png", picture(3)), ("cls", b"a"))


def test_what_is_in_a_shard_besides_images_is_left_out(tmp_path):
    folder = make(tmp_path / "s", 1)
    more = [("README", b"x"), ("set/9.txt", b"no image"), ("set/9.cls", b"1")]
    write(folder / "train-001.tar", [*more, *samples(8, 2), ("set/mask.seg.png", picture(2))])
    assert len(opened(folder, tmp_path).train) == PER_SHARD + 2


@pytest.mark.parametrize(
    "train,val,reason",
    [
        ("1", "x", r"labels of shards are numbers \('1'\) and names \('x'\)"),
        ("1", "2", "class '2' is in shards to validate on but in none to train on"),
        ("1", "123456", "a label of the shards is 123456; numbers of classes begin at 0"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, train, val, reason):
    write(tmp_path / "s/train-0.tar", samples(0, 2, lambda i: train))
    write(tmp_path / "s/val-0.tar", samples(9, 2, lambda i: val))
    with pytest.raises(DataError, match=reason):
        opened(tmp_path / "s", tmp_path)


@pytest.mark.parametrize(
    "pattern,reason",
    [
        ("s/{000..146}.tar", "no shard is named val, valid, validation or test.*give a folder"),
        ("s/val-{0..3}.tar", "all 4 shards are named val or test; give a folder"),
        ("s/train-{0..3.tar::s/val-0.tar", "cannot be expanded"),
        ("s/${NOBODY_SET_THIS}/train.tar", "cannot be expanded: .*NOBODY_SET_THIS"),
        ("s/{train,val}-{0..99999999999}.tar", "means 200,000,000,000 shards"),
        ("s/train-0.tar.gz::s/val-0.tar", "s/train-0.tar.gz is compressed"),
        ("s/train-0.tar::s/train-0.tar", "s/train-0.tar is given twice"),
        ("http://h/train?n={0..3}::http://h/val?n=0", r"train\?n=1 differ behind '\?' alone"),
        ("s/nothing-*.tar", "no file matches 's/nothing-"),
        ("a/train-{0..2047}.tar::s3://b/val-{0..511}.tar", "'s3://b/val-0.tar' begins with s3://"),
        ("{a/{train,val}-{0..2},b/{0..-9999999}}.tar", "means 10,000,006 shards"),
        ("a/train-{0..1999999..2}.tar::b/val-0.tar", "means 1,000,001 shards"),
    ],
)
def test_a_wrong_pattern_is_one_clear_line(tmp_path, monkeypatch, pattern, reason):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=reason):
        opened(pattern, tmp_path)


def test_a_folder_of_classes_is_none_of_shards(tmp_path):
    for part in ("train", "val"):
        (tmp_path / "s" / part / "a").mkdir(parents=True)
        (tmp_path / "s" / part / "a" / "0.png").write_bytes(picture(0))
    write(tmp_path / "s" / "train-0.tar", samples(0, 2))
    assert opened(tmp_path / "s", tmp_path).classes == ("a",)


def test_a_shard_that_changes_while_it_is_used_has_unreadable_images(tmp_path):
    folder = make(tmp_path / "s", 1)
    train = opened(folder, tmp_path).train
    cut(folder / "train-000.tar", 5000)
    train.image(0)
    with pytest.raises(UnreadableImage, match="its shard ends before it"):
        train.image(PER_SHARD - 1)
    (folder / "train-000.tar").unlink()
    with pytest.raises(UnreadableImage, match="its shard: No such file"):
        train.image(0)


def test_as_many_names_are_counted_as_the_library_makes():
    generator = random.Random(0)

    def pattern(depth):
        parts = ["a", r"\{", r"\,", ",", "{b}", "{1..3}", "{03..-2}", "{0..9..4}", "{Y..c..2}"]
        for _ in range(2 if depth else 0):
            some = ",".join(pattern(depth - 1) for _ in range(generator.randint(1, 3)))
            parts.append("{" + some + "}")
        return "".join(generator.choices(parts, k=generator.randint(0, 3)))

    patterns = ["{{0..9},{0..4}}", "{a{0..9},b{1,2}}{3..4}", *(pattern(3) for _ in range(300))]
    counts = [_count(one) for one in patterns]
    assert counts[:2] == [15, 24] and max(counts) > 100
    for one, count in zip(patterns, counts, strict=True):
        if count < 10_000:
            assert count == len(list(braceexpand(one))), one


def test_a_tar_that_replaces_another_of_its_size_and_time_is_read_anew(tmp_path):
    path, cache = tmp_path / "train-0.tar", tmp_path / "cache"
    labels = []
    for label in "07":
        made = tmp_path / "made.tar"
        with tarfile.open(made, "w") as tar:
            for name, data in (("0.png", b"any bytes"), ("0.cls", label.encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        os.utime(made, ns=(10**18, 10**18))
        made.rename(path)
        labels += shard_index.shard_index(str(path), cache).labels
        assert shard_index.shard_index(str(path), cache).labels == labels[-1:]
    assert labels == ["0", "7"]
