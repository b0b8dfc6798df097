"""Packed files written by earlier versions of rsquant: read, and with the logits they had then.

old/versionN.rsq was written by the last rsquant whose format was version N. Each is a convolution,
two more beside each other (version 2: one of them of float values; version 3: one with different
padding on each side; version 4: one whose levels have an offset, and a quantizer with thresholds of
its own), a max-pooling and a classifier.
"""

from pathlib import Path

import numpy as np
import pytest

from rsquant import runtime
from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed
from rsquant.packed.format import write_packed
from rsquant.packed.program import run
from rsquant.packed.schema import to_json

OLD = Path(__file__).parent / "old"
# At 16 and 12 pixels, as the rsquant that wrote the file computed them.
LOGITS = {
    1: (
        (0.538271427154541, -0.8803273439407349, 0.6218291521072388),
        (-0.3874770998954773, 0.12011009454727173, 0.2340383231639862),
    ),
    2: (
        (0.5232769250869751, -0.8627647161483765, 0.626152753829956),
        (-0.37952882051467896, 0.11140036582946777, 0.23675474524497986),
    ),
    3: (
        (1.3046348094940186, 0.07919096946716309, -0.12347297370433807),
        (0.7026985287666321, 0.026362081989645958, 0.2970167398452759),
    ),
    4: (
        (4.877989768981934, -6.16815185546875, -0.2578415870666504),
        (-5.459290504455566, 6.454022407531738, 3.6807940006256104),
    ),
}


def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (1, 3, size, size), dtype=np.uint8) for size in (16, 12)]


@pytest.mark.parametrize("version", LOGITS)
def test_an_old_file_has_the_logits_it_had(version):
    packed = open_packed(OLD / f"version{version}.rsq")
    assert packed.plan.format_version == version
    session = runtime.load(packed.path, threads=1, tune=False)
    for x, expected in zip(images(), LOGITS[version], strict=True):
        logits = run(build_program(packed, *x.shape[2:]), x)
        # The head's float32 products may be summed by another numpy in another order.
        np.testing.assert_allclose(logits[0], expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(session(x), logits)


@pytest.mark.parametrize("version", LOGITS)
def test_an_old_file_is_written_again_to_the_same_bytes(version, tmp_path):
    packed = open_packed(OLD / f"version{version}.rsq")
    write_packed(tmp_path / "again.rsq", packed.tensors, to_json(packed.plan))
    assert (tmp_path / "again.rsq").read_bytes() == packed.path.read_bytes()
