"""Training runs."""

from rsquant.packages import require

require(__name__, "train", "torch")
