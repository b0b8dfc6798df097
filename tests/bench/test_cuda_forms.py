"""What is counted of a convolution, against numbers worked out by hand."""

from dataclasses import replace

import pytest
import torch

import rsquant
from rsquant.bench.cuda.device import Host
from rsquant.bench.cuda.forms import Form, form_of
from rsquant.bench.engines import cublas, cudnn
from rsquant.evaluate.complexity import madds
from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed
from rsquant.packed.ops.conv import ConvStep


def form(batch, channels, kernel, stride, side, out, groups=1, epilogue="codes"):
    pad = kernel // 2
    return Form(
        batch,
        *channels,
        (kernel, kernel),
        (stride, stride),
        (pad, pad),
        (1, 1),
        groups,
        side,
        side,
        out,
        out,
        epilogue,
    )


@pytest.mark.parametrize(
    "given,macs,bf16",
    [
        # 3x3, 64 to 64 at 56: 2 * 56 * 56 * 64 outputs of 576 products; as many inputs as outputs,
        # 64 * 576 weights and 64 biases, two bytes each.
        (form(2, (64, 64), 3, 1, 56, 56), 231_211_008, 2 * (401_408 + 36_864 + 64 + 401_408)),
        # 1x1 of stride 2: a quarter of the pixels is read.
        (
            form(1, (256, 512), 1, 2, 56, 28),
            784 * 512 * 256,
            2 * (784 * 256 + 512 * 256 + 512 + 784 * 512),
        ),
        # 7x7 of stride 2 on the image: all pixels are read.
        (
            form(1, (3, 64), 7, 2, 224, 112),
            118_013_952,
            2 * (224 * 224 * 3 + 64 * 147 + 64 + 112 * 112 * 64),
        ),
        # Depthwise: nine products per output.
        (form(1, (32, 32), 3, 1, 10, 10, groups=32), 28_800, 2 * (3_200 + 288 + 32 + 3_200)),
    ],
)
def test_work_is_what_it_is_by_hand(given, macs, bf16):
    assert given.macs == macs
    assert given.bytes(2, 2, 2, 2) == bf16


def test_int8_reads_bytes_and_writes_words():
    given = form(4, (64, 256), 1, 1, 8, 8)
    assert given.bytes(1, 1, 4, 0) == 256 * 64 + 64 * 256 + 4 * 256 * 256


def test_forms_of_a_program_do_the_work_of_the_network(tmp_path):
    torch.manual_seed(0)
    network = rsquant.create("resnet50", 2, 2, (64,), 5, width=8, stem="imagenet").eval()
    rsquant.pack(network, tmp_path / "a.rsq")
    program = build_program(open_packed(tmp_path / "a.rsq"), 64, 64)
    forms = [form_of(program, step, 3) for step in program.steps if isinstance(step, ConvStep)]
    # All but the classifier: 32 * 8 channels to 5 classes.
    assert sum(f.macs for f in forms) == 3 * (madds(network, 64) - 256 * 5)
    first = forms[0]
    # The image's fourth channel is no work of the network's.
    assert (first.in_channels, first.out_channels, first.kernel) == (3, 8, (7, 7))
    assert (first.height, first.out_height, first.batch) == (64, 32, 3)
    assert {f.epilogue for f in forms} >= {"codes"}
    assert any("add" in f.epilogue for f in forms)


def test_peers_compute_the_convolution_and_the_sum_that_ours_adds():
    given = form(2, (8, 16), 3, 2, 9, 5)
    torch.manual_seed(0)
    (plain,) = cudnn.convolution(given, torch.float32, Host())
    # The CPU has no fused form.
    assert plain.form == "plain" and plain.bytes == given.bytes(4, 4, 4, 4)
    result = plain.call()
    assert result.shape == (2, 16, 5, 5) and torch.equal(result, plain.call())
    torch.manual_seed(0)
    (added,) = cudnn.convolution(replace(given, epilogue="add codes"), torch.float32, Host())
    assert added.bytes == given.bytes(4, 4, 4, 4) + 4 * 2 * 16 * 5 * 5
    assert torch.equal(added.call(), added.call())
    # The same weights and images, so the difference is the sum: normal values, negative ones cut.
    z = added.call() - result
    assert float(z.min()) > -1e-5 and 0.5 < float(z[z > 1e-5].mean()) < 1.1


def test_int8_is_for_pointwise_convolutions_of_enough_rows():
    host = Host()
    assert cublas.pointwise(form(1, (8, 8), 3, 1, 8, 8), host) is None
    assert cublas.pointwise(form(1, (8, 8), 1, 2, 8, 4), host) is None
    assert cublas.pointwise(form(1, (8, 8), 1, 1, 4, 4), host) is None
    assert cublas.pointwise(form(1, (12, 8), 1, 1, 8, 8), host) is None
    assert cublas.pointwise(form(1, (8, 8), 1, 1, 8, 8, groups=2), host) is None
    product = cublas.pointwise(form(1, (8, 16), 1, 1, 5, 5), host)
    assert product.bytes == 25 * 8 + 8 * 16 + 4 * 25 * 16
    product.call()
