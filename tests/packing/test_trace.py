"""Networks of every shape that packs, and what does not pack says so."""

from pathlib import Path

import narrow
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import rsquant
from rsquant.errors import PackError
from rsquant.packed.build import build_program
from rsquant.packed.ops.conv import ConvSpec
from rsquant.packed.ops.map import MapSpec
from rsquant.packed.ops.maxpool import MaxPoolSpec
from rsquant.packing.grid import on_grid
from rsquant.packing.lower import lower
from rsquant.packing.trace import trace
from rsquant.packing.write import lowered_network, pack


class Net(nn.Module):
    """image -> conv, bn -> `middle` (8 channels in and out) -> average -> classifier."""

    def __init__(self, middle):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.middle = middle
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = self.middle(functional.relu(self.bn(self.conv(x))))
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class Middle(nn.Module):
    """Layers a, b (3x3) and their BatchNorms, put together by `how`."""

    def __init__(self, how, **options):
        super().__init__()
        self.how = how
        options = {"padding": 1, **options}
        self.a, self.b = (nn.Conv2d(8, 8, 3, bias=False, **options) for _ in range(2))
        self.bn_a, self.bn_b = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        return self.how(self, x)


def add_in_place(m, x):
    out = m.relu(m.bn_a(m.a(x)))
    out = m.bn_b(m.b(out))
    out += x
    return m.relu(out)


def relu_in_place_before_a_skip(m, x):
    y = m.bn_a(m.a(x))
    z = m.b(m.relu(y))  # what is added below has been through the ReLU too
    return torch.add(z, y)


def preactivation(m, x):
    return x + m.b(torch.relu(m.bn_b(m.a(functional.relu(m.bn_a(x))))))


def two_readers(m, x):
    return m.bn_a(m.a(x)) + m.bn_b(m.b(x))


def twice_itself(m, x):
    x = m.bn_a(m.a(x))
    return m.b(x + x).relu()


def shared_layer(m, x):
    return m.bn_a(m.a(m.relu(m.bn_a(m.a(x)))))


def pool_before_quantizer(m, x):
    return m.bn_b(m.b(m.pool(m.relu(m.bn_a(m.a(x))))))


def pool_for_two(m, x):
    x = m.pool(x)
    return m.bn_a(m.a(x)).add_(x)


def functional_pool(m, x):
    return m.bn_a(m.a(functional.max_pool2d(input=x, kernel_size=3, stride=2, padding=1)))


def norm_after_relu(m, x):
    return m.bn_b(functional.relu6(m.bn_a(m.a(x))))


def two_norms_and_relus(m, x):
    x = functional.relu6(m.bn_b(m.relu(m.bn_a(m.a(x)))))
    return m.b(m.bn_a(x).contiguous())


def three_readers(m, x):
    x = m.relu(m.bn_a(m.a(x)))
    return m.b(x) + m.a(x) + m.bn_b(x)


SHAPES = [
    add_in_place,
    relu_in_place_before_a_skip,
    preactivation,
    two_readers,
    twice_itself,
    shared_layer,
    pool_before_quantizer,
    pool_for_two,
    functional_pool,
    norm_after_relu,
    two_norms_and_relus,
    three_readers,
]


SIZES = (32, 24)


def converted(middle, keep=None):
    torch.manual_seed(0)
    return rsquant.convert(Net(middle), 2, 2, SIZES, keep)


@pytest.mark.parametrize("how", SHAPES, ids=lambda how: how.__name__)
def test_a_network_of_this_shape_packs(compare, pixels, signed_norms, how):
    network = on_grid(signed_norms(converted(Middle(how))), "coarse").network
    assert compare(network, pixels(2, 32, 32))[0] > 1000


def with_float_inputs(network, *layers):
    """These layers' inputs are not quantized."""
    for name in layers:
        network.body.get_submodule(name).input_quantizer = None
    return network


@pytest.mark.parametrize("layers", [("a",), ("b",), ("a", "b")], ids="".join)
@pytest.mark.parametrize("how", SHAPES, ids=lambda how: how.__name__)
def test_a_shape_packs_with_float_inputs(compare, pixels, signed_norms, how, layers):
    network = with_float_inputs(converted(Middle(how)), *(f"middle.{name}" for name in layers))
    network = on_grid(signed_norms(network), "coarse").network
    assert compare(network, pixels(2, 32, 32))[0] > 1000


@pytest.mark.parametrize("options", [{"groups": 8}, {"groups": 2}, {"dilation": 2, "padding": 2}])
def test_groups_and_dilation_pack(compare, pixels, signed_norms, options):
    network = on_grid(signed_norms(converted(Middle(add_in_place, **options))), "coarse").network
    compare(network, pixels(2, 32, 32))


def steps(middle):
    return lower(trace(on_grid(converted(middle).eval(), "coarse").network.body, SIZES)).steps


def test_what_follows_a_convolution_is_its_epilogue():
    # A post-activation block has one step per convolution, one more for the second reader of x.
    kinds = [type(step) for step in steps(Middle(add_in_place))[:-2]]
    assert kinds == [ConvSpec] * 3
    first, second, third = (step.epilogue for step in steps(Middle(add_in_place))[:3])
    assert first.norm == "bn.norm" and first.relu and first.keep and first.codes
    assert second.keep is None and second.codes and second.relu
    assert third.add == first.keep and third.keep and third.relu and third.codes is None


def test_a_second_quantizer_of_a_value_is_a_map():
    made = steps(Middle(two_readers))
    maps = [step for step in made if isinstance(step, MapSpec)]
    assert len(maps) == 1
    assert maps[0].epilogue.codes is not None and maps[0].epilogue.keep is None


def floats_only(m, x):
    return m.bn_b(m.b(m.relu(m.bn_a(m.a(x)))))


def test_logits_differ_by_no_more_than_fixed_point_rounds(compare, pixels, signed_norms):
    # Each input is off by half a step, and by what the convolution before it was; that adds up
    # with the sizes of the weights. A ReLU and an average make no error larger.
    def rounding(program):
        error = 0.0
        for step in program.steps:
            if getattr(step, "inverse_step", None):
                error = np.max(error) + 0.502 / step.inverse_step
                sizes = np.abs(step.levels()).sum((1, 2, 3)) * step.inverse_step
                error = sizes * np.abs(step.epilogue.scale) * error
        assert error.max() > 0
        return error

    network = with_float_inputs(converted(Middle(floats_only)), "middle.a", "middle.b")
    network = on_grid(signed_norms(network), "coarse").network
    _, _, logits = compare(network, pixels(4, 32, 32), rounding)
    error = rounding(build_program(lowered_network(network, Path("x.rsq"))[0], 32, 32)).max()
    # Small enough for the comparison to mean something.
    assert error < 0.05 * np.ptp(logits)


class Shortcut(nn.Module):
    """The first block of the published LQ-Nets ResNet-50: its shortcut reads the float value.

    `first` is which of branch and shortcut runs first, `swapped` the order of the addition.
    """

    def __init__(self, first="shortcut", swapped=False, identity=False):
        super().__init__()
        self.first, self.swapped, self.identity = first, swapped, identity
        self.pool = nn.MaxPool2d(2)
        self.a, self.b = nn.Conv2d(8, 4, 1, bias=False), nn.Conv2d(4, 8, 1, bias=False)
        self.bn_a, self.bn_b = nn.BatchNorm2d(4), nn.BatchNorm2d(8)
        self.shortcut, self.bn = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.after = nn.Conv2d(8, 8, 1, bias=False)

    def forward(self, x):
        x = self.pool(x)
        skip = x if self.identity else None
        if self.first == "shortcut" and skip is None:
            skip = self.bn(self.shortcut(x))
        branch = self.bn_b(self.b(functional.relu(self.bn_a(self.a(x)))))
        if skip is None:
            skip = self.bn(self.shortcut(x))
        total = skip + branch if self.swapped else branch + skip
        return self.after(functional.relu(total)) + total


def shortcut_network(**options):
    return with_float_inputs(converted(Shortcut(**options)), "middle.shortcut")


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("first", ["shortcut", "branch"])
def test_of_two_convolutions_that_are_added_the_later_takes_the_sum(
    compare, pixels, signed_norms, first, swapped
):
    network = on_grid(signed_norms(shortcut_network(first=first, swapped=swapped)), "coarse")
    made = lower(trace(network.network.body, SIZES)).steps
    convs = {step.name: step for step in made if isinstance(step, ConvSpec)}
    early, late = convs["middle.shortcut"], convs["middle.b"]
    pool = next(step for step in made if isinstance(step, MaxPoolSpec))
    assert early.input == pool.output
    if first == "branch":
        early, late = late, early
    assert early.epilogue.norm and early.epilogue.keep and not early.epilogue.codes
    assert early.epilogue.add is None
    # The addition, and the ReLU and quantizer behind it.
    assert late.epilogue.norm and late.epilogue.add == early.epilogue.keep
    assert late.epilogue.keep and late.epilogue.codes and late.epilogue.codes_relu
    # The one map is the quantizer of the branch, since the pooling has two readers.
    assert [s.name for s in made if isinstance(s, MapSpec)] == ["middle.a.input_quantizer"]
    compare(network.network, pixels(2, 32, 32))


@pytest.mark.parametrize("swapped", [False, True])
def test_an_identity_shortcut_is_added_behind_the_norm_of_the_last_convolution(swapped):
    network = converted(Shortcut(identity=True, swapped=swapped))
    made = lower(trace(on_grid(network.eval(), "coarse").network.body, SIZES)).steps
    pool = next(step for step in made if isinstance(step, MaxPoolSpec))
    last = next(step for step in made if step.name == "middle.b")
    assert last.epilogue.norm == "middle.bn_b.norm"
    assert last.epilogue.add == pool.output


@pytest.mark.parametrize(
    "make",
    [
        lambda: rsquant.create("resnet18", 2, 32, (64,), 5, width=4),
        lambda: rsquant.convert(narrow.mobilenet_v2(), 2, 32, (64,)),
    ],
    ids=["created", "converted"],
)
def test_a_network_of_float_inputs_alone_is_refused(tmp_path, make):
    network = make()
    with pytest.raises(PackError, match=r"activations are float32 \(abits 32\)"):
        pack(network, tmp_path / "x.rsq")


def test_a_quantizer_that_alone_reads_a_pooling_moves_in_front_of_it():
    made = steps(Middle(pool_before_quantizer))
    pool = next(i for i, step in enumerate(made) if isinstance(step, MaxPoolSpec))
    assert made[pool].input == made[pool - 1].epilogue.codes
    assert made[pool - 1].epilogue.keep is None
    assert made[pool + 1].input == made[pool].output


def scaled(m, x):
    return m.bn_a(m.a(x)) * torch.softmax(x, 1)


def ended(*layers):
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), *layers)
    return rsquant.convert(body, 2, 2, (256,))


def branching(m, x):
    return m.a(x) if x.sum() > 0 else m.b(x)


@pytest.mark.parametrize(
    "network,message",
    [
        (
            lambda: converted(Middle(scaled)),
            r"softmax: is softmax, which the runtime does not have",
        ),
        (
            lambda: converted(
                Middle(lambda m, x: torch.cat([m.a(x)[:, :, :4], m.b(x)[:, :, 4:]], 2))
            ),
            "getitem: takes some of the images or pixels, .*; take a range of channels",
        ),
        (
            lambda: converted(Middle(lambda m, x: m.a(x) / (x + 1))),
            "truediv: divides by a value of the network",
        ),
        (lambda: converted(Middle(lambda m, x: m.a(x.mean(1, keepdim=True) + x))), "a mean over 1"),
        (
            lambda: converted(Middle(branching)),
            r"cannot trace it \(.* in line \d+ of test_trace",
        ),
        (lambda: converted(nn.Conv2d(8, 8, 1, 1, 1)), r"middle: padding \(1, 1\) is as large"),
        (
            lambda: converted(nn.Sequential(nn.Conv2d(8, 8, 1), nn.Softsign())),
            r"middle\.1: is a Softsign, which the runtime does not have",
        ),
        (
            lambda: converted(nn.Conv2d(8, 8, 1), keep=("conv", "middle", "fc")),
            "middle: has float32 weights in the middle of the network",
        ),
        (
            lambda: converted(Middle(add_in_place), keep=()),
            "reads the image; only a convolution can",
        ),
        (
            lambda: ended(
                nn.Conv2d(8, 8, 1), nn.MaxPool2d(32), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(8, 4)
            ),
            "flattens a map of several pixels",
        ),
        (
            lambda: ended(nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            "must end in a Linear layer to be packed, ends in",
        ),
    ],
)
def test_what_cannot_be_packed_is_named(tmp_path, network, message):
    with pytest.raises(PackError, match=message) as error:
        pack(network(), tmp_path / "x.rsq")
    assert "\n" not in str(error.value)
    assert ";" in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *(
            "vgg11_bn",
            "densenet121",
            "googlenet",
            "inception_v3",
            "shufflenet_v2_x0_5",
            "mnasnet0_5",
        ),
        *("mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf", "resnext50_32x4d"),
    ],
)
def test_torchvisions_families_pack_to_what_torch_computes(name, signed_norms, compare, pixels):
    size = 96 if name == "inception_v3" else 64
    network = signed_norms(rsquant.create(f"torchvision:{name}", 2, 2, (size,), 10, grid="coarse"))
    compared, _, _ = compare(on_grid(network, "coarse").network, pixels(1, size, size))
    assert compared > 10_000


def test_a_convolution_of_one_pixel_may_be_the_classifier(signed_norms, compare, pixels):
    network = signed_norms(
        rsquant.convert(
            nn.Sequential(
                nn.Conv2d(3, 8, 3, 2, 1, bias=False),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Conv2d(8, 17, 1, bias=False),
                nn.BatchNorm2d(17),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Conv2d(17, 5, 1),
                nn.Flatten(),
            ),
            2,
            2,
            (24, 16),
            grid="coarse",
        )
    )
    compared, _, logits = compare(on_grid(network, "coarse").network, pixels(2, 24, 24))
    assert compared > 500 and logits.shape == (2, 5)
