"""Packed integer networks compute the codes and the logits of the evaluation in PyTorch."""

import pytest
import torch
from integer_network import vary
from shallow import RESNET10
from torch import nn
from torchvision.models import ResNet, mobilenetv2, resnet

import rsquant
from rsquant.data.transforms import normalise
from rsquant.errors import PackError
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.packed.file import open_packed
from rsquant.packed.ops.conv import ConvSpec
from rsquant.packed.ops.integer_epilogue import IntegerEpilogueSpec
from rsquant.packed.ops.map import MapSpec
from rsquant.packing import agreement
from rsquant.packing.grid import on_grid
from rsquant.packing.write import lowered_network, pack
from rsquant.runtime import load

SIZES = (32, 24)


def preact(**options):
    return rsquant.create(RESNET10, 2, 2, SIZES, 3, width=5, integer=True, **options)


def normalised():
    return preact(weight_norm="std")


def post():
    body = ResNet(resnet.Bottleneck, [1, 1, 1, 1], num_classes=3, width_per_group=4)
    body.conv1, body.layer4 = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    body.fc = nn.Linear(1024, 3)
    return rsquant.convert(body, 2, 2, SIZES, integer=True)


def mobile():
    blocks = [[1, 16, 1, 1], [6, 24, 2, 2]]
    body = mobilenetv2.MobileNetV2(3, width_mult=0.3, inverted_residual_setting=blocks)
    return rsquant.convert(body, 2, 3, SIZES, integer=True)


class Sums(nn.Module):
    """Additions of all kinds: of x and x, of what a ReLU6 limits, of levels, of sums."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.one, self.norm1 = nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.two, self.norm2 = nn.Conv2d(8, 8, 1, groups=2), nn.BatchNorm2d(8)
        self.three = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.pool, self.average = nn.MaxPool2d(2), nn.AvgPool2d(2)
        self.relu = nn.ReLU6()
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = self.relu(self.norm(self.stem(x)))
        x = x + x
        y = self.relu(self.norm1(self.one(x)))
        z = self.norm2(self.two(x))
        x = torch.relu(y + z) + x
        x = self.pool(x) + self.average(self.three(x))
        return self.fc(x.mean((2, 3)))


def sums():
    return rsquant.convert(Sums(), 2, 2, SIZES, integer=True)


NETWORKS = {
    "preact": preact,
    "normalised": normalised,
    "post": post,
    "mobile": mobile,
    "sums": sums,
}


@pytest.fixture(scope="module", params=NETWORKS)
def packed(request, tmp_path_factory):
    """(network, path of its file)."""
    torch.manual_seed(0)
    network = NETWORKS[request.param]()
    vary(network)
    path = tmp_path_factory.mktemp("integers") / "net.rsq"
    pack(network.eval(), path)
    return network, path


@pytest.mark.parametrize("size", [(32, 32), (24, 24), (27, 30), (40, 40)])
def test_logits_are_those_of_the_evaluation(packed, size):
    network, path = packed
    generator = torch.Generator().manual_seed(size[0])
    pixels = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        logits = network(normalise(pixels, network.spec.mean, network.spec.std))
    assert logits.std() > 0
    assert torch.equal(torch.from_numpy(load(path, 1, tune=False)(pixels.numpy())), logits)


def test_every_code_of_every_layer_is_that_of_the_evaluation(packed):
    network, path = packed
    made = on_grid(network, "coarse").network
    _, lowered = lowered_network(made, path)
    session = load(path, 1, tune=False)
    compared = agreement.check_codes(made, session, lowered.values)
    values = open_packed(path).values
    assert len(lowered.values) == len(values) - 1
    assert compared > 100 * len(values)


def test_a_file_that_differs_is_refused(packed):
    network, path = packed
    made = on_grid(network, "coarse").network
    _, lowered = lowered_network(made, path)
    session = load(path, 1, tune=False)
    norm = next(m for m in made.modules() if isinstance(m, SwitchableBatchNorm2d))
    norm.bias.data.add_(0.5)
    with pytest.raises(PackError, match=r"^\S+ of the packed file differs from the network's"):
        agreement.check_codes(made, session, lowered.values)


def test_sums_are_part_of_the_step_before(packed, request):
    _, path = packed
    steps = open_packed(path).plan.steps
    adding = [s for s in steps if isinstance(s, (ConvSpec, MapSpec)) and s.epilogue.add is not None]
    assert all(isinstance(s.epilogue, IntegerEpilogueSpec) for s in adding)
    if "sums" not in request.node.name:
        assert adding and all(isinstance(step, ConvSpec) for step in adding)


def test_files_have_version_5_and_one_byte_for_the_image(packed):
    network, path = packed
    plan = open_packed(path).plan
    assert plan.format_version == 5
    assert plan.network.zero == round(255 * sum(network.spec.mean) / 3)
