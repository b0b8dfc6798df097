"""When sums of `lookup` are widened: `plan.cpp` does what a tile would do with made-up sums."""

import shutil
import subprocess
from pathlib import Path

import pytest

from rsquant import kernels

HERE = Path(__file__).parent
CPU = HERE.parents[1] / "kernels" / "cpu"
AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
FLAGS = {
    "avx2": ("-mavx2", "-mfma"),
    "avx512vnni": (*AVX512, "-mavx512vnni", "-mavx512vpopcntdq", "-mavx512vbmi"),
    "neon": (),
}
NATIVE = [isa.name for isa in kernels.available() if isa.usable and isa.name in FLAGS]


@pytest.mark.parametrize("isa", NATIVE)
def test_no_sum_is_too_large_and_none_is_widened_too_soon(isa, tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    program = tmp_path / "plan"
    options = [f"-I{CPU}", f"-DRSQUANT_ISA={isa}", f"-DRSQUANT_SIMD=simd_{isa}.h", *FLAGS[isa]]
    command = ["g++", "-std=c++20", "-O1", "-w", *options, HERE / "plan.cpp", "-o", program]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "20000 plans\n")


def test_the_limit_of_sums_is_the_largest_input_of_which_a_byte_holds_several_steps():
    native = kernels.native()
    found = {isa.name: native.sums_limit(isa.name) for isa in kernels.available() if isa.usable}
    # 255 // (16 * 7) = 2 steps of four tables of four channels; 255 // (6 * 5) = 8 of six channels.
    assert found == {name: {"avx2": 7, "avx512vnni": 5}.get(name, 0) for name in found}


def test_layouts_of_inputs_that_no_table_can_hold_have_a_size():
    native = kernels.native()
    for isa in kernels.available():
        if isa.usable and "lookup" in native.all_conv_kernels(isa.name):
            for limit in (15, 16, 22, 43, 127):
                form = native.ConvForm(
                    groups=1,
                    in_channels=64,
                    out_channels=64,
                    kernel=(3, 3),
                    stride=(1, 1),
                    padding=(1, 1),
                    dilation=(1, 1),
                    input_limit=limit,
                    weight_limit=14,
                    real=False,
                    weight_bits=2,
                    input_basis=(limit,),
                )
                assert native.has_small_layout(isa.name, "lookup", form, 64)
