"""The C library, and networks to run with it."""

import c_library
import every_operation
import handmade_network
import integer_networks
import pytest

from rsquant.packed.format import write_packed
from rsquant.packed.schema import to_json


@pytest.fixture(scope="session")
def library():
    return c_library.Library(c_library.build())


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Paths of packed networks that have every operation between them, by name."""
    folder = tmp_path_factory.mktemp("c")
    found = every_operation.write(folder)
    for name, (plan, tensors) in {
        "handmade": handmade_network.handmade(),
        "integers": integer_networks.every_step(),
        "extremes": integer_networks.every_step(1, extreme=True),
    }.items():
        found[name] = str(folder / f"{name}.rsq")
        write_packed(found[name], tensors, to_json(plan))
    return found
