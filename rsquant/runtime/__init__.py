"""Run packed networks with numpy alone: no torch, no onnx."""

from rsquant.runtime.session import Memory, Session, load

__all__ = ["Memory", "Session", "load"]
