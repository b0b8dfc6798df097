"""Run packed networks with numpy alone: no torch, no onnx."""

from rsquant.runtime.loading import load
from rsquant.runtime.preprocess import evaluation_crop
from rsquant.runtime.session import Memory, Session

__all__ = ["Memory", "Session", "evaluation_crop", "load"]
