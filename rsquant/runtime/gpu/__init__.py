"""Packed networks on a CUDA GPU; importing it imports torch and Triton."""

from rsquant.packages import require

require(__name__, "gpu", "torch", "triton")

from rsquant.runtime.gpu.session import GpuSession, Graph

__all__ = ["GpuSession", "Graph"]
