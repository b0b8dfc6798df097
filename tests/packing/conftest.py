"""Networks for the tests of packing, and what their packed programs compute beside torch."""

import packed_values
import pytest
import torch

from rsquant.nn import SwitchableBatchNorm2d


@pytest.fixture
def compare():
    """compare(network, pixels) -> (codes compared, ties, logits), see `packed_values.compare`."""
    return packed_values.compare


@pytest.fixture
def pixels():
    """pixels(n, height, width) -> uint8 images."""

    def make(n, height, width):
        generator = torch.Generator().manual_seed(1)
        return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator)

    return make


@pytest.fixture
def signed_norms():
    """signed_norms(network): other BatchNorms everywhere; gammas of both signs, some exactly 0."""

    def change(network, seed=0):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, SwitchableBatchNorm2d):
                    module.weight.normal_(0.3, 0.7, generator=generator)
                    module.weight[:, ::7] = 0
                    module.bias.uniform_(-0.3, 0.5, generator=generator)
                    module.running_mean.normal_(0, 0.3, generator=generator)
                    module.running_var.uniform_(0.5, 2, generator=generator)
        return network.eval()

    return change
