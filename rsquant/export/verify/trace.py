"""The outcome of comparing a file with its network layer by layer, at equal levels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsquant.export.graph import IMAGES
from rsquant.quantizers import codes as lq_codes

# Of the largest value. Float32 rounding between two quantizers measured 2e-6 and less; one
# BatchNorm channel wrong by 1 % moved a logit by 4e-5 and more. Through a whole float network it is
# 2e-6 (ResNet-101 at 224) to 2.4e-5 (ResNet-50 2/32 whose logits of an image are nearly equal):
# `floats` then compares both sides with float64.
TOLERANCE = 1e-5
# Images that run at once while every activation is kept in memory.
BATCH = 4


@dataclass
class Trace:
    """The outcome of the layer-by-layer comparison.

    Attributes:
        limit: what `error` may be, as a share of the largest value.
    """

    logits: np.ndarray
    limit: float = TOLERANCE
    error: float = 0.0
    error_at: str = ""
    wrong: int = 0
    wrong_at: str = ""
    near_ties: int = 0

    def compare(self, own: Tensor, value: Tensor, where: str) -> None:
        """Note the largest difference, as a share of the largest value; NaN counts as infinite."""
        apart = distance(value, own)
        if apart > self.error:
            self.error, self.error_at = apart, where

    def compare_constants(self, found: NDArray[np.float32], own: Tensor, where: str) -> None:
        """Count constants of the file that are not the network's, bit for bit."""
        other = own.numpy()
        self.count(found != other if found.shape == other.shape else np.array([True]), where)

    def count(self, wrong: NDArray[np.bool_], where: str) -> None:
        """Count what is wrong, and note where it was first."""
        if wrong.any() and not self.wrong:
            self.wrong_at = where
        self.wrong += int(wrong.sum())

    def compare_levels(
        self, own: Tensor, x: Tensor, value: Tensor, level: Tensor, threshold: Tensor, where: str
    ) -> None:
        """Count values of the file whose level is not the one their input calls for.

        Args:
            own, x: what the network and the file have before the quantizer.
            value: what the file has after it.
            level, threshold: (L,) and (L - 1,), ascending.
        """
        own, x, value = own.reshape(-1), x.reshape(-1), value.reshape(-1)
        limit = TOLERANCE * float(x.abs().max())
        # Equal levels are one, the first of them.
        first = torch.searchsorted(level, level, out_int32=True)
        distinct = bool((first.diff() > 0).all())

        def nearest(v: Tensor, thresholds: Tensor = threshold) -> Tensor:
            # As `codes.assign`, faster; values that are not finite are refused elsewhere.
            found = torch.bucketize(v, thresholds, out_int32=True)
            return found if distinct else first[found]

        # Between these two lies every level that rounding allows; most often they are one.
        lowest, highest = nearest(x - limit), nearest(x + limit)
        taken = nearest(value, lq_codes.thresholds(level))
        no_level = (value - level[taken]).abs() > TOLERANCE * float(level.abs().max())
        self.count((no_level | (taken < lowest) | (taken > highest)).numpy(), where)
        self.near_ties += int((nearest(own) != taken).sum())


def distance(value: Tensor, own: Tensor) -> float:
    """The largest difference, as a share of the largest value of `own`; NaN counts as infinite."""
    apart = float((own - value).abs().max()) / (float(own.abs().max()) or 1.0)
    return apart if apart == apart else float("inf")


def expose(proto: onnx.ModelProto, names: list[str]) -> None:
    """Make values of a graph outputs of it, too."""
    known = {output.name for output in proto.graph.output} | {IMAGES}
    for name in dict.fromkeys(names):
        if name not in known:
            proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
