"""Evaluation of an integer network computes the integers of docs/integer.md, code for code."""

import integer_network
import narrow
import pytest
import torch
from shallow import RESNET10, RESNET14

import rsquant
from rsquant.data.transforms import normalise
from rsquant.nn.integer.byte_scale import Bytes, ByteScale
from rsquant.nn.integer.endings import IntegerHead, IntegerLinear
from rsquant.nn.integer.exact import step_of
from rsquant.nn.integer.layers import IntegerModule, IntegerSum
from rsquant.nn.integer.resize import IntegerResize
from rsquant.nn.norm import SwitchableBatchNorm2d

pytestmark = pytest.mark.usefixtures("one_start")

SIZES = (48, 32)


def preact(**more):
    return rsquant.create(RESNET10, 2, 2, SIZES, 7, width=8, integer=True, **more)


def bottleneck():
    return rsquant.create(RESNET14, 2, 3, SIZES, 7, width=4, integer=True)


def postact():
    network = narrow.resnet(7)
    return rsquant.convert(network, 2, 2, SIZES, integer=True)


def mobilenet():
    network = narrow.mobilenet_v2(7, 0.25)
    return rsquant.convert(network, 2, 4, SIZES, integer=True)


def bare():
    return preact(block="preact-bare")


def tiny_stem():
    return preact(stem="tiny", quantizer="lsq")


def light():
    arch = f"refinenet_lw_bn_{RESNET10}"
    return rsquant.create(arch, 2, 2, SIZES, 7, width=2, task="segmentation", integer=True)


def images(size, count=2):
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def lived_in(make):
    """A network whose statistics, parameters and scales are none of the start's."""
    torch.manual_seed(0)
    network = make()
    rsquant.calibrate(network.train(), normalise(images(48, 4)))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, SwitchableBatchNorm2d):
                module.weight.normal_(0.0, 1.0)
                module.weight += 0.1 * module.weight.sign()  # none is almost 0
                module.bias.normal_(0.0, 0.5)
            if isinstance(module, ByteScale):
                module.peak *= torch.rand_like(module.peak) + 0.5
    network.forward_all([normalise(images(size, 4)) for size in SIZES])
    return network.eval()


def codes(network, pixels, size):
    """Of every layer, by name; of the classifier, logits."""
    found, handles = {}, []
    rows = network.active.blend(size)

    def note(module, name):
        def hook(_, __, result):
            if isinstance(module, (IntegerLinear, IntegerHead)):
                found[name] = result.numpy()
            else:
                value = module.source if isinstance(module, IntegerResize) else module.out
                step = step_of(value, rows)
                code = torch.round(result.double() / step)
                assert torch.allclose(code * step, result.double(), 1e-6)
                found[name] = code.long().numpy()

        return hook

    for name, module in network.body.named_modules():
        if isinstance(module, (IntegerModule, IntegerSum)):
            handles.append(module.register_forward_hook(note(module, name)))
    with torch.no_grad():
        network(normalise(pixels))
    for handle in handles:
        handle.remove()
    return found


@pytest.fixture(
    scope="module", params=[preact, bottleneck, postact, mobilenet, bare, tiny_stem, light]
)
def network(request):
    return lived_in(request.param)


@pytest.mark.parametrize(("size", "count"), [(48, 1), (40, 1), (32, 2)])
def test_every_code_is_that_of_the_definition(network, size, count):
    pixels = images(size, count)
    expected = integer_network.run(network, pixels, size)
    found = codes(network, pixels, size)
    assert found.keys() == expected.keys()
    for name, code in expected.items():
        assert (found[name] == code).all(), name


def test_codes_are_in_the_range_of_a_byte(network):
    found = codes(network, images(48), 48)
    for name, module in network.body.named_modules():
        if isinstance(module, (IntegerModule, IntegerSum)) and hasattr(module, "out"):
            out = module.out
            if isinstance(out, Bytes):
                assert out.zero in (0, 128)
                assert 0 <= (found[name] + out.zero).min() <= (found[name] + out.zero).max() <= 255
