"""Elementwise functions: torch's values, on every back end, and what a file may say of them."""

import operator

import pytest
import torch
from around_map import SIZES, AroundMap, operations
from back_ends import assert_equal_everywhere, changed_file, converted, packed_file
from torch import nn
from torch.nn import functional

from rsquant.errors import PackedFileError, PackError
from rsquant.packed.file import open_packed

MODULES = [
    nn.Sigmoid(),
    nn.SiLU(inplace=True),
    nn.Hardsigmoid(),
    nn.Hardswish(),
    nn.Tanh(),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.ELU(0.7),
    nn.CELU(3.0),
    nn.SELU(),
    nn.LeakyReLU(0.2),
    nn.Softplus(2),
    nn.Mish(),
    nn.LogSigmoid(),
    nn.PReLU(init=0.3),
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: type(module).__name__)
def test_modules_give_torchs_values(module, compare, pixels, vary):
    network = converted(AroundMap(lambda net, x: net.act(x), act=module), SIZES, vary)
    for height, width in ((24, 24), (17, 23)):
        compared, _, _ = compare(network, pixels(1, height, width))
        assert compared > 500


FUNCTIONS = [
    (lambda x: torch.sigmoid(x), "sigmoid"),
    (lambda x: x.sigmoid(), "sigmoid"),
    (lambda x: functional.sigmoid(x), "sigmoid"),
    (lambda x: torch.special.expit(x), "sigmoid"),
    (lambda x: torch.tanh(input=x), "tanh"),
    (lambda x: functional.silu(x, True), "silu"),
    (lambda x: functional.hardsigmoid(x), "hardsigmoid"),
    (lambda x: functional.hardswish(x, inplace=True), "hardswish"),
    (lambda x: functional.gelu(x, approximate="tanh"), "gelu_tanh"),
    (lambda x: functional.gelu(x), "gelu"),
    (lambda x: functional.elu(x, 0.5), "elu"),
    (lambda x: functional.celu(x, alpha=0.5), "celu"),
    (lambda x: functional.selu(x), "selu"),
    (lambda x: functional.leaky_relu(x, negative_slope=0.1), "leaky_relu"),
    (lambda x: functional.softplus(x), "softplus"),
    (lambda x: functional.mish(x), "mish"),
    (lambda x: functional.logsigmoid(x), "logsigmoid"),
    (lambda x: torch.abs(x), "abs"),
    (lambda x: x.abs(), "abs"),
]


@pytest.mark.parametrize(("function", "name"), FUNCTIONS)
def test_every_spelling_packs(function, name, compare, pixels, vary, tmp_path):
    network = converted(AroundMap(lambda _, x: function(x)), SIZES, vary)
    compare(network, pixels(1, 16, 16))
    packed = open_packed(packed_file(network, tmp_path))
    assert [step.function for step in packed.plan.steps if step.OP == "function"] == [name]
    # The convolution keeps floats, the function gives codes: two passes.
    assert operations(packed) == ["conv", "conv", "function", "conv", "avgpool", "linear"]
    assert packed.plan.format_version == 4


@pytest.mark.parametrize(
    "in_place",
    [
        lambda x: x.sigmoid_(),
        lambda x: torch.tanh_(x),
        lambda x: functional.silu(x, True),
        lambda x: functional.leaky_relu(x, 0.1, True),
        lambda x: functional.elu_(x, 0.3),
        lambda x: functional.hardtanh(x, -1, 0.5, True),
        lambda x: x.clamp_(-0.5, 0.5),
        lambda x: x.mul_(0.5),
        lambda x: operator.imul(x, 0.5),
        lambda x: operator.iadd(x, 1),
        lambda x: operator.isub(x, 1),
        lambda x: operator.itruediv(x, 2),
    ],
)
def test_what_is_done_in_place_is_seen_by_all(in_place, compare, pixels, vary):
    def change(_, x):
        before = x
        in_place(x)
        return before

    compare(converted(AroundMap(change), SIZES, vary), pixels(1, 24, 24))


class Everything(nn.Module):
    """Functions of floats and of codes; results kept, quantized, added to and averaged."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 5, 3, 2, 1, bias=False), nn.BatchNorm2d(5)
        self.a, self.bn_a = nn.Conv2d(5, 33, 3, padding=1, bias=False), nn.BatchNorm2d(33)
        self.b, self.c = nn.Conv2d(33, 33, 1), nn.Conv2d(33, 1, 1)
        self.d = nn.Conv2d(1, 16, 1)
        self.fc = nn.Linear(16, 7)

    def forward(self, x):
        x = functional.silu(self.bn(self.stem(x)))
        x = functional.hardswish(self.bn_a(self.a(x)))
        x = torch.sigmoid(self.b(x)) + x
        x = self.d(torch.tanh(self.c(functional.relu(x))))
        return self.fc(functional.gelu(x).mean((2, 3)))


@pytest.mark.parametrize("abits", [1, 3])
def test_every_back_end_gives_the_same_bits(abits, compare, pixels, vary, tmp_path, gpu):
    network = converted(Everything(), SIZES, vary, abits)
    compare(network, pixels(2, 24, 24))
    assert_equal_everywhere(packed_file(network, tmp_path), ((16, 16), (9, 17)), gpu)


def test_functions_of_codes(pixels, vary, tmp_path, gpu):
    """A quantizer that stands before a function, as in networks that quantize where they like."""
    body = AroundMap(lambda net, x: net.act(net.quantizer(x)), act=nn.SiLU(), quantizer=nn.ReLU())
    network = converted(body, SIZES, vary)
    network.body.quantizer = network.body.join.input_quantizer
    network.body.join.input_quantizer = None
    path = packed_file(network.eval(), tmp_path)
    (step,) = [s for s in open_packed(path).plan.steps if s.OP == "function"]
    assert open_packed(path).values[step.input].kind == "codes"
    assert_equal_everywhere(path, ((16, 16), (11, 9)), gpu)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Softplus(1, 5), "^act: has a threshold below 15"),
        (nn.ELU(1e6), "^act: has the parameter 1000000.0, known are numbers from -1024 to 1024"),
        (nn.CELU(-1.0), "^act: has the parameter -1.0"),
        (nn.Softsign(), "^act: is a Softsign, which the runtime does not have"),
    ],
)
def test_what_is_not_known_is_refused_by_name(module, message, vary, tmp_path):
    network = converted(AroundMap(lambda net, x: net.act(x), act=module), SIZES, vary)
    with pytest.raises(PackError, match=message):
        packed_file(network, tmp_path)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    network = converted(
        AroundMap(lambda net, x: net.act(x), act=nn.ELU()), SIZES, lambda network: None
    )
    return packed_file(network, tmp_path_factory.mktemp("packed"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"function": "exp"}, "'function' must be one of abs, celu.*got 'exp'"),
        ({"function": 3}, "'function' must be text"),
        ({"parameters": []}, "'parameters' must be a list of 1 to 1"),
        ({"parameters": [1, 2]}, "'parameters' must be a list of 1 to 1"),
        ({"parameters": [2000]}, "'parameters' of elu must be from -1024 to 1024, got 2000"),
        ({"parameters": ["1"]}, "'parameters' must be a number"),
        ({"parameters": [float("1e300")]}, "'parameters' must be a number in range"),
        ({"function": "celu", "parameters": [0]}, "'parameters' of celu must be from"),
        ({"input": 0}, "'input' must be an integer from 1"),
        ({"input": 99}, "reads value 99 before it is written"),
        ({"add": 1}, "adds .* to 17 channels"),
        ({"codes": None}, "writes neither"),
        ({"extra": 1}, "unknown field 'extra'"),
    ],
)
def test_a_bad_file_is_named(change, message, file, tmp_path):
    path = changed_file(file, "function", change, tmp_path)
    with pytest.raises(PackedFileError, match=message):
        open_packed(path)
