"""The low-bit kernels for CUDA GPUs, in Triton; `docs/kernels.md` draws their layouts.

`support` says whether they can run here, `rsquant.runtime.gpu` runs packed networks on them,
`quantize` serves training. Nothing here is imported before a GPU is asked for.
"""
