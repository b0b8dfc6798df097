"""PyTorch on the CPU."""

from __future__ import annotations

import torch

from rsquant.bench.engines.base import CpuCase, CpuRun, cpu_engine
from rsquant.bench.timing import Call
from rsquant.nn.freeze import fold_batchnorms, freeze


@cpu_engine("torch")
def torch_float32(case: CpuCase) -> CpuRun:
    """PyTorch on the same architecture in float32: BatchNorms folded, channels_last."""
    frozen = fold_batchnorms(freeze(case.network, case.resolution, activation=False)).module
    frozen = frozen.to(memory_format=torch.channels_last)
    images = case.inputs().contiguous(memory_format=torch.channels_last)

    def load(threads: int) -> Call:
        def call() -> object:
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            with torch.inference_mode():
                return frozen(images)

        return call

    return CpuRun(load)
