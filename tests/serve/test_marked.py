"""What is written on pictures fits into them."""

from types import SimpleNamespace

import numpy as np
import pytest

from rsquant.serve.marked import marked


@pytest.mark.parametrize("size", [(60, 90), (300, 400)])
def test_a_label_that_is_too_long_is_cut_before_its_probability(size):
    black = np.zeros((*size, 3), np.uint8)

    def drawn(label):
        said = SimpleNamespace(labels=(label,), probabilities=(0.5,), resolution=224)
        return np.asarray(marked(black, said))

    assert not drawn("x" * 500)[:, -3:].any()
    # Cut to the same text, of which the probability is the end.
    np.testing.assert_array_equal(drawn("x" * 500), drawn("x" * 400))
    assert (drawn("x" * 500) != drawn("x")).any()
