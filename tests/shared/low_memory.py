"""Low memory without the small layouts that it keeps: a network of a test has no others."""

import contextlib
from unittest import mock

from rsquant.runtime.cpu import choice, weights


@contextlib.contextmanager
def without_layouts():
    """Sessions of low memory read the weights of the file alone, as they do of large layers."""
    with contextlib.ExitStack() as patches:
        for module in (choice, weights):
            patches.enter_context(mock.patch.object(module, "has_small_layout", lambda *_: False))
        yield
