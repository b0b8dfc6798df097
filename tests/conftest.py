"""Settings of all tests."""

import torch

# The tensors are tiny: a second thread costs more than it brings, most of all on a busy machine.
torch.set_num_threads(1)
