"""The benchmark on CUDA devices: whole networks, single convolutions, the training step."""
