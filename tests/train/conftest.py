"""Runs that a signal stops."""

import pytest


@pytest.fixture(autouse=True)
def as_in_a_terminal(default_signals):
    """Whatever signals those who started the tests ignore."""
