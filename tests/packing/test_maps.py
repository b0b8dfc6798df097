"""Networks that tell of each pixel pack, and their files give torch's maps."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import rsquant
from rsquant.packed.plan import MAPS
from rsquant.packing.grid import on_grid
from rsquant.packing.write import pack

SIZES = (96, 64)


def refinenet(arch="refinenet_lw_bn_resnet18", **options):
    torch.manual_seed(0)
    return rsquant.create(arch, 2, 2, SIZES, 5, width=4, task="segmentation", **options)


@pytest.mark.parametrize("size", [64, 80])
def test_every_code_and_pixel_is_the_one_torch_gives(compare, pixels, signed_norms, size):
    network = on_grid(signed_norms(refinenet()), "coarse").network
    compared, _, logits = compare(network, pixels(2, size, size))
    assert compared > 10_000
    assert logits.shape == (2, 5, size // 4, size // 4)
    assert logits.std() > 0


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["refinenet_resnet18", "refinenet_bn_resnet50"])
def test_full_decoders_too(compare, pixels, signed_norms, arch):
    network = on_grid(signed_norms(refinenet(arch)), "coarse").network
    compare(network, pixels(1, 64, 64))


class Enlarged(nn.Module):
    """A head of 1x1, enlarged to the image's size, and one beside it: their sum."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8)
        self.head, self.other = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        size = x.shape[2:]
        x = functional.relu(self.bn(self.conv(x)))
        y = functional.relu(self.bn2(self.conv2(x)))
        out = self.head(y) + self.other(x)
        return functional.interpolate(out, size, mode="bilinear", align_corners=False)


def test_a_map_that_the_network_enlarges_itself(tmp_path, pixels, signed_norms):
    torch.manual_seed(0)
    network = signed_norms(rsquant.convert(Enlarged(), 2, 2, (32, 24), task="segmentation"))
    network = on_grid(network, "coarse").network
    pack(network, tmp_path / "x.rsq")
    session = rsquant.runtime.load(tmp_path / "x.rsq", threads=1, tune=False)
    given = pixels(2, 32, 32)
    with torch.no_grad():
        expected = network(
            rsquant.data.transforms.normalise(given, network.spec.mean, network.spec.std)
        )
    got = torch.from_numpy(session(given.numpy()))
    assert got.shape == expected.shape == (2, 3, 32, 32)
    # int8 weights of both heads.
    assert (got - expected).abs().max() < 0.02 * expected.abs().max()
    assert session.packed.plan.format_version == MAPS


def test_float_weights_before_the_head_are_refused(signed_norms, tmp_path):
    network = signed_norms(refinenet())
    conv = network.body.levels[0].reduce[0]
    network.body.levels[0].reduce[0] = nn.Conv2d(conv.in_channels, conv.out_channels, 1)
    with pytest.raises(rsquant.errors.PackError, match=r"levels.0.reduce.0: has float32 weights"):
        pack(network, tmp_path / "x.rsq")
