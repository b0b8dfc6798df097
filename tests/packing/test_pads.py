"""The windows of a rule are found from what it pads."""

import numpy as np
import pytest

from rsquant.packing.pads import _at, _axis_rule
from rsquant.padding import RULES

# As sizes.sizes_to_see has them.
SIDES = (24, 16, *range(8, 60, 3))
FAR = range(1, 200)


def by_trying(rule, sides, ends, most=12):
    """Every window that pads so, and what it pads at other sides."""
    found = {}
    for stride in range(1, most + 1):
        for extent in range(1, most + 1):
            if all(_at(rule, s, extent, stride) == e for s, e in zip(sides, ends, strict=True)):
                seen = tuple(_at(rule, side, extent, stride) for side in FAR)
                found.setdefault(seen, (extent, stride))
    return found


@pytest.mark.parametrize("rule", RULES)
def test_windows_are_those_that_pad_so(rule):
    rng = np.random.default_rng(0)
    for _ in range(60):
        extent, stride = (int(n) for n in rng.integers(1, 13, 2))
        ends = [_at(rule, side, extent, stride) for side in SIDES]
        tried = by_trying(rule, SIDES, ends)
        found = _axis_rule(rule, SIDES, ends)
        if len(tried) > 1 or not any(map(any, ends)):  # of no padding, larger strides pad as well
            assert found is None
        else:
            assert tuple(_at(rule, side, *found) for side in FAR) in tried


@pytest.mark.parametrize(
    ("sides", "ends"),
    [
        ((8, 16, 24), [(0, 1)] * 3),  # windows of 3 by 2, of 5 by 4 and others
        ((8, 9, 10, 11), [(0, 1), (1, 0), (0, 1), (1, 0)]),
        ((8, 9, 10, 11), [(0, 0), (0, 40), (0, 0), (0, 40)]),
        ((8, 9), [(-1, 0), (0, 0)]),
    ],
)
def test_what_no_window_or_several_pad_is_none(sides, ends):
    assert _axis_rule("same", sides, ends) is None
