"""Graphs on bytes: from float32 graphs to what onnxruntime runs as integers."""
