"""The C library."""

import c_library
import pytest


@pytest.fixture(scope="session")
def library():
    return c_library.Library(c_library.build())
