"""Integer networks on the GPU's kernels, against docs/integer.md in plain numpy."""

import dataclasses

import integer_networks
import numpy as np
import pytest
import torch
from back_ends import pixels_of
from gpu_values import all_values
from shallow import RESNET10
from torchvision.models import mobilenetv2

import rsquant
from rsquant.packed import program as packed_program
from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed
from rsquant.packed.format import write_packed
from rsquant.packed.schema import to_json
from rsquant.packing.write import pack
from rsquant.runtime.gpu import GpuSession, memory

# Seed, whether BatchNorms are extreme, and channels: of whole words and of odd number.
KINDS = {"plain": (0, False, 8), "extreme": (1, True, 17)}


def opened(path, gpu):
    return GpuSession(open_packed(path), str(gpu), False, True, 1)


def assert_equal(expected, found):
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_array_equal(one, other, f"value {number}")
        assert one.dtype == other.dtype


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_computes_what_the_document_says(kind, gpu, tmp_path):
    plan, tensors = integer_networks.every_step(*KINDS[kind])
    write_packed(tmp_path / "net.rsq", tensors, to_json(plan))
    # Between the BatchNorms and scales of both sizes.
    pixels = pixels_of(2, 19, 18)
    expected = integer_networks.run(plan, tensors, pixels)
    assert_equal(expected, all_values(opened(tmp_path / "net.rsq", gpu), pixels))


def preact():
    return rsquant.create(RESNET10, 2, 2, (16, 8), 3, width=4, integer=True)


def mobile():
    blocks = [[1, 16, 1, 1], [6, 24, 2, 2]]
    body = mobilenetv2.MobileNetV2(3, width_mult=0.3, inverted_residual_setting=blocks)
    return rsquant.convert(body, 2, 3, (16, 8), integer=True)


@pytest.mark.parametrize("network", [preact, pytest.param(mobile, marks=pytest.mark.slow)])
def test_whole_networks(network, gpu, tmp_path):
    torch.manual_seed(0)
    pack(network().eval(), tmp_path / "net.rsq")
    program = build_program(open_packed(tmp_path / "net.rsq"), 16, 16)
    pixels = pixels_of(1, 16, 16)
    _, expected = packed_program.run(program, pixels, every=True)
    assert_equal(expected, all_values(opened(tmp_path / "net.rsq", gpu), pixels))


def test_a_resnet50_needs_less_than_half_of_what_16_bits_need(tmp_path):
    """A quarter of the width takes a quarter of the memory, and is made sooner."""
    network = rsquant.create("resnet50", 2, 2, (32,), 3, width=16, stem="imagenet", integer=True)
    pack(network.eval(), tmp_path / "net.rsq")
    program = build_program(open_packed(tmp_path / "net.rsq"), 224, 224)
    # Two values of 16 bits to a float32.
    wide = [
        dataclasses.replace(value, kind="float", channels=-(-value.channels // 2), basis=())
        for value in program.values[1:]
    ]
    in_16_bits = dataclasses.replace(program, values=(program.values[0], *wide))
    assert memory.plan(program, 8).words < memory.plan(in_16_bits, 8).words / 2
