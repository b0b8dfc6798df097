"""`rsquant bench`: which command runs, what each takes, tables and files made of rows."""

import json
from dataclasses import asdict
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from rsquant import runs
from rsquant.bench import request
from rsquant.bench.engines.choice import cpu_engines, cuda_engines
from rsquant.bench.rows import (
    CpuLayerRow,
    CudaLayerRow,
    CudaNetworkRow,
    NetworkRow,
    ProfileRow,
    SwitchRow,
    TrainingRow,
)
from rsquant.cli import engines as names
from rsquant.cli import group, main
from rsquant.cli.bench import command

TIMES = {"median_ms": 1.234, "q1_ms": 1.1, "q3_ms": 1.3, "samples": 5}
FORM = {"arch": "resnet18", "wbits": 2, "abits": 2}
NETWORK = {
    **FORM,
    **TIMES,
    "resolution": 224,
    "batch": 8,
    "peak_rss_bytes": None,
    "switch_ms": None,
}
LAYER = {
    "arch": "resnet18",
    "layer": "layer1.0.conv1",
    "in_channels": 64,
    "out_channels": 32,
    "kernel": "3x3",
    "stride": 1,
    "resolution": 224,
    "output": 56,
    "ms": 0.012,
}


def network_row(engine, kind=NetworkRow, **more):
    speedup, size = (2.5, 4_000_000) if engine in ("packed", "gpu") else (1.0, None)
    return kind(**NETWORK, engine=engine, speedup=speedup, file_bytes=size, load_ms=size, **more)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    captured = capsys.readouterr()
    return exit_.value.code, captured.out, captured.err


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What was asked of each benchmark, which runs nothing."""
    monkeypatch.chdir(tmp_path)
    found = []

    def stand_in(name, row):
        def bench(asked, extra, step, echo, *more):
            found.append((name, asked, (extra, *more) if more else extra))
            step("preparing", 0.0)
            step("preparing", 0.5)
            echo("a network")
            return [row]

        monkeypatch.setattr(request, name, bench)

    stand_in("networks", network_row("packed", threads=1))
    gpu = {"activation_bytes": 10**7, "value_bytes": None, "form": "fused"}
    found_rows = {
        "networks": network_row("gpu", CudaNetworkRow, threads=None, **gpu),
        "kernels": CudaLayerRow(
            **LAYER,
            batch=8,
            epilogue="codes",
            engine="gpu",
            form="one kernel",
            median_ms=0.0123,
            warm_ms=0.01,
            samples=5,
            macs=10**6,
            bytes=10**5,
            tmacs=90.0,
            gbytes_per_s=None,
            copy_gbytes_per_s=4000.0,
            peak_tmacs=None,
            share_of_bytes=None,
            share_of_operations=0.5,
        ),
        "training": TrainingRow(
            **TIMES,
            **FORM,
            engine="train_w2a2",
            resolutions=(224, 96),
            batch=64,
            amp=False,
            ratio=1.15,
            peak_bytes=3 * 10**6,
        ),
    }
    found.append(lambda name: stand_in(name, found_rows[name]))
    for name in ("kernels", "training"):
        stand_in(name, found_rows[name])
    return found


@pytest.mark.parametrize(
    "given,name,target,arch",
    [
        ([], "networks", None, None),
        (["networks"], "networks", None, None),
        (["mine"], "networks", "mine", None),
        (["--arch", "resnet50"], "networks", None, "resnet50"),
        (["--batch", "1", "mine"], "networks", "mine", None),
        (["networks", "mine"], "networks", "mine", None),
        (["runs/kernels"], "networks", "runs/kernels", None),
        (["kernels", "--arch", "resnet50"], "kernels", None, "resnet50"),
        (["kernels", "mine"], "kernels", "mine", None),
        (["training", "mine"], "training", "mine", None),
        (["training", "training"], "training", "training", None),
    ],
)
def test_without_a_commands_name_networks_are_timed(asked, capsys, given, name, target, arch):
    status, out, err = run(capsys, "bench", *given)
    assert status == 0, err
    _, (called, wanted, _) = asked
    assert (called, wanted.target, wanted.arch) == (name, target, arch)
    assert "a network" in out


def test_devices_are_those_the_commands_are_for(asked, capsys):
    for name, device in (("networks", "cpu"), ("kernels", "cpu"), ("training", "cpu")):
        assert run(capsys, "bench", name)[0] == 0
        assert asked[-1][1].device == device


@pytest.mark.parametrize(
    "given,line",
    [
        (["--kernels"], "--kernels is a command: rsquant bench kernels"),
        (["mine", "--kernels", "--json", "k.json"], "is a command: rsquant bench kernels"),
        (["--train", "--amp"], "--train is a command: rsquant bench training"),
        (["--plot", "x.png"], "--plot belongs to rsquant bench kernels"),
        (["--plot=x.png"], "--plot belongs to rsquant bench kernels"),
        (["--amp"], "--amp belongs to rsquant bench training"),
        (["--device", "cuda", "kernels"], "'kernels' must come first: rsquant bench kernels"),
        (["kernel"], "no run or checkpoint 'kernel'; did you mean 'rsquant bench kernels'?"),
        (["trainig"], "did you mean 'rsquant bench training'?"),
        (["networks", "--kernels"], "No such option"),
        (["networks", "--plot", "x"], "No such option"),
        (["kernels", "--threads", "1"], "No such option"),
        (["training", "--engines", "gpu"], "No such option"),
        (["--engines", "pcked"], "unknown 'pcked'; did you mean 'packed'?"),
        (["--engines", "torch,"], "unknown ''"),
        (["--engines", "int8"], "'int8' is timed for single convolutions only"),
        (["kernels", "--engines", "packed"], "'packed' runs whole networks"),
        (["kernels", "--engines", "cudnn_bf61"], "did you mean 'cudnn_bf16'?"),
    ],
)
def test_what_went_elsewhere_or_is_not_known_is_one_line(asked, capsys, given, line):
    status, out, err = run(capsys, "bench", *given)
    assert (status, out, len(asked)) == (2, "", 1)
    assert line in err and len(err.splitlines()) == 1 and err.startswith("error: ")


def test_a_run_that_has_a_commands_name_or_nearly_is_found(asked, capsys, tmp_path):
    for name in ("kernel", "kernels"):
        (tmp_path / runs.RUNS / name).mkdir(parents=True)
    assert run(capsys, "bench", "kernel")[0] == 0
    assert (asked[-1][0], asked[-1][1].target) == ("networks", "kernel")
    assert run(capsys, "bench", "--threads", "1", "kernels")[0] == 0
    assert asked[-1][1].target == "kernels"


def test_tables_and_files_are_made_from_rows(asked, capsys, tmp_path):
    status, out, err = run(capsys, "bench", "--threads", "1", "--json", "c.json")
    assert status == 0 and "preparing" not in err
    for part in ("a network", "2.50x", "4.0 MB", "1.23", "1.10-1.30", "written c.json"):
        assert part in out
    report = json.loads((tmp_path / "c.json").read_text())
    assert set(report) == {"machine", "rows"}
    assert report["rows"] == [asdict(network_row("packed", threads=1))]
    asked[0]("networks")
    status, out, err = run(capsys, "bench", "--device", "cuda", "--batch", "8", "--json", "g.json")
    assert status == 0 and err.count("preparing") == 1
    for part in ("2.50x", "10.0 MB", "1.23", "written g.json"):
        assert part in out
    (row,) = json.loads((tmp_path / "g.json").read_text())["rows"]
    assert (row["form"], row["threads"], row["activation_bytes"]) == ("fused", None, 10**7)
    status, out, _ = run(capsys, "bench", "kernels", "--device", "cuda", "--plot", "p.png")
    assert status == 0 and asked[-1][2].name == "p.png"
    for part in ("layer1.0.conv1", "3x3 s1 64->32", "12.3", "10.0", "50%", "drawn p.png"):
        assert part in out
    status, out, _ = run(capsys, "bench", "training", "--amp", "--json", "t.json")
    assert status == 0 and asked[-1][2] == (True, None, None)
    for part in ("train_w2a2", "1.15", "3.0 MB", "at 224,96"):
        assert part in out
    assert run(capsys, "bench", "training", "--peers", "lsq")[0] == 0
    assert asked[-1][2] == (False, ("lsq",), None)
    assert json.loads((tmp_path / "t.json").read_text())["rows"][0]["resolutions"] == [224, 96]
    status, _, err = run(capsys, "bench", "--json", "t.json")
    assert status == 2 and "t.json: exists already" in err


def test_rows_of_the_cpus_kernels_have_a_table(capsys):
    from rich.console import Console

    from rsquant.cli.bench_tables import printed

    more = {"gmacs": 80.4, "median_gmacs": 70.0, "bound_gmacs": 160.0, "share_of_bound": 0.5}
    table, _ = printed([CpuLayerRow(**LAYER, isa="avx2", algorithm="winograd", **more)])
    Console(width=200).print(table)
    shown = capsys.readouterr().out
    for part in ("layer1.0.conv1", "3x3 s1 64->32", "winograd", "80 (70)", "160", "50%"):
        assert part in shown


PROFILE = {
    **FORM,
    "resolution": 96,
    "threads": 2,
    "isa": "avx2",
    "op": "conv",
    "form": "3x3 s1 to 6x6x64",
    "macs": 10,
    "bytes": 10,
    "bound": "bytes",
}


def profile_row(layer, kernel, ms, share, **more):
    times = {"ms": ms, "median_ms": 2 * ms, "bound_ms": ms / 4, "share_of_bound": 0.25}
    return ProfileRow(**{**PROFILE, **times, **more}, layer=layer, kernel=kernel, share=share)


def test_a_profile_has_a_row_a_step_a_sum_an_operation_and_the_call(asked, capsys, monkeypatch):
    rows = [
        profile_row("a", "direct", 1.0, 0.25),
        profile_row("b", "direct", 1.5, 0.375),
        profile_row("pool", None, 0.5, 0.125, op="maxpool", bound="copy"),
        profile_row("call", None, 4.5, 1.0, op="call", bound="all"),
    ]
    monkeypatch.setattr(request, "profile", lambda *_: rows)
    monkeypatch.setattr(request, "networks", None)
    monkeypatch.setenv("COLUMNS", "150")
    status, out, _ = run(capsys, "bench", "--profile", "net.rsq", "--json", "p.json")
    assert status == 0
    lines = [line.replace("│", " ").split() for line in out.splitlines()]
    form = ["3x3", "s1", "to", "6x6x64"]
    assert ["a", "direct", *form, "1.000", "2.000", "25.0%", "0.250", "bytes", "25%"] in lines
    assert ["pool", "maxpool", *form, "0.500", "1.000", "12.5%", "0.125", "copy", "25%"] in lines
    assert ["2", "steps", "direct", "2.500", "5.000", "62.5%", "0.625", "25%"] in lines
    assert ["1", "step", "maxpool", "0.500", "1.000", "12.5%", "0.125", "25%"] in lines
    assert ["call", "4.500", "9.000", "100.0%", "1.125", "25%"] in lines
    assert "resnet18 2/2 at 96, 2 threads, avx2" in out
    assert json.loads(Path("p.json").read_text())["rows"] == [asdict(row) for row in rows]


def test_switching_has_a_row_for_each_way(asked, capsys, monkeypatch):
    row = SwitchRow(
        **FORM,
        **TIMES,
        engine="ort_int8",
        way="reload",
        resolution=96,
        batch=1,
        threads=1,
        switched_ms=50.2,
        switched_q1_ms=49.0,
        switched_q3_ms=52.0,
        switch_ms=48.9,
        file_bytes=23_000_000,
    )
    monkeypatch.setattr(request, "switching", lambda *_: [row])
    monkeypatch.setattr(request, "networks", None)
    monkeypatch.setenv("COLUMNS", "150")
    status, out, _ = run(capsys, "bench", "--switch", "--json", "s.json")
    assert status == 0
    lines = [line.replace("│", " ").split() for line in out.splitlines()]
    times = ["1.23", "50.20", "49.00-52.00", "48.90", "23.0", "MB"]
    assert ["96", "1", "ort_int8", "reload", *times] in lines
    assert json.loads(Path("s.json").read_text())["rows"] == [asdict(row)]
    status, _, err = run(capsys, "bench", "--switch", "--profile")
    assert status == 2 and "--profile and --switch are two benchmarks" in err


def test_names_of_engines_are_those_that_are_registered():
    from rsquant.bench.cuda.layers import LAYER_ENGINES
    from rsquant.bench.training import PEERS

    assert set(names.CPU) == set(cpu_engines()) and len(names.CPU) == len(cpu_engines())
    assert set(names.CUDA) == set(cuda_engines())
    assert names.CUDA_LAYERS == LAYER_ENGINES
    assert names.TRAINING_PEERS == PEERS


@pytest.mark.parametrize("name", command.commands)
def test_help_shows_what_the_command_takes_alone(name, capsys):
    status, out, _ = run(capsys, "bench", name, "--help")
    assert status == 0 and f"Usage: rsquant bench {name}" in out
    only = {
        "--threads": ("networks", "training"),
        "--profile": ("networks",),
        "--switch": ("networks",),
        "--plot": ("kernels",),
        "--amp": ("training",),
        "--peers": ("training",),
    }
    for option, where in only.items():
        assert (option in out) == (name in where)
    assert ("--engines" in out) == (name != "training")


def test_help_of_the_group_names_its_commands(capsys):
    status, out, _ = run(capsys, "bench", "--help")
    assert status == 0
    for name in command.commands:
        assert f"  {name} " in out
    assert "--threads" not in out


def completed(*arguments, last=""):
    shell = ShellComplete(group, {}, "rsquant", "_RSQUANT_COMPLETE")
    found = shell.get_completions(list(arguments), last)
    # Others are left to the shell: files.
    return [item.value for item in found if item.type == "plain"]


def test_the_shell_completes_commands_options_and_engines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert completed("bench", last="k") == ["kernels"]
    assert completed("bench", last="")[:3] == list(command.commands)
    assert "--threads" in completed("bench", last="--t")
    assert completed("bench", "--arch", "resnet18", last="--th") == ["--threads"]
    assert completed("bench", "kernels", last="--pl") == ["--plot"]
    assert completed("bench", "--engines", last="pack") == ["packed", "packed_low"]
    assert completed("bench", "networks", "--engines", last="torch,pa") == [
        "torch,packed",
        "torch,packed_low",
    ]
    assert completed("bench", "kernels", "--engines", last="gpu,g") == []


def test_engines_may_be_given_to_a_program(asked):
    with pytest.raises(click.BadParameter, match="did you mean 'torch'"):
        names.Engines(names.CPU).convert("tortch", None, None)
    assert names.Engines(names.CPU).convert("torch, packed,torch", None, None) == (
        "torch",
        "packed",
    )
