"""Runs that a signal stops, and that need not be good."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def quick(one_start):
    """Of most runs nothing but bits is compared."""


@pytest.fixture(autouse=True)
def as_in_a_terminal(default_signals):
    """Whatever signals those who started the tests ignore."""
