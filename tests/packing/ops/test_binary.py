"""Products and sums of values and constants: torch's values, on every back end, and bad files."""

import pytest
import torch
from around_map import SIZES, AroundMap, operations
from back_ends import assert_equal_everywhere, changed_file, converted, packed_file
from torch import nn
from torch.nn import functional

from rsquant.errors import PackedFileError, PackError
from rsquant.packed.file import open_packed


def gate_of(net, x):
    """(N, 17) from a Linear layer."""
    return torch.sigmoid(net.up(functional.relu(net.down(x.mean((2, 3))))))


def viewed(net, x):
    n, c, _, _ = x.size()
    y = functional.adaptive_avg_pool2d(x, 1).view(n, c)
    return x * torch.sigmoid(net.up(functional.relu(net.down(y)))).view(n, c, 1, 1)


def expanded(net, x):
    n, c = x.shape[:2]
    y = functional.adaptive_avg_pool2d(x, 1).view(n, -1)
    return x * torch.sigmoid(net.up(functional.relu(net.down(y)))).reshape(n, c, 1, 1).expand_as(x)


def in_place(net, x):
    before = x
    x *= gate_of(net, x)[:, :, None, None]
    return before


GATES = [
    viewed,
    expanded,
    in_place,
    lambda net, x: x * gate_of(net, x)[..., None, None],
    lambda net, x: gate_of(net, x).unsqueeze(-1).unsqueeze(-1) * x,
    lambda net, x: torch.mul(x, other=gate_of(net, x).unsqueeze(2).unsqueeze(3)),
    lambda net, x: x.mul(gate_of(net, x).view(x.shape[0], -1, 1, 1)),
    lambda net, x: x.mul_(gate_of(net, x).view(x.size(0), x.size(1), 1, 1)),
    lambda net, x: x + gate_of(net, x).view(-1, 17, 1, 1),
    lambda net, x: x.add(gate_of(net, x).view(-1, 17, 1, 1)).mul(0.5),
    lambda net, x: x - gate_of(net, x).view(-1, 17, 1, 1).expand(-1, -1, x.size(2), x.size(3)),
]


@pytest.mark.parametrize("change", GATES)
def test_gates_of_one_pixel_in_every_spelling(change, compare, pixels, vary):
    body = AroundMap(change, down=nn.Linear(17, 5), up=nn.Linear(5, 17))
    network = converted(body, SIZES, vary)
    for height, width in ((24, 24), (16, 16), (13, 19)):
        compare(network, pixels(2, height, width))


def spatial(net, x):
    return x * torch.sigmoid(net.one(x))


def bottleneck_attention(net, x):
    """As in BAM: a gate of one pixel and one of one channel, both expanded."""
    channel = gate_of(net, x)[:, :, None, None].expand_as(x)
    return x * (1 + torch.sigmoid(channel * net.one(x).expand_as(x)))


def convolved(net, x):
    y = net.c2(functional.silu(net.c1(functional.adaptive_avg_pool2d(x, 1))))
    return x * y.sigmoid() + x


def squared(net, x):
    return x * x + torch.square(net.wide2(x)) - x**2


class Everything(nn.Module):
    """Gates of one pixel and of one channel, constants, and values of one size; 33 channels."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 5, 3, 2, 1, bias=False), nn.BatchNorm2d(5)
        self.a, self.b = nn.Conv2d(5, 33, 3, padding=1), nn.Conv2d(33, 33, 1)
        self.down, self.up = nn.Linear(33, 4), nn.Linear(4, 33)
        self.one, self.c = nn.Conv2d(33, 1, 3, padding=1), nn.Conv2d(33, 16, 1)
        self.gamma = nn.Parameter(torch.linspace(-1, 2, 33).view(-1, 1, 1))
        self.bn_b = nn.BatchNorm2d(33)
        self.fc = nn.Linear(16, 7)

    def forward(self, x):
        x = functional.relu(self.bn(self.stem(x)))
        x = self.a(x)
        x = bottleneck_attention(self, x)
        x = x + self.gamma * self.bn_b(self.b(functional.relu(x)))
        x = functional.relu(self.c(spatial(self, x)) / 2)
        return self.fc((x * x).mean((2, 3)))


def test_every_back_end_gives_the_same_bits(compare, pixels, vary, tmp_path, gpu):
    network = converted(Everything(), SIZES, vary)
    compare(network, pixels(2, 24, 24))
    assert_equal_everywhere(packed_file(network, tmp_path), ((16, 16), (9, 17)), gpu)


@pytest.mark.parametrize("change", [spatial, bottleneck_attention, convolved, squared])
def test_gates_of_one_channel_and_values_of_one_size(change, compare, pixels, vary):
    body = AroundMap(
        change,
        down=nn.Linear(17, 5),
        up=nn.Linear(5, 17),
        one=nn.Conv2d(17, 1, 3, padding=1),
        wide2=nn.Conv2d(17, 17, 1),
        c1=nn.Conv2d(17, 4, 1),
        c2=nn.Conv2d(4, 17, 1),
    )
    network = converted(body, SIZES, vary)
    for height, width in ((24, 24), (11, 21)):
        compare(network, pixels(1, height, width))


CONSTANTS = [
    lambda net, x: x * 0.5,
    lambda net, x: 3 - x,
    lambda net, x: -x,
    lambda net, x: x / 6 + 1,
    lambda net, x: torch.add(x, x, alpha=2),
    lambda net, x: torch.sub(x, 0.25, alpha=2).neg(),
    lambda net, x: torch.rsub(x, 1.5),
    lambda net, x: x.div(2).sub(1).mul(3).add(0.5),
    lambda net, x: x * net.gamma,
    lambda net, x: net.gamma * x + net.gamma.view(1, -1, 1, 1).exp(),
    lambda net, x: x.mul_(net.gamma).add_(1),
    lambda net, x: x * functional.relu6(x + 3) / 6,  # hard-swish by hand
    lambda net, x: x * (net.quick * 1.702 * x).sigmoid(),
    lambda net, x: torch.clamp(x, -0.5, 0.75),
    lambda net, x: x.clamp(min=-0.25),
    lambda net, x: x.clip(max=0.25),
    lambda net, x: functional.hardtanh(x),
    lambda net, x: net.hard(x),
    lambda net, x: net.slopes(x),
    lambda net, x: functional.prelu(x, net.slopes.weight),
    lambda net, x: functional.relu(net.norm(x)) * net.gamma - 0.1,
    lambda net, x: net.norm(x * 2 - 1),
]


@pytest.mark.parametrize("change", CONSTANTS)
def test_constants_in_every_spelling(change, compare, pixels, vary):
    torch.manual_seed(3)
    body = AroundMap(
        change,
        gamma=nn.Parameter(torch.randn(17, 1, 1)),
        quick=nn.Parameter(torch.ones(())),
        hard=nn.Hardtanh(-0.5, 1.5),
        slopes=nn.PReLU(17),
        norm=nn.BatchNorm2d(17),
    )
    with torch.no_grad():
        body.slopes.weight.normal_(0.2, 0.2)
    network = converted(body, SIZES, vary)
    for height, width in ((24, 24), (13, 19)):
        compare(network, pixels(1, height, width))


def test_constants_fold_into_the_convolution(vary, tmp_path):
    body = AroundMap(
        lambda net, x: net.gamma * (x / 2) - 1, gamma=nn.Parameter(torch.rand(17, 1, 1))
    )
    packed = open_packed(packed_file(converted(body, SIZES, vary), tmp_path))
    assert operations(packed) == ["conv", "conv", "conv", "avgpool", "linear"]
    # Files without the operations of version 4 stay what they were.
    assert packed.plan.format_version < 4


def test_large_values_behind_a_constant_are_not_cut(compare, pixels, vary):
    """What a float convolution rounds is limited by what its input can be, not by the constant."""
    body = AroundMap(lambda net, x: net.wide2(x * 1000 * 0.01), wide2=nn.Conv2d(17, 17, 1))
    network = converted(body, SIZES, vary)
    network.body.wide2.input_quantizer = None
    compare(network.eval(), pixels(1, 24, 24))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net, x: x / x, "divides by a value of the network"),
        (lambda net, x: x / 0, "divides by 0"),
        (lambda net, x: x**3, "is a power other than the square"),
        (lambda net, x: torch.div(x, 2, rounding_mode="floor"), "has the argument rounding_mode"),
        (lambda net, x: x * net.map, "has a constant of shape 12x12, not one number"),
        (lambda net, x: x * float("inf"), "reads a constant that is not finite"),
        (lambda net, x: torch.clamp(x, net.low, None), "limits values by something"),
        (lambda net, x: net.wide2(x.mean((2, 3), True).expand_as(x)), "is .expand_as"),
    ],
)
def test_what_is_not_known_is_refused_by_name(change, message, vary, tmp_path):
    body = AroundMap(
        change,
        map=nn.Parameter(torch.ones(12, 12)),
        low=nn.Parameter(torch.zeros(17, 1, 1)),
        wide2=nn.Conv2d(17, 17, 1),
    )
    with pytest.raises(PackError, match=message):
        packed_file(converted(body, (24,), vary), tmp_path)


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    body = AroundMap(convolved, c1=nn.Conv2d(17, 4, 1), c2=nn.Conv2d(4, 17, 1))
    network = converted(body, SIZES, lambda network: None)
    return packed_file(network, tmp_path_factory.mktemp("packed"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"function": "divide"}, "'function' must be one of multiply, add, got 'divide'"),
        ({"inputs": [1]}, "'inputs' must be a list of 2 to 2"),
        ({"inputs": [0, 1]}, "'inputs' must be an integer from 1"),
        ({"inputs": [99, 1]}, "reads value 99 before it is written"),
        ({"inputs": [1, 3]}, "needs a float value|must be equal, or 1"),
        ({"extra": 1}, "unknown field 'extra'"),
    ],
)
def test_a_bad_file_is_named(change, message, gate, tmp_path):
    path = changed_file(gate, "binary", change, tmp_path)
    with pytest.raises(PackedFileError, match=message):
        open_packed(path)
