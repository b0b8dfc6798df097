"""Files of many settings: one network of them is in memory at a time."""

import weakref

import every_operation
import numpy as np
import pytest

from rsquant.errors import PackedFileError
from rsquant.packed import file
from rsquant.packed.file import open_packed
from rsquant.packed.format import read_packed, write_packed
from rsquant.settings import Variant


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return every_operation.write(tmp_path_factory.mktemp("packed"), ["several"])["several"]


def with_widths(path, target, count):
    """A file that says it has so many widths, all of them of the same channels."""
    tensors, metadata = read_packed(path)
    (spec,), tables = metadata["widths"], [n for n in tensors if n.startswith("0.5/")]
    tensors = dict(tensors)
    metadata["widths"] = [spec | {"width": (count - i) / 100} for i in range(count)]
    for one in metadata["widths"]:
        for name in tables:
            tensors[name.replace("0.5/", f"{one['width']:g}/")] = tensors[name]
    for name in tables:
        if count < 50:
            del tensors[name]
    write_packed(target, tensors, metadata)


def test_networks_are_checked_one_after_the_other(path, tmp_path, monkeypatch):
    with_widths(path, tmp_path / "many.rsq", 31)
    checked, made, alive = file.checked, [], []

    def watched(*arguments):
        packed = checked(*arguments)
        made.append(weakref.ref(packed))
        alive.append(sum(one() is not None for one in made))
        return packed

    monkeypatch.setattr(file, "checked", watched)
    assert len(open_packed(tmp_path / "many.rsq").settings) == len(made) == 64
    assert max(alive) <= 2


def test_more_settings_than_are_known_are_refused(path, tmp_path):
    with_widths(path, tmp_path / "more.rsq", 32)
    with pytest.raises(PackedFileError, match="must be at most 64 settings in all"):
        open_packed(tmp_path / "more.rsq")


def test_a_setting_is_the_same_each_time(path):
    settings = open_packed(path).settings
    for variant in settings:
        one, other = settings[variant], settings[variant]
        assert one.plan == other.plan and one.variants == other.variants
        assert one.tensors.keys() == other.tensors.keys()
        assert all(np.array_equal(one.tensors[n], other.tensors[n]) for n in one.tensors)
    with pytest.raises(KeyError):
        settings[Variant(0.3, (2, 2))]
