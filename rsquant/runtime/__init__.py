"""Run packed networks with numpy alone: no torch, no onnx."""

from rsquant.runtime.cpu.session import Memory, Session
from rsquant.runtime.loading import load
from rsquant.runtime.preprocess import evaluation_crop, evaluation_square

__all__ = ["Memory", "Session", "evaluation_crop", "evaluation_square", "load"]
