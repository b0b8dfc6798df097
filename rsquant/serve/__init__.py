"""Photographs to labels on a device, and choosing how much each may cost; numpy and Pillow."""

from rsquant.packages import require

require(__name__, "predict", "PIL")

from rsquant.serve.budget import Budget, Choice
from rsquant.serve.cascade import Cascade
from rsquant.serve.predictor import Prediction, Predictor

__all__ = ["Budget", "Cascade", "Choice", "Prediction", "Predictor"]
