"""Run packed networks with numpy alone: no torch, no onnx."""

from rsquant.runtime.session import Session, load

__all__ = ["Session", "load"]
