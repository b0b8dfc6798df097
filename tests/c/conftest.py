"""The C library."""

import c_library
import pytest

from rsquant.errors import PackedFileError
from rsquant.packed.file import open_packed
from rsquant.packed.format import read_packed, write_packed


@pytest.fixture(scope="session")
def library():
    return c_library.Library(c_library.build())


@pytest.fixture
def refused_by_both(library, tmp_path):
    """refused_by_both(file, damage, message): C and Python refuse a damaged copy.

    damage(metadata, tensors) alters it.
    """

    def check(file, damage, message):
        tensors, metadata = read_packed(file)
        tensors = dict(tensors)
        damage(metadata, tensors)
        bad = tmp_path / "bad.rsq"
        write_packed(bad, tensors, metadata)
        with pytest.raises(c_library.Refused, match=message) as caught:
            library.open(bad)
        assert caught.value.status == c_library.FILE
        with pytest.raises(PackedFileError, match=message):
            open_packed(bad)

    return check
