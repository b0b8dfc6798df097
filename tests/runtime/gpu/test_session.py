"""Packed networks on the GPU's kernels against the specification, value by value."""

import numpy as np
import pytest
import torch
from gpu_values import all_values
from padded_networks import DynamicSame, Lite, LowerSame
from third_party import AffineWeights, SignActivations

import rsquant
from rsquant import quantizers
from rsquant.errors import ConfigError, ModelError
from rsquant.packed import program as packed_program
from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed
from rsquant.runtime import Session, load, tuning
from rsquant.runtime.gpu import GpuSession

# Small: the interpreter takes a quarter of a second for a convolution's smallest program.
SIZES = (16, 8)


def images(count, height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3, height, width), dtype=np.uint8)


@pytest.fixture
def opened(gpu):
    """opened(path) -> a session on the device of these tests."""

    def make_session(path, interpolate=True, keep_sizes=1):
        return GpuSession(open_packed(path), str(gpu), True, interpolate, keep_sizes)

    return make_session


def assert_equal_in_every_value(path, session, height, width):
    program = build_program(open_packed(path), height, width)
    pixels = images(1, height, width)
    _, values = packed_program.run(program, pixels, every=True)
    found = all_values(session, pixels)
    for number, (expected, value) in enumerate(zip(values, found, strict=True)):
        np.testing.assert_array_equal(value, expected, f"value {number}")


@pytest.mark.parametrize(
    ("arch", "wbits", "abits", "width"),
    [
        ("resnet10", 2, 2, 8),
        ("resnet14", 2, 2, 4),
        pytest.param("resnet18", 2, 2, 8, marks=pytest.mark.slow),
        pytest.param("resnet50", 2, 2, 4, marks=pytest.mark.slow),
        pytest.param("resnet18", 1, 1, 5, marks=pytest.mark.slow),
        pytest.param("resnet18", 4, 3, 9, marks=pytest.mark.slow),
        pytest.param("mobilenet", 2, 4, 0, marks=pytest.mark.slow),
    ],
)
def test_every_value_equals_the_specification(make, opened, arch, wbits, abits, width):
    sizes = (32,) if arch == "mobilenet" else SIZES
    path = make(arch, wbits, abits, sizes=sizes, width=width)
    assert_equal_in_every_value(path, opened(path), sizes[0], sizes[0])


def test_a_narrow_setting_computes_what_the_cpu_does(opened, tmp_path):
    torch.manual_seed(0)
    given = {"resolutions": (8,), "num_classes": 3, "width": 8}
    network = rsquant.create("resnet10", widths=(1.0, 0.5), bits=("2/2", "1/2"), **given)
    rsquant.pack(network.eval(), tmp_path / "net.rsq")
    session, cpu = opened(tmp_path / "net.rsq"), load(tmp_path / "net.rsq", threads=1, tune=False)
    pixels = images(2, 8, 8)
    narrow = {"width": 0.5, "bits": (1, 2)}
    np.testing.assert_array_equal(session(pixels, **narrow), cpu(pixels, **narrow))
    assert not np.array_equal(cpu(pixels, **narrow), cpu(pixels))


@pytest.mark.parametrize("name", ["lsq", "sign"])
def test_levels_with_an_offset(make, opened, monkeypatch, name):
    monkeypatch.setattr(quantizers.registry, "_KINDS", dict(quantizers.registry._KINDS))
    quantizers.register("sign", AffineWeights, SignActivations)
    path = make("resnet10", 2, 2, sizes=SIZES, width=4, quantizer=name)
    packed = open_packed(path)
    assert packed.plan.format_version == 4
    assert_equal_in_every_value(path, opened(path), 8, 8)


def test_convolutions_of_float_values(make, opened):
    path = make("floats", sizes=(16, 12), width=5)
    session = opened(path)
    assert_equal_in_every_value(path, session, 16, 16)
    assert_equal_in_every_value(path, session, 12, 17)


def test_other_sizes_and_rectangles(make, opened):
    path = make("resnet10", stem="imagenet", sizes=(48, 32))
    session = opened(path)
    assert_equal_in_every_value(path, session, 33, 40)


def test_sizes_share_memory_and_do_not_disturb_each_other(make, opened):
    path = make("maps", sizes=SIZES, width=5)
    session = opened(path)
    for size in (16, 8, 16):
        pixels = images(2, size, size)
        expected = packed_program.run(build_program(open_packed(path), size, size), pixels)
        np.testing.assert_array_equal(session(pixels), expected)
    graphs = session.graph(16, 2), session.graph(8, 2)
    rooms = {graph.values[0].untyped_storage().data_ptr() for graph in graphs}
    assert len(rooms) == 1
    assert graphs[1].activation_bytes < graphs[0].activation_bytes


def test_graphs_unused_for_long_are_forgotten(make, opened, monkeypatch):
    session = opened(make("resnet10", sizes=SIZES), keep_sizes=2)
    made = []

    def record(height, width, batch):
        session._memory.setdefault(batch, torch.empty(1))
        made.append((height, batch))
        return height, width, batch

    monkeypatch.setattr(session, "_make", record)
    for size in (16, 8, 9, 10, 11, 16, 8, 11, 10, 9):
        assert session._at(size, size, 1) == (size, size, 1)
    assert made == [(16, 1), (8, 1), (9, 1), (10, 1), (11, 1), (9, 1)]
    for batch in range(2, 12):
        session._at(16, 16, batch)
    assert list(session._memory) == list(range(4, 12))
    made.clear()
    for batch in (4, 11, 1):
        session._at(16, 16, batch)
    assert made == [(16, 1)] and 5 not in session._memory


def test_arrays_that_must_not_be_written_are_taken(make, opened, monkeypatch):
    session = opened(make("resnet10", sizes=SIZES))
    seen = []
    monkeypatch.setattr(session, "_run", lambda pixels: seen.append(pixels) or torch.zeros(1, 7))
    pixels = np.frombuffer(images(1, 8, 8).tobytes(), np.uint8).reshape(1, 3, 8, 8)
    session(pixels)  # torch's warning would be an error
    session(pixels[:, :, ::-1, ::-1])
    np.testing.assert_array_equal(seen[0].numpy(), pixels)
    np.testing.assert_array_equal(seen[1].numpy(), pixels[:, :, ::-1, ::-1])


def test_a_tensor_stays_on_the_device_and_gives_what_the_cpu_gives(make, opened, gpu):
    path = make("resnet10", sizes=SIZES)
    pixels = images(1, 8, 8)
    got = opened(path)(torch.from_numpy(pixels).to(gpu))
    assert got.device.type == gpu.type
    np.testing.assert_array_equal(got.cpu().numpy(), load(path, 1, tune=False)(pixels))


def test_what_a_launch_moves_and_multiplies(make, opened):
    session = opened(make("resnet10", sizes=SIZES, width=8))
    launches = session.graph(16, 2).launches
    convs = {launch.step.name: launch for launch in launches if launch.macs and launch.tile}
    # The first convolution: 3x3, stride 1, 3 channels and one of 255 to 8.
    first = convs["conv1"]
    assert first.macs == 2 * 16 * 16 * 8 * 9 * 4
    second = next(launch for name, launch in convs.items() if name != "conv1")
    assert second.macs == 2 * 16 * 16 * 8 * 9 * 8
    assert all(launch.bytes > 0 for launch in launches)


def test_wrong_images(make, opened, gpu):
    session = opened(make("resnet10", sizes=SIZES), interpolate=False)
    with pytest.raises(TypeError, match="uint8 or float32"):
        session(images(1, 16, 16).astype(np.float64))
    with pytest.raises(ValueError, match="channels come first"):
        session(images(1, 16, 16).transpose(0, 2, 3, 1))
    with pytest.raises(TypeError, match="must be uint8 on"):
        session(torch.zeros(1, 3, 32, 32, device=gpu))
    with pytest.raises(ValueError, match="N, 3, height, width"):
        session(torch.zeros(1, 32, 32, 3, dtype=torch.uint8, device=gpu))
    with pytest.raises(ModelError, match=r"40x40 is not packed \(packed: 16, 8\)"):
        session(images(1, 40, 40))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_load_without_a_gpu(make):
    path = make("resnet10", sizes=SIZES)
    with pytest.raises(ConfigError, match="cuda has no GPU kernels here"):
        load(path, device="cuda")
    assert isinstance(load(path, device="auto", tune=False), Session)
    with pytest.raises(ConfigError, match="must be cpu, cuda, cuda:N or auto"):
        load(path, device="tpu")


def test_settings_of_the_cpu_are_refused_for_a_gpu(make, monkeypatch):
    monkeypatch.setattr("rsquant.kernels.backends.gpu_why_not", lambda name="cuda": "")
    path = make("resnet10", sizes=SIZES)
    with pytest.raises(ConfigError, match="threads, memory: for the CPU only"):
        load(path, 2, "low", device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_recorded_graph_gives_what_its_steps_give_and_tiles_are_remembered(make):
    path = make("resnet50", sizes=(64, 48), width=16)
    session = load(path, device="cuda")
    graph = session.graph(64, 5)
    graph.images.copy_(torch.from_numpy(images(5, 64, 64)))
    graph.replay()
    replayed = graph.logits.clone()
    for launch in graph.launches:
        launch.run()
    np.testing.assert_array_equal(graph.logits.cpu().numpy(), replayed.cpu().numpy())
    assert any(key.startswith("gpu ") for key in tuning.read())


@pytest.mark.parametrize("kind", [DynamicSame, LowerSame])
def test_padding_that_differs_from_side_to_side(opened, kind, tmp_path):
    torch.manual_seed(0)
    rsquant.pack(rsquant.convert(Lite(kind, 4), 2, 2, SIZES), tmp_path / "x.rsq")
    session = opened(tmp_path / "x.rsq")
    assert_equal_in_every_value(tmp_path / "x.rsq", session, 16, 16)
    assert_equal_in_every_value(tmp_path / "x.rsq", session, 15, 10)
