"""Integer networks on the GPU's kernels, against docs/integer.md in plain numpy."""

import integer_networks
import numpy as np
import pytest
from back_ends import pixels_of

from rsquant.packed.file import open_packed
from rsquant.packed.format import write_packed
from rsquant.packed.schema import to_json
from rsquant.runtime.gpu import GpuSession

# Seed, whether BatchNorms are extreme, and channels: of odd number, of whole words.
KINDS = {"plain": (0, False, 8), "extreme": (1, True, 17)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_computes_what_the_document_says(kind, gpu, tmp_path):
    plan, tensors = integer_networks.every_step(*KINDS[kind])
    write_packed(tmp_path / "net.rsq", tensors, to_json(plan))
    session = GpuSession(open_packed(tmp_path / "net.rsq"), str(gpu), False, True, 1)
    for size in ((16, 16), (14, 13)):
        pixels = pixels_of(2, *size)
        expected = integer_networks.run(plan, tensors, pixels)
        found = session.all_values(pixels)
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            np.testing.assert_array_equal(one, other, f"value {number}")
            assert one.dtype == other.dtype
