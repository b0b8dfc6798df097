"""Maps flattened to one pixel: torch's values, on every back end, and what a file may say."""

import pytest
import torch
from back_ends import assert_equal_everywhere, changed_file, converted, packed_file
from torch import nn
from torch.nn import functional

from rsquant.errors import ModelError, PackedFileError
from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed

SIZES = (64, 48)


class Flat(nn.Module):
    """As VGG: a map of fixed size, flattened, hidden layers, the classifier."""

    def __init__(self, flatten, size=(3, 2)):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 5, 3, 2, 1, bias=False), nn.BatchNorm2d(5)
        self.conv2, self.bn2 = nn.Conv2d(5, 5, 1, bias=False), nn.BatchNorm2d(5)
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(size), flatten
        self.hidden, self.fc = nn.Linear(5 * size[0] * size[1], 9), nn.Linear(9, 4)

    def forward(self, x):
        x = functional.relu(self.bn(self.conv(x)))
        x = self.pool(functional.relu(self.bn2(self.conv2(x))))
        x = self.flatten(x.contiguous())
        return self.fc(functional.relu(self.hidden(x)))


class Direct(Flat):
    def forward(self, x):
        x = functional.relu(self.bn(self.conv(x)))
        x = self.pool(functional.relu(self.bn2(self.conv2(x))))
        x = self.flatten(x.contiguous())
        return self.hidden(x)


FLATTENS = {
    "torch.flatten": lambda x: torch.flatten(x, 1),
    "the method": lambda x: x.flatten(1),
    "the module": nn.Flatten(),
    "a view": lambda x: x.view(x.size(0), -1),
    "a view by shape": lambda x: x.view(x.shape[0], x.shape[1] * x.shape[2] * x.shape[3]),
    "reshape": lambda x: x.reshape((x.shape[0], -1)),
    "reshape by number": lambda x: x.reshape(x.shape[0], 30),
    "a fixed view": lambda x: x.view(-1, 30),
}


@pytest.mark.parametrize("spelling", FLATTENS)
def test_flattened_maps_are_torchs(compare, pixels, vary, spelling, tmp_path):
    network = converted(Flat(FLATTENS[spelling]), SIZES, vary)
    assert compare(network, pixels(2, 24, 17))[0] > 100
    packed = open_packed(packed_file(network, tmp_path))
    assert [step.OP for step in packed.plan.steps].count("flatten") == 1


def test_every_back_end_flattens_alike(compare, pixels, vary, tmp_path, gpu):
    network = converted(Direct(nn.Flatten()), SIZES, vary)
    compare(network, pixels(2, 24, 17))
    program = assert_equal_everywhere(packed_file(network, tmp_path), ((16, 16), (9, 17)), gpu)
    assert "FlattenStep" in {type(step).__name__ for step in program.steps}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    network = converted(Flat(nn.Flatten()), SIZES, lambda network: None)
    return packed_file(network, tmp_path_factory.mktemp("packed"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": [3, 3]}, "reads 45 channels, in_channels=30"),
        ({"pixels": [0, 2]}, "'pixels' must be an integer from 1"),
        ({"pixels": [65536, 65536]}, "channels, at most 65536 are known"),
        ({"input": 0}, "'input' must be an integer from 1"),
    ],
)
def test_a_bad_file_is_named(change, message, file, tmp_path):
    with pytest.raises(PackedFileError, match=message):
        open_packed(changed_file(file, "flatten", change, tmp_path))


def test_maps_of_another_size_are_refused(file, tmp_path):
    packed = open_packed(changed_file(file, "flatten", {"pixels": [2, 3]}, tmp_path))
    with pytest.raises(ModelError, match="flattens maps of 2x3 pixels, and they give one of 3x2"):
        build_program(packed, 16, 16)
