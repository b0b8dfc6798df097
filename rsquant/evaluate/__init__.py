"""Accuracy and cost of trained networks."""

from rsquant.packages import require

require(__name__, "train", "torch")
