"""What the command line asks for: settings that exclude each other, and which benchmark runs."""

import dataclasses

import pytest

from rsquant.bench.cuda import request as module
from rsquant.bench.cuda.device import Host
from rsquant.bench.cuda.request import Request, bench_cuda, check
from rsquant.errors import ConfigError

FORM = {"arch": "resnet10", "wbits": None, "abits": None, "width": 8}
PLAIN = Request("cuda", None, FORM, (48, 32), (2,), None, None, 0.0, False, None, False, False)


def asking(**changes):
    return dataclasses.replace(PLAIN, **changes)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"threads": (1,)}, "threads: is for the CPU; leave it out with `device='cuda'`"),
        ({"kernels": True, "training": True}, "kernels, train: choose one"),
        ({"plot": "x.png"}, "plot: draws single convolutions; add `kernels=True`"),
        ({"amp": True}, "amp: is for the training step"),
        ({"batches": (0,)}, "batch: must be 1 or more"),
        ({"training": True, "engines": ("gpu",)}, "engines: `training=True` has its own two"),
        ({"training": True, "batches": (1, 2)}, "batch: must be one number with `training=True`"),
        ({"engines": ("int8",)}, "'int8' is timed for single convolutions only"),
        ({"engines": ("packed",)}, "unknown on a CUDA device: 'packed'"),
        ({"kernels": True, "engines": ("cudnn_bf16_post",)}, "unknown on a CUDA device"),
    ],
)
def test_impossible_settings_are_named_before_a_device_is_opened(changes, message, monkeypatch):
    monkeypatch.setattr(module, "open_device", lambda name: 1 / 0)
    with pytest.raises(ConfigError, match=message):
        bench_cuda(asking(**changes), lambda *_: None, lambda _: None)


def test_possible_settings_pass():
    check(PLAIN)
    check(asking(batches=None))
    check(asking(kernels=True, engines=("int8", "gpu"), plot="x.png"))
    check(asking(training=True, amp=True, batches=None))


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(module, "open_device", lambda name: Host())


def test_each_request_runs_its_benchmark(host, sessions, tmp_path, monkeypatch):
    lines = []
    rows = bench_cuda(asking(engines=("gpu",)), lambda *_: None, lines.append)
    assert lines == ["a freshly initialised resnet10 2/2 (as asked)"]
    assert {r["resolution"] for r in rows} == {48, 32}
    rows = bench_cuda(asking(training=True), lambda *_: None, lines.append)
    assert [r["engine"] for r in rows] == ["train_w2a2", "train_float"]
    bench_layers = module.bench_layers
    monkeypatch.setattr(
        module, "bench_layers", lambda *given: bench_layers(*given, side=32, copied=100)
    )
    plot = tmp_path / "r.png"
    wanted = asking(kernels=True, engines=("gpu", "cudnn_bf16"), plot=plot, resolutions=(32,))
    rows = bench_cuda(wanted, lambda *_: None, lines.append)
    assert {r["engine"] for r in rows} == {"gpu", "cudnn_bf16"}
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_layers_are_of_both_networks_unless_one_is_named(host, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "bench_layers", lambda subjects, *_: asked.append(subjects) or [])
    for form in ({**FORM, "arch": None}, FORM):
        bench_cuda(asking(kernels=True, form=form), lambda *_: None, lambda _: None)
    archs = [[s.network.spec.arch for s in subjects] for subjects in asked]
    assert archs == [["resnet18", "resnet50"], ["resnet10"]]
