"""Latency of one network in several engines; `rsquant bench`."""

from rsquant.packages import require

require(__name__, "bench", "torch")
