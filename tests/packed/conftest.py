"""The network made by hand, as files."""

import json

import handmade_network
import pytest

from rsquant.packed.format import write_packed
from rsquant.packed.schema import to_json


@pytest.fixture
def handmade():
    """(plan, tensors) of `handmade_network`."""
    return handmade_network.handmade()


@pytest.fixture
def write(tmp_path, handmade):
    """write(metadata, tensors) -> path; both default to the handmade network's."""

    def write_(metadata=None, tensors=None):
        path = tmp_path / "net.rsq"
        plan, own = handmade
        write_packed(
            path,
            own if tensors is None else tensors,
            to_json(plan) if metadata is None else metadata,
        )
        return path

    return write_


@pytest.fixture
def metadata(handmade):
    """The handmade network's, free to be changed."""
    return json.loads(json.dumps(to_json(handmade[0])))
