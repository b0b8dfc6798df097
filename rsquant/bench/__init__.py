"""Latency of one network in several engines; `rsquant bench`."""
