"""Trained networks to packed files. `rsquant.pack` is the function."""

from rsquant.packages import require

require(__name__, "train", "torch")
