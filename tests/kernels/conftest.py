"""Every kernel test runs once per instruction set this machine can use.

`test_backends.py` skips once for each it cannot, with the reason.
"""

from collections.abc import Iterator

import pytest

from rsquant import kernels


@pytest.fixture(params=[isa.name for isa in kernels.available() if isa.usable])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of an instruction set, in force for the test."""
    with kernels.force(request.param):
        yield request.param
