"""The file of tuning choices: `load` works with it, without it, and where it cannot be kept."""

from pathlib import Path

import numpy as np
import pytest

from rsquant.data import open_source
from rsquant.errors import DataError
from rsquant.runtime import load, tuning


@pytest.fixture
def homeless(monkeypatch):
    """No HOME, and no entry in passwd, as of a container run under any number."""

    def nobody(number):
        raise KeyError(number)

    for name in ("HOME", "XDG_CACHE_HOME", tuning.CACHE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)


def test_a_user_without_a_home_loads_and_tunes(make, homeless):
    path = make(width=16)
    assert tuning.cache_file() is None
    session = load(path, 1)
    assert session(np.zeros((1, 3, 64, 64), np.uint8)).shape == (1, 7)
    assert tuning.read() == {}


def test_data_that_needs_a_home_says_so(homeless):
    for spec in ("torchvision:CIFAR10", "~/photos"):
        with pytest.raises(DataError, match=r"needs a home folder, .*; set HOME, or give a full"):
            open_source(spec)


def full(path, *_, **__):
    """A disk that takes the name and not the content."""
    open(path, "w").close()
    raise OSError(28, "No space left on device")


def test_a_full_disk_leaves_nothing_behind(make, monkeypatch):
    path = make(width=16)
    monkeypatch.setattr(Path, "write_text", full)
    load(path, 1)
    assert list(tuning.cache_file().parent.iterdir()) == []


@pytest.mark.parametrize(
    "block",
    [
        lambda file: file.parent.write_text("a file where the folder would be"),
        lambda file: file.mkdir(parents=True),
        lambda file: (file.parent.mkdir(), file.write_bytes(b"\xff\xfe\x00")),
        lambda file: (file.parent.mkdir(), file.symlink_to(file)),
    ],
)
def test_what_is_in_the_way_of_the_file_is_no_error(make, block):
    path = make(sizes=(32,), width=16)
    block(tuning.cache_file())
    load(path, 1)
