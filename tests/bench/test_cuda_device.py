"""The device's clock and graphs on fakes of torch.cuda; what the device can do at most."""

import contextlib
import inspect
from types import SimpleNamespace

import pytest
import torch

from rsquant.bench.cuda.ceilings import Ceiling, ceilings, rates, runs
from rsquant.bench.cuda.device import Cuda, Host, cudnn_chooses, open_device
from rsquant.bench.timing import Times
from rsquant.errors import ConfigError


@pytest.fixture
def log(monkeypatch):
    """What is asked of a fake CUDA device whose events lie 12 ms apart, in order."""
    asked = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            asked.append(f"record on {stream}")

        def synchronize(self):
            asked.append("wait for the event")

        def elapsed_time(self, end):
            return 12.0

    class Stream:
        def __init__(self, device=None):
            pass

        def wait_stream(self, other):
            asked.append(f"side waits for {other}")

    class Current:
        def wait_stream(self, other):
            asked.append("current waits for side")

        def __str__(self):
            return "current"

    class Graph:
        def replay(self):
            asked.append("replay")

    @contextlib.contextmanager
    def inside(name):
        asked.append(f"begin {name}")
        yield
        asked.append(f"end {name}")

    current = Current()
    properties = SimpleNamespace(L2_cache_size=1000, total_memory=10**6)
    fakes = {
        "Event": Event,
        "Stream": Stream,
        "CUDAGraph": Graph,
        "current_stream": lambda device: current,
        "stream": lambda stream: inside("side stream"),
        "graph": lambda graph, stream: inside("capture"),
        "synchronize": lambda device: asked.append("synchronize"),
        "get_device_properties": lambda device: properties,
        "reset_peak_memory_stats": lambda device: asked.append("reset peak"),
        "memory_allocated": lambda device: 700,
        "max_memory_allocated": lambda device: 950,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return asked


def test_torch_takes_what_the_device_gives_it():
    """The fakes above take anything; these are torch's own signatures."""

    def accepts(function, *args, **kwargs):
        inspect.signature(function).bind(*args, **kwargs)

    accepts(torch.cuda.graph, "graph", stream="stream")
    accepts(torch.cuda.Event.__new__, torch.cuda.Event, enable_timing=True)
    accepts(torch.cuda.Event.record, "event", "stream")
    accepts(torch.cuda.Stream.__new__, torch.cuda.Stream, "device")
    accepts(torch.cuda.Stream.wait_stream, "stream", "other")
    for name in (
        "current_stream",
        "synchronize",
        "get_device_properties",
        "memory_allocated",
        "reset_peak_memory_stats",
        "max_memory_allocated",
        "set_device",
    ):
        accepts(getattr(torch.cuda, name), torch.device("cuda", 0))
    for name in ("cudnn_convolution_relu", "cudnn_convolution_add_relu", "_int_mm"):
        assert callable(getattr(torch, name))


def test_events_lie_around_all_repeats_on_the_current_stream(log):
    device = Cuda(torch.device("cuda", 0))
    assert device.seconds(lambda: log.append("call"), 4) == 12.0 / 1e3 / 4
    expected = ["record on current", *["call"] * 4, "record on current", "wait for the event"]
    assert log == expected


def test_a_capture_warms_up_on_its_own_stream_and_counts_what_it_adds(log):
    device = Cuda(torch.device("cuda", 0))
    assert (device.cache_bytes, device.memory_bytes) == (1000, 10**6)

    def call():
        log.append("call")
        return "output"

    captured = device.capture(call)
    assert captured.output == "output" and captured.bytes == 250
    assert log == [
        "side waits for current",
        "begin side stream",
        *["call"] * 3,
        "end side stream",
        "current waits for side",
        "synchronize",
        "reset peak",
        "begin capture",
        "call",
        "end capture",
        "replay",
        "synchronize",
    ]
    captured.replay()
    assert log[-1] == "replay"


def test_the_host_writes_the_same_output_again():
    source = torch.zeros(3)
    captured = Host().capture(lambda: source + 1)
    source += 5
    captured.replay()
    assert captured.output.tolist() == [6.0] * 3
    assert Host().seconds(lambda: None, 3) >= 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_a_missing_device_is_named():
    with pytest.raises(ConfigError, match="device: cuda has no GPU kernels here: "):
        open_device("cuda")
    with pytest.raises(ConfigError, match="device: must be cpu, cuda, cuda:N or auto, got 'foo'"):
        open_device("foo")


def test_cudnn_is_set_back_even_after_an_error():
    before = torch.backends.cudnn.benchmark
    with pytest.raises(ZeroDivisionError), cudnn_chooses():
        assert torch.backends.cudnn.benchmark
        raise ZeroDivisionError
    assert torch.backends.cudnn.benchmark == before


def test_ceilings_are_bytes_read_and_written_and_multiply_adds():
    found = ceilings(Host(), side=64, copied=1000)
    assert {name: c.amount for name, c in found.items()} == {
        "bytes": 2000.0,
        "bf16": 64.0**3,
        "int8": 64.0**3,
    }
    for ceiling in found.values():
        ceiling.call()
    one = Times(2.0, 3.0, 3.0, 3.0, 1)
    reached = rates(found, dict.fromkeys(found, one))
    # The fastest of the samples, 2 ms.
    assert (reached.bytes, reached.bf16, reached.int8) == (1e6, 64**3 / 2e-3, 64**3 / 2e-3)
    without = {name: c for name, c in found.items() if name != "int8"}
    assert rates(without, dict.fromkeys(without, one)).int8 is None


def test_the_copy_leaves_room_in_a_small_memory():
    host = Host()
    host.memory_bytes = 800
    assert ceilings(host, side=16, copied=10**6)["bytes"].amount == 200.0


def test_a_library_that_lacks_something_is_told_from_one_without_memory():
    def fails(error):
        def call():
            raise error

        return call

    assert runs(lambda: None)
    assert not runs(fails(RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")))
    with pytest.raises(torch.OutOfMemoryError):
        runs(fails(torch.OutOfMemoryError("of memory")))
    assert Ceiling(lambda: None, 1.0).amount == 1.0
