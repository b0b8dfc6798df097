"""Where evaluation cuts, by hand and against the real numbers the rule is stated in."""

from fractions import Fraction

import numpy as np
import pytest

from rsquant.crop import Crop, centre_crop, evaluation_side


@pytest.mark.parametrize(
    "height,width,resolution,expected",
    [
        # 375 x 500 to 256 x 341, then the middle: 16 rows and 58.5 columns before it, to even 58.
        (375, 500, 224, Crop((0, 0, 375, 500), (256, 341), 16, 58)),
        (500, 375, 224, Crop((0, 0, 500, 375), (341, 256), 58, 16)),
        # 109 for 96: 6.5 before it go to 6. 36 x 39 for 32: 3.5 columns go to 4, the even one.
        (96, 96, 96, Crop((0, 0, 96, 96), (109, 109), 6, 6)),
        (10, 11, 32, Crop((0, 0, 10, 11), (36, 39), 2, 4)),
        # 129 columns of one row: 65 too many, 32 of them before.
        (1, 129, 7, Crop((0, 32, 1, 65), (8, 520), 0, 256)),
        (1, 1, 1, Crop((0, 0, 1, 1), (1, 1), 0, 0)),
    ],
)
def test_cuts_are_those_worked_out_by_hand(height, width, resolution, expected):
    assert centre_crop(height, width, resolution) == expected


def test_integer_division_gives_what_the_rule_says_in_exact_numbers():
    rng = np.random.default_rng(0)
    for height, width, resolution in rng.integers(1, (3000, 3000, 320), (500, 3)).tolist():
        crop = centre_crop(height, width, resolution)
        _, _, h, w = crop.strip
        assert max(h, w) <= 65 * min(h, w)
        # Python rounds Fractions half to even.
        side = int(Fraction(resolution) / Fraction(7, 8))
        assert side == evaluation_side(resolution)
        assert crop.resized == tuple(int(Fraction(side * n, min(h, w))) for n in (h, w))
        offsets = [round(Fraction(n - resolution, 2)) for n in crop.resized]
        assert [crop.top, crop.left] == offsets
