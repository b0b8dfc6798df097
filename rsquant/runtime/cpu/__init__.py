"""Packed networks on the CPU: numpy and the compiled kernels."""
