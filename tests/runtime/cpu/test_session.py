"""The compiled runtime against the numpy specification, value by value, and what users can do."""

import functools
import gc
import re
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from low_memory import without_layouts

import rsquant
from rsquant.bench.memory import added_by
from rsquant.errors import ConfigError, ModelError
from rsquant.kernels import available
from rsquant.kernels.backends import native
from rsquant.packed import program as packed_program
from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed
from rsquant.packed.format import read_packed, write_packed
from rsquant.packed.ops.map import MapStep
from rsquant.runtime import load
from rsquant.runtime.cpu.form import convolutions, has_small_layout

ISAS = [isa.name for isa in available() if isa.usable]


def images(count, height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3, height, width), dtype=np.uint8)


@functools.lru_cache(16)
def specification(file, height, width):
    """Logits and every value of images(1, height, width); `file`: the bytes of a packed network."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "n.rsq"
        path.write_bytes(file)
        program = build_program(open_packed(path), height, width)
        return packed_program.run(program, images(1, height, width), every=True)


def assert_equal_in_every_value(path, session, height, width):
    pixels = images(1, height, width)
    logits, values = specification(path.read_bytes(), height, width)
    for number, expected in enumerate(values):
        np.testing.assert_array_equal(session.value(pixels, number), expected[0], f"value {number}")
    np.testing.assert_array_equal(session(pixels), logits)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 3])
def test_every_value_equals_the_specification(make, isa, memory, threads):
    path = make(stem="imagenet")
    session = load(path, threads, memory, isa, tune=False)
    for height, width in ((64, 64), (32, 32), (40, 56)):
        assert_equal_in_every_value(path, session, height, width)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("wbits", "abits"), [(1, 1), (1, 2), (2, 1), (3, 3), (4, 4), (2, 4)])
def test_every_number_of_bits(make, isa, wbits, abits):
    path = make(wbits=wbits, abits=abits, sizes=(32, 24), width=9)
    assert_equal_in_every_value(path, load(path, 2, isa=isa, tune=False), 32, 32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("arch", ["resnet14", "mobilenet"])
def test_bottlenecks_depthwise_convolutions_and_signed_inputs(make, isa, arch, memory):
    path = make(arch, sizes=(48, 32), width=5)
    assert_equal_in_every_value(path, load(path, 2, memory, isa, tune=False), 48, 48)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("width", [1, 15, 33])
def test_convolutions_of_float_values(make, isa, memory, threads, width):
    path = make("floats", sizes=(48, 32), width=width)
    session = load(path, threads, memory, isa, tune=width == 15)
    kernels = session.kernels(48)
    layers = ("shortcut", "wide", "itself", "strided", "depthwise")
    assert {kernels[layer] for layer in layers} == {"direct_float"}
    assert [k for layer, k in kernels.items() if layer not in layers].count("direct_float") == 0
    for height, width in ((48, 48), (40, 33)):
        assert_equal_in_every_value(path, session, height, width)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("width", [1, 15, 16, 17, 65])
@pytest.mark.parametrize("abits", [2, 4])
def test_elementwise_steps(make, isa, width, abits):
    path = make("maps", abits=abits, sizes=(24, 16), width=width)
    program = build_program(open_packed(path), 24, 24)
    maps = [step.epilogue for step in program.steps if isinstance(step, MapStep)]
    assert {(e.add is not None, e.codes is not None) for e in maps} >= {(True, True), (False, True)}
    assert_equal_in_every_value(path, load(path, 2, isa=isa, tune=False), 24, 24)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("norm", ["bn.norm", "bn_w.norm"])
@pytest.mark.parametrize("variance", [1e-9, 1e9])
def test_floats_beyond_what_their_norm_says_are_limited(make, tmp_path, isa, norm, variance):
    tensors, metadata = read_packed(make("floats", sizes=(48, 32)))
    tensors[norm] = table = tensors[norm].copy()
    table[3] *= np.float32(variance)
    table[:2, :, ::3] = 0  # and some channels are 0
    path = tmp_path / "y.rsq"
    write_packed(path, tensors, metadata)
    program = build_program(open_packed(path), 48, 48)
    _, values = packed_program.run(program, images(1, 48, 48), every=True)
    reader = {"bn.norm": "shortcut", "bn_w.norm": "itself"}[norm]
    step = next(step for step in program.steps if step.name == reader)
    largest = np.abs(values[step.input] * step.inverse_step).max()
    assert (largest > step.input_limit) == (variance < 1)
    assert_equal_in_every_value(path, load(path, 2, isa=isa, tune=False), 48, 48)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", ["direct", "bitplanes", "lookup"])
def test_bases_of_zeros_run(make, tmp_path, isa, kernel):
    tensors, metadata = read_packed(make(sizes=(32, 24), width=16))
    for name in ("layer1.0.conv1.basis", "layer2.0.conv2.basis"):
        tensors[name] = np.zeros_like(tensors[name])
    metadata["quantizers"][1]["basis"] = [0, 0]
    path = tmp_path / "y.rsq"
    write_packed(path, tensors, metadata)
    if kernel not in native().all_conv_kernels(isa):
        pytest.skip(f"{isa} has no {kernel}")
    assert_equal_in_every_value(path, load(path, 1, isa=isa, kernel=kernel), 32, 32)


@pytest.mark.parametrize("isa", ISAS)
def test_a_forced_kernel_leaves_convolutions_of_floats_alone(make, isa):
    path = make("floats", sizes=(48, 32))
    session = load(path, 1, isa=isa, kernel="direct_words")
    assert set(session.kernels(48).values()) == {"direct_words", "direct_float"}
    assert_equal_in_every_value(path, session, 48, 48)


def all_kernels():
    return [(isa, kernel) for isa in ISAS for kernel in native().all_conv_kernels(isa)]


@pytest.mark.parametrize(("isa", "kernel"), all_kernels())
@pytest.mark.parametrize("width", [3, 16, 21])
def test_every_kernel_gives_the_same_integers(make, isa, kernel, width):
    path = make(sizes=(72, 40), width=width)
    session = load(path, 2, isa=isa, kernel=kernel)
    used = session.kernels(72)
    # This network has no depthwise layer, reads no floats and is no integer network.
    if kernel not in ("depthwise", "direct_float", "image_bytes"):
        assert kernel in used.values()
    assert_equal_in_every_value(path, session, 72, 72)
    assert_equal_in_every_value(path, session, 40, 40)


def test_a_batch_is_its_images_and_out_is_written_in_place(make):
    session = load(make(), 2, tune=False)
    pixels = images(3, 48, 48)
    out = np.empty((3, 7), np.float32)
    assert session(pixels, out) is out
    np.testing.assert_array_equal(out, np.concatenate([session(x[None]) for x in pixels]))


def test_normalised_floats_are_the_pixels_they_came_from(make):
    path = make()
    session = load(path, 1, tune=False)
    pixels = images(2, 48, 48)
    network = open_packed(path).plan.network
    mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (network.mean, network.std))
    floats = (pixels.astype(np.float32) / 255 - mean) / std
    np.testing.assert_array_equal(session(floats), session(pixels))
    # Beyond black and white: some pixel, never a crash.
    wild = np.full((1, 3, 48, 48), 1e30, np.float32)
    wild[0, 0], wild[0, 1] = -1e30, 0
    assert np.isfinite(session(wild)).all()


def test_sizes_switch_back_and_forth_without_a_trace(make):
    session = load(make(), 2, tune=False)
    batches = [images(1, size, size) for size in (64, 32, 48, 37)]
    first = [session(x) for x in batches]
    for x, expected in list(zip(batches, first, strict=True))[::-1]:
        np.testing.assert_array_equal(session(x), expected)


def test_threads_may_call_one_session_and_several_on_one_file(make):
    path = make()
    sessions = [load(path, 2, tune=False), load(path, 1, "low", tune=False)]
    pixels = [images(1, size, size, seed) for seed, size in enumerate((64, 48, 32, 48))]
    expected = [sessions[0](x) for x in pixels]
    wrong = []

    def work(session, rounds):
        for i in range(rounds):
            x, y = pixels[i % 4], expected[i % 4]
            if not np.array_equal(session(x), y):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(sessions[i % 2], 20)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("change", ["another network", "truncated"])
def test_an_open_session_is_not_touched_by_what_happens_to_its_file(make, memory, change):
    path, x = make(), images(1, 48, 48)
    session = load(path, 1, memory, tune=False)
    expected = load(path, 1, tune=False)(x)
    with open(path, "r+b") as file:  # in place, as `cp` does
        if change == "truncated":
            file.truncate(0)
        else:
            file.seek(path.stat().st_size // 3)
            file.write(b"\xa5" * (path.stat().st_size // 2))
    # The first call, which folds and binds, and one of a size that was not packed.
    np.testing.assert_array_equal(session(x), expected)
    assert np.isfinite(session(images(1, 40, 40))).all()


def test_calls_after_the_first_allocate_nothing(make):
    session = load(make(), 2, tune=False)
    pixels = {size: images(1, size, size) for size in session.resolutions}
    before = session.workspace_bytes
    for x in pixels.values():
        session(x)
    assert session.workspace_bytes == before


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells")
@pytest.mark.parametrize("memory", ["full", "low"])
def test_in_low_memory_what_no_size_has_used_is_not_resident(make, memory):
    session = load(make(sizes=(32, 24), width=16), 1, memory=memory, tune=False)
    session.prepare(24)
    side = 1024
    added = added_by(lambda: session.prepare(side))
    if added is None:
        pytest.skip("the system does not tell")
    assert session.workspace_bytes > 4 * side * side
    if memory == "low":
        assert added < session.workspace_bytes / 10
        image = images(1, side, side)
        assert added_by(lambda: session(image)) > session.workspace_bytes / 2
    else:
        assert added > session.workspace_bytes * 0.9


def test_low_memory_keeps_small_layouts_alone(make):
    path = make(sizes=(32,), width=64)  # 64 to 512 channels: both kinds
    full, low = load(path, 1, tune=False), load(path, 1, "low")
    step = {step.name: step for step in convolutions(full.program(32)).values()}
    small = {
        name: kernel
        for name, kernel in full.kernels(32).items()
        if has_small_layout(full.isa, kernel, step[name].form)
    }
    assert 0 < len(small) < len(step)
    assert small.items() <= low.kernels(32).items()
    limit = {name: (354 if of.form.kernel == (1, 1) else 416) * 1024 for name, of in step.items()}
    assert 0 < low.weight_bytes <= sum(limit[name] for name in small)
    large = sum(limit[name] for name in step.keys() - small.keys())
    assert full.weight_bytes - low.weight_bytes > large
    with without_layouts():
        bare = load(path, 1, "low")
        assert bare.weight_bytes == 0
        x = images(2, 32, 32)
        np.testing.assert_array_equal(bare(x), full(x))
    np.testing.assert_array_equal(low(x), full(x))


def test_wrong_images_are_told_what_was_expected(make):
    session = load(make(), 1, tune=False, interpolate=False)
    for wrong in (images(1, 48, 48).astype(np.float64), images(1, 48, 48).tolist()):
        with pytest.raises(TypeError, match="must be a numpy array of uint8 or float32, got"):
            session(wrong)
    channels_last = np.zeros((1, 48, 48, 3), np.uint8)
    with pytest.raises(ValueError, match=r"shape \(N, 3, height, width\), got .*come first"):
        session(channels_last)
    for wrong in (images(1, 48, 48)[0], np.zeros((0, 3, 48, 48), np.uint8)):
        with pytest.raises(ValueError, match=r"shape \(N, 3, height, width\), got"):
            session(wrong)
    with pytest.raises(ModelError, match=r"40x40 is not packed \(packed: 64, 48, 32\)"):
        session(images(1, 40, 40))
    with pytest.raises(ValueError, match=r"out: must be float32 \(1, 7\), got"):
        session(images(1, 48, 48), np.empty((1, 8), np.float32))


def test_wrong_settings_are_one_clear_line(make):
    path = make()
    unusable = [isa.name for isa in available() if not isa.usable]
    for isa in unusable:
        with pytest.raises(ConfigError, match=rf"isa='{isa}': .*usable here: "):
            load(path, isa=isa)
    with pytest.raises(ConfigError, match="isa='mmx': must be one of"):
        load(path, isa="mmx")
    with pytest.raises(ConfigError, match=r"kernel: .* has .*direct.*, got 'fft'"):
        load(path, kernel="fft")
    with pytest.raises(ConfigError, match="memory: must be full or low, got 'some'"):
        load(path, memory="some")
    with pytest.raises(ConfigError, match="threads: must be 1 to 1024, got 0"):
        load(path, 0)


def test_the_runtime_needs_no_torch(make):
    path = make()
    code = f"""
import sys, numpy
import rsquant.runtime
net = rsquant.runtime.load({str(path)!r}, threads=1)
print(net(numpy.zeros((1, 3, 48, 48), numpy.uint8)).shape)
print([m for m in ("torch", "torchvision", "onnx", "onnxruntime", "brevitas") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["(1, 7)", "[]"]


def test_sizes_that_were_not_packed_are_forgotten_when_unused_for_long(make):
    session = load(make(), 1, tune=False, keep_sizes=2)
    sizes = (64, 64), (48, 48), (40, 40), (41, 40), (42, 40)
    session(images(1, 40, 40))
    programs = {}
    for height, width in sizes:
        session(images(1, 40, 40))  # used all the time
        session(images(1, height, width))
        programs[height, width] = weakref.ref(session._at(height, width)[0])
    gc.collect()
    alive = [size for size, program in programs.items() if program() is not None]
    assert alive == [(64, 64), (48, 48), (40, 40), (42, 40)]
    expected = session(images(1, 42, 40))
    session(images(1, 33, 40)), session(images(1, 34, 40))
    np.testing.assert_array_equal(session(images(1, 42, 40)), expected)


def test_no_size_at_all_may_stay(make):
    session = load(make(), 1, tune=False, keep_sizes=0)
    np.testing.assert_array_equal(session(images(1, 40, 44)), session(images(1, 40, 44)))
    with pytest.raises(ConfigError, match="keep_sizes: must be 0 or more, got -1"):
        load(session.packed.path, keep_sizes=-1)


def test_threads_may_use_more_sizes_than_stay(make):
    session = load(make(), 1, tune=False, keep_sizes=1)
    pixels = [images(1, size, 40) for size in (37, 38, 39)]
    expected = [session(x) for x in pixels]
    wrong = []

    def work(first):
        for i in range(first, first + 12):
            if not np.array_equal(session(pixels[i % 3]), expected[i % 3]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_process_that_runs_a_network_has_no_openssl(make):
    code = f"""
import sys, numpy, rsquant.runtime
session = rsquant.runtime.load({str(make(sizes=(32,)))!r}, 1)
session(numpy.zeros((1, 3, 32, 32), numpy.uint8))
print("_hashlib" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_network_is_one_line():
    torch.manual_seed(0)
    network = rsquant.create("resnet18", 2, 4, (48, 32), 7, width=8)
    expected = r"SwitchableNetwork\(resnet18 W2A4 at 48, 32 pixels, 7 classes, 0\.\d+ M param.*\)"
    assert re.fullmatch(expected, repr(network))
    assert set(rsquant.__all__) <= set(dir(rsquant))


def test_a_session_says_what_it_runs(make):
    path = make()
    session = load(path, 2, "low", tune=False)
    assert repr(session) == (
        f"Session('{path}': resnet10 W2A2 at 64, 48, 32 pixels, 7 classes, {session.isa}, "
        "threads=2, memory='low')"
    )
