"""Tables for compiled kernels, at the ends of float32."""

import numpy as np
import pytest

from rsquant.packed.ops.epilogue import Epilogue
from rsquant.runtime.cpu import steps

LARGEST = np.finfo(np.float32).max


@pytest.mark.parametrize("threshold", [LARGEST, -LARGEST, np.inf, -np.inf, 0.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_thresholds_of_any_size_bind_without_a_warning(threshold, sign, monkeypatch):
    """`-x > t` is `not (x > t')`, t' the largest number below -t, for every x."""
    made = {}
    monkeypatch.setattr(steps, "native", lambda: type("", (), {"Tables": made.update}))
    epilogue = Epilogue(
        scale=np.ones(1, np.float32),
        shift=np.zeros(1, np.float32),
        add=None,
        relu=False,
        clip=np.inf,
        keep=None,
        codes=1,
        integer=False,
        thresholds=np.full((1, 1), threshold, np.float32),
        sign=np.full(1, sign, np.int8),
        levels=np.array([0, 3], np.uint8),
    )
    steps.Steps(None, {}).tables(epilogue, 1)
    x = np.array([-LARGEST, -1, -1e-45, 0, 1e-45, 1, LARGEST], np.float32)
    level = made["base"] + made["sign"] * made["step"] * (x > made["threshold"][0])
    np.testing.assert_array_equal(level, epilogue.levels[(sign * x > threshold).astype(int)])
