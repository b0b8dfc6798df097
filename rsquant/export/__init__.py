"""Trained networks to ONNX files. `rsquant.export_onnx` is the function."""

from rsquant.packages import require

require(__name__, "export", "torch", "onnx", "onnxruntime")
