"""What the command line asks for: settings that cannot be, and which benchmark runs where."""

from types import SimpleNamespace

import pytest

import rsquant
from rsquant.bench import request as module
from rsquant.bench.cuda import device as devices
from rsquant.bench.cuda.device import Host
from rsquant.bench.request import Request, kernels, networks, profile, switching, training
from rsquant.bench.subject import Subject
from rsquant.errors import ConfigError
from rsquant.nn.variant import at_variant
from rsquant.settings import Variant


def ignored(*_):
    pass


def asking(**changes):
    small = {"arch": "resnet10", "width": 8, "resolutions": (48, 32), "batch": (2,), "budget": 0.0}
    return Request(**{"device": "cuda", **small, **changes})


RUNS = {
    "networks": lambda request: networks(request, None, ignored, ignored),
    "threads": lambda request: networks(request, (1,), ignored, ignored),
    "profile": lambda request: profile(request, (1,), ignored, ignored),
    "profile threads": lambda request: profile(request, (0,), ignored, ignored),
    "switching": lambda request: switching(request, (1,), ignored, ignored),
    "kernels": lambda request: kernels(request, None, ignored, ignored),
    "plot": lambda request: kernels(request, "x.png", ignored, ignored),
    "training": lambda request: training(request, False, ignored, ignored),
    "threads of training": lambda request: training(
        request, False, ignored, ignored, threads=(1, 2)
    ),
}


@pytest.mark.parametrize(
    "what,changes,message",
    [
        ("threads", {}, "threads: is for the CPU; leave it out with `device='cuda'`"),
        ("networks", {"batch": (0,)}, "batch: must be 1 or more"),
        ("networks", {"engines": ("int8",)}, "'int8' is timed for single convolutions only"),
        (
            "networks",
            {"engines": ("packed",)},
            "'packed' is not an engine here; .*known: gpu, cudnn",
        ),
        ("networks", {"device": "cpu", "batch": (1, 2)}, "batch: must be one number on the CPU"),
        ("networks", {"device": "cpu", "batch": (0,)}, "batch: must be 1 or more"),
        ("profile", {}, "profile: is for the CPU; choose `device='cpu'`"),
        ("profile", {"device": "cpu"}, "batch: a profile is of one image"),
        ("profile", {"device": "cpu", "engines": ("torch",)}, "engines: a profile is of one"),
        ("profile threads", {"device": "cpu", "batch": None}, "threads: must be 1 to"),
        (
            "profile",
            {"device": "cpu", "batch": None, "target": "net.rsq"},
            "net.rsq says what the network is; leave out `arch`, `width`",
        ),
        ("switching", {}, "switch: is for the CPU; choose `device='cpu'`"),
        ("switching", {"device": "cpu", "batch": (1, 2)}, "batch: must be one number on the CPU"),
        (
            "networks",
            {"device": "cpu", "engines": ("gpu",)},
            "'gpu' is not an engine here; .*torch",
        ),
        ("kernels", {"engines": ("cudnn_bf16_post",)}, "known: gpu, cudnn_bf16, cudnn_fp16, int8"),
        ("kernels", {"batch": (-1,)}, "batch: must be 1 or more"),
        (
            "kernels",
            {"device": "cpu"},
            "batch: is for a GPU; leave it out, or choose `dev",
        ),
        ("plot", {"device": "cpu", "batch": None, "budget": None}, "plot: is for a GPU"),
        ("training", {"batch": (1, 2)}, "batch: must be one number for a training step"),
        ("threads of training", {}, "threads: must be one number, 1 or more, and is for the CPU"),
        ("threads of training", {"device": "cpu"}, "threads: must be one number, 1 or more"),
    ],
)
def test_impossible_settings_are_named_before_a_network_or_a_device(
    what, changes, message, monkeypatch
):
    monkeypatch.setattr(devices, "open_device", lambda name: 1 / 0)
    monkeypatch.setattr(module, "choose_subject", lambda *_: 1 / 0)
    with pytest.raises(ConfigError, match=message):
        RUNS[what](asking(**changes))


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(devices, "open_device", lambda name: Host())


def test_each_request_runs_its_benchmark(host, sessions, tmp_path, monkeypatch):
    from rsquant.bench.cuda import layers

    lines = []
    rows = networks(asking(engines=("gpu",)), None, ignored, lines.append)
    assert lines == ["a freshly initialised resnet10 2/2 (as asked)"]
    assert {row.resolution for row in rows} == {48, 32}
    rows = training(asking(), False, ignored, lines.append)
    assert [row.engine for row in rows] == ["train_w2a2", "train_float"]
    bench_layers = layers.bench_layers
    monkeypatch.setattr(
        layers, "bench_layers", lambda *given: bench_layers(*given, side=32, copied=100)
    )
    plot = tmp_path / "r.png"
    wanted = asking(engines=("gpu", "cudnn_bf16"), resolutions=(32,))
    rows = kernels(wanted, plot, ignored, lines.append)
    assert {row.engine for row in rows} == {"gpu", "cudnn_bf16"}
    assert plot.read_bytes().startswith(b"\x89PNG")


def named_alone(target, arch, *_):
    """A subject without its network, which takes seconds to make."""
    network = SimpleNamespace(spec=SimpleNamespace(arch=arch, wbits=2, abits=2))
    return Subject(network, None, arch)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_layers_are_of_both_networks_unless_one_is_named(host, monkeypatch, device):
    from rsquant.bench import kernels as cpu
    from rsquant.bench.cuda import layers

    asked = []
    monkeypatch.setattr(module, "choose_subject", named_alone)
    monkeypatch.setattr(cpu, "bench_kernels", lambda subjects, *_, **__: asked.append(subjects))
    monkeypatch.setattr(layers, "bench_layers", lambda subjects, *_: asked.append(subjects))
    limits = {"device": device, "batch": None, "budget": None}
    for arch in (None, "resnet10"):
        kernels(asking(arch=arch, **limits), None, ignored, ignored)
    archs = [[s.network.spec.arch for s in subjects] for subjects in asked]
    assert archs == [["resnet18", "resnet50"], ["resnet10"]]


def test_the_budget_is_what_was_given_or_the_usual_one():
    assert asking(budget=3.0).seconds == 3.0
    assert asking(budget=None).seconds == module.BUDGET
    assert asking(budget=0.0).seconds == 0.0


def test_a_profile_is_of_a_packed_file_or_of_a_network_that_is_packed(monkeypatch):
    from rsquant.bench import profile as profiles

    asked, lines = [], []
    monkeypatch.setattr(module, "open_packed", lambda path: SimpleNamespace(variants=(Variant(),)))
    monkeypatch.setattr(profiles, "profile_file", lambda *given: asked.append(given) or ["file"])
    monkeypatch.setattr(profiles, "profile_network", lambda *given: asked.append(given) or ["net"])
    plain = {"device": "cpu", "batch": None, "budget": None}
    of_file = asking(**plain, target="a/net.rsq", arch=None, width=None)
    assert profile(of_file, (1,), ignored, lines.append) == ["file"]
    assert asked[-1][:4] == ("a/net.rsq", (48, 32), (1,), profiles.BUDGET)
    assert profile(asking(**plain, arch="resnet10"), (1,), ignored, lines.append) == ["net"]
    assert asked[-1][0].network.spec.arch == "resnet10"
    assert lines == ["packed file a/net.rsq", "a freshly initialised resnet10 2/2 (as asked)"]


@pytest.mark.parametrize("what", ["switching", "profile", "kernels", "training", "networks"])
def test_of_several_settings_it_is_told_that_one_is_timed(host, monkeypatch, what):
    from rsquant.bench import kernels as cpu
    from rsquant.bench import profile as profiles
    from rsquant.bench import switching as switches
    from rsquant.bench import training as steps
    from rsquant.bench.cuda import networks as cuda

    given = {"resolutions": (32,), "num_classes": 3, "width": 8}
    whole = rsquant.create("resnet10", widths=(1.0, 0.5), bits=("4/4", "2/2"), **given)
    others = {one: at_variant(whole, one) for one in whole.variants[1:]}
    subject = Subject(at_variant(whole), None, "checkpoint x", others)
    monkeypatch.setattr(module, "choose_subject", lambda *_: subject)
    for place, name in (
        (cpu, "bench_kernels"),
        (profiles, "profile_network"),
        (switches, "bench_switching"),
        (steps, "bench_training"),
        (cuda, "bench_networks"),
    ):
        monkeypatch.setattr(place, name, lambda *_, **__: [])
    lines, plain = [], {"device": "cpu", "batch": None, "budget": None}
    run = {
        "switching": lambda: switching(asking(**plain), (1,), ignored, lines.append),
        "profile": lambda: profile(asking(**plain), (1,), ignored, lines.append),
        "kernels": lambda: kernels(asking(**plain), None, ignored, lines.append),
        "training": lambda: training(asking(**plain), False, ignored, lines.append),
        "networks": lambda: networks(asking(), None, ignored, lines.append),
    }
    run[what]()
    assert lines[0] == "checkpoint x"
    assert lines[1].startswith(
        "of its 4 settings the costliest alone is timed: width 1, 4/4 bits; 'rsquant bench"
    )
    # A packed file tells of its own.
    if what == "profile":
        monkeypatch.setattr(profiles, "profile_file", lambda *_: [])
        monkeypatch.setattr(
            module, "open_packed", lambda path: SimpleNamespace(variants=whole.variants)
        )
        of_file = asking(**plain, target="a/net.rsq", arch=None, width=None)
        profile(of_file, (1,), ignored, lines.append)
        assert lines[2] == "packed file a/net.rsq" and lines[3] == lines[1]
