"""The command line as a user meets it: exit status, one line of error, start-up without torch."""

import json
import os
import subprocess
import sys

import pytest
import shallow  # noqa: F401  (ResNet-10)

from rsquant import quantizers
from rsquant.cli import COMMANDS, main
from rsquant.cli.bench import command as bench_group
from rsquant.made import Made
from rsquant.report import plots

pytestmark = pytest.mark.usefixtures("one_start")

SMALL = [
    "train",
    "--arch",
    "resnet10",
    "--width",
    "8",
    "--resolutions",
    "48,32",
    "--train-images",
    "48",
    "--val-images",
    "24",
    "--epochs",
    "1",
    "--batch",
    "16",
    "--workers",
    "0",
    "--device",
    "cpu",
]


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    captured = capsys.readouterr()
    return exit_.value.code, captured.out, captured.err


BENCH = tuple(bench_group.commands)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def undrawn_curves(monkeypatch):
    """Runs have no picture: drawing one takes as long as training."""
    monkeypatch.setattr(plots, "training_curves", lambda run: run / "curves.png")


@pytest.mark.parametrize(
    "arguments", [[], *([c] for c in COMMANDS), *(["bench", c] for c in BENCH)]
)
def test_help_does_not_import_torch(arguments):
    code = (
        "import sys; from rsquant.cli import main\n"
        f"try: main({[*arguments, '--help']})\n"
        "except SystemExit as e: status = e.code\n"
        "heavy = [m for m in ('torch', 'numpy', 'onnx', 'rich') if m in sys.modules]\n"
        "print('STATUS', status, 'HEAVY', heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("STATUS 0 HEAVY []")
    assert "Usage: rsquant" in done.stdout


@pytest.mark.parametrize(
    "command,given,expected",
    [
        ("train", {}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}),
        ("info", {}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}),
        ("bench", {}, {}),
        ("train", {"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ("train", {"GOMP_SPINCOUNT": "5"}, {"GOMP_SPINCOUNT": "5"}),
        ("train", {"KMP_BLOCKTIME": "7"}, {}),
    ],
)
def test_threads_wait_briefly_unless_the_user_says_otherwise(command, given, expected):
    """What torch's OpenMP sees when it is loaded: the environment at the import of torch."""
    code = (
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch':\n"
        "            names = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')\n"
        "            print({n: os.environ[n] for n in names if n in os.environ})\n"
        "            sys.stdout.flush(); os._exit(0)\n"
        "sys.meta_path.insert(0, Watch())\n"
        f"from rsquant.cli import main; main([{command!r}])"
    )
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    environment = {k: v for k, v in os.environ.items() if k not in names} | given
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == str(expected)


def test_train_evaluate_and_info_in_an_empty_folder(folder, capsys):
    status, out, _ = run(capsys, *SMALL)
    assert status == 0
    assert "data   built-in generated set" in out
    assert "runs/resnet10_w2a2" in out
    assert (folder / "runs/resnet10_w2a2/curves.png").read_bytes().startswith(b"\x89PNG")
    status, out, _ = run(
        capsys, "eval", "--resolutions", "48,40,32,24", "--json", "e.json", "--workers", "0"
    )
    assert status == 0
    assert "checkpoint runs/resnet10_w2a2/best.safetensors" in out
    report = json.loads((folder / "e.json").read_text())
    assert set(report) == {"machine", "rows"}
    assert [row["resolution"] for row in report["rows"]] == [48, 40, 32, 24]
    norms = [row["batchnorms"] for row in report["rows"]]
    assert norms == ["own", "interpolated", "own", "of 32"]
    for row in report["rows"]:
        assert {"resolution", "top1", "top5", "loss", "madds", "samples"} <= set(row)
        assert row["samples"] == 24
    # The figures of the last epoch, seen again from the file. (One epoch: best is last.)
    lines = (folder / "runs/resnet10_w2a2/metrics.csv").read_text().splitlines()
    metrics = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    assert float(metrics["val_top1_48"]) == pytest.approx(report["rows"][0]["top1"], rel=1e-4)
    assert float(metrics["val_loss_32"]) == pytest.approx(report["rows"][2]["loss"], rel=1e-4)
    status, _, err = run(capsys, "eval", "--json", "e.json")
    assert status == 2
    assert "e.json: exists already" in err
    status, _, err = run(capsys, "eval", "--resolutions", "8")
    assert status == 2
    assert "smaller than the network's stride of 16" in err
    status, out, _ = run(capsys, "info", "--json", "i.json")
    assert status == 0
    assert "resnet10_w2a2: 1 epochs done" in out
    facts = json.loads((folder / "i.json").read_text())["rows"]
    assert {fact["kind"] for fact in facts} == {"library", "device", "kernel", "run"}
    for fact in facts:  # the same as is printed
        assert any(fact["name"] in line and fact["value"] in line for line in out.splitlines())
    assert {"kind": "run", "name": "resnet10_w2a2", "value": "1 epochs done", "used": True} in facts
    status, _, err = run(capsys, "info", "--json", "i.json")
    assert status == 2 and "i.json: exists already" in err
    # One more epoch, and the metrics of both.
    status, out, _ = run(capsys, "train", "--resume", "--epochs", "2", "--json", "t.json")
    assert status == 0 and "2 epochs instead of 1" in out
    table = json.loads((folder / "t.json").read_text())["rows"]
    assert [row["epoch"] for row in table] == [1, 2]
    assert table[0]["run"] == "runs/resnet10_w2a2"
    assert table[0]["val_top1_48"] == pytest.approx(report["rows"][0]["top1"], rel=1e-4)
    status, _, err = run(capsys, "train", "--resume", "--json", "t.json")
    assert status == 2 and "t.json: exists already" in err
    status, _, _ = run(capsys, "train", "--resume", "--json", "t.json", "--exist-ok")
    assert status == 0  # all done already: the metrics there are


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["train", "--arch", "resnet5O"], "did you mean 'resnet50'"),
        (["train", "--wbits", "5"], "wbits: must be 1, 2, 3, 4, or 32 for float32, got 5"),
        (["train", "--resolutions", "96,16"], "smaller than the network's stride of 32"),
        (["train", "--resolutions", "large"], "must be sizes in pixels like 96,80,64"),
        (["train", "--data", "nowhere"], "nowhere"),
        (["train", "--data", "torchvision:CIFAR11"], "CIFAR10"),
        (["train", "--epochs", "0"], "--epochs: must be 1 to 100000, got 0"),
        (["train", "--lr", "nan"], "--lr: must be above 0 and at most 1000, got nan"),
        (["train", "--lr", "1e400"], "--lr: must be above 0 and at most 1000, got inf"),
        (["train", "--momentum", "inf"], "--momentum: must be 0 or more and below 1, got inf"),
        (["train", "--warmup", "-1"], "--warmup: must be 0 to 100000, got -1"),
        (["train", "--area", "nan,1"], "--area: must be above 0 and at most 1, got nan"),
        (["train", "--batch", "1000000000000"], "--batch: must be 2 to 65536"),
        (["train", "--resolutions", "96,99999"], "must be at most 4096, got '96,99999'"),
        (["bench", "--seconds", "nan"], "must be a number of seconds, got 'nan'"),
        (["bench", "--seconds", "inf"], "inf is not in the range"),
        (["bench", "--arch", "resnet18", "--width", "99999"], "width: must be 1 to 2048 channels"),
        (
            ["train", "--schedule", "linear"],
            "Invalid value for '--schedule': 'linear' is not one of 'step', 'cosine'",
        ),
        (["train", "--widths", "1,half"], "must be shares of the channels, 1.0,0.75,0.5, got"),
        (["train", "--widths", "0.5,1"], "widths: must descend from 1, the whole network, got 0.5"),
        (["train", "--arch", "timm:resnet18", "--widths", "1,0.5"], "a network of fixed channels"),
        (["train", "--resume", "runs/none"], "no run to resume"),
        (["train", "--resume"], "there is no run under runs/ to continue"),
        (["train", "--resume", "runs/x", "--lr", "1"], "cannot be combined with --lr"),
        (["train", "--config", "none.yaml"], "none.yaml: cannot be read"),
        (["train", "--warmup", "9"], "warmup: must be 0 to 8, the number of epochs, got 9"),
        (
            ["train", "--momentum", "0", "--nesterov"],
            "--nesterov: is a kind of momentum, and the --momentum is 0; leave out one of them",
        ),
        (["train", "--amp", "fp16", "--no-amp"], "--no-amp: is --amp none, and --amp is given"),
        (["train", "--exist-ok"], "--exist-ok: replaces the run of a --name, or --json; leave it"),
        (
            ["train", "--betas", "0.8,0.9"],
            "--betas: is of Adam and AdamW, and the --optimizer is sgd; leave it out, or give "
            "--optimizer adam",
        ),
        (["train", "--nonsense"], "No such option"),
        (["train", "--quantizer", "brevitas"], "did you mean 'brevitas-mse'?"),
        (
            ["train", "--layer-quantizer", "layer4.*=lsqq"],
            "'layer4.*': unknown name 'lsqq'; did you",
        ),
        (["train", "--layer-quantizer", "layer4.*"], "must be PATTERN=NAME, got 'layer4.*'"),
        (["train", "--layer-bits", "=4/4"], "must be PATTERN=W/A, got '=4/4'"),
        (["train", "--layer-bits", "layer4.*=5/5"], "needs bits of weights and of activations"),
        (["train", "--layer-bits", "layr4.*=4/4"], "matches no layer; the nearest are layer4, "),
        (["train", "--layer-bits", "*.conv9=4/4"], "matches no layer (rsquant info RUN"),
        (["train", "--layer-bits", "fc=4/4"], "matches only layers that stay in float32"),
        (
            ["train", "--layer-bits", "layer4.*=4/4", "--layer-bits", "layer4.*=3/3"],
            "--layer-bits: 'layer4.*' is given twice; keep one",
        ),
        (["train", "--resume", "runs/x", "--layer-bits", "a=4/4"], "combined with --layer-bits"),
        (["info", "none.safetensors"], "no such run folder or checkpoint file"),
        (["nonsense"], "unknown command 'nonsense'; known: train, "),
        (["trian"], "unknown command 'trian'; did you mean 'train'? known: "),
        (["eval"], "no trained network here; run 'rsquant train' first"),
        (["eval", "none.safetensors"], "no such run folder or checkpoint file"),
        (["eval", "--checkpoint", "worst"], "'--checkpoint': 'worst' is not one of 'best', 'last'"),
        (["export", "--resolution", "96"], "no trained network here"),
        (["pack"], "no trained network here"),
        (["pack", "none.safetensors"], "no such run folder or checkpoint file"),
        (["pack", "--threads", "0"], "0 is not in the range"),
        (["bench", "--batch", "1,2"], "batch: must be one number on the CPU, got (1, 2)"),
        (["bench", "--batch", "many"], "must be numbers like 1,2"),
        (["bench", "--device", "gpu"], "device: must be cpu, cuda, cuda:N or auto, got 'gpu'"),
        (["bench", "--device", "cuda", "--threads", "1"], "threads: is for the CPU"),
        (["bench", "--device", "cuda", "--batch", "0"], "batch: must be 1 or more, got (0,)"),
        (["bench", "--device", "cuda", "--engines", "int8"], "use 'rsquant bench kernels'"),
        (["bench", "--device", "cuda", "--engines", "torch"], "'torch' is not an engine here"),
        (["bench", "--engines", "gpu"], "'gpu' is not an engine here; known: torch"),
    ],
)
def test_wrong_input_gives_one_line_and_status_2(folder, capsys, arguments, message):
    status, out, err = run(capsys, *arguments)
    assert status == 2
    assert message in err.replace("\n", " ")
    assert "Traceback" not in out + err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert out == ""  # no recipe of what is not trained
    assert not (folder / "runs").exists()


@pytest.mark.usefixtures("undrawn_curves")
def test_pack_writes_and_measures_the_newest_run(folder, capsys):
    assert run(capsys, *SMALL)[0] == 0
    arguments = ["pack", "--images", "12", "--threads", "1", "--json", "p.json"]
    status, out, _ = run(capsys, *arguments)
    assert status == 0
    assert "measured on 12 validation images" in out
    assert "trained without a grid: snapped to the coarse grid" in out
    assert "written runs/resnet10_w2a2/resnet10_w2a2.rsq" in out
    rows = json.loads((folder / "p.json").read_text())["rows"]
    assert [row["resolution"] for row in rows] == [48, 32]
    for row in rows:
        assert row["file_bytes"] == (folder / row["path"]).stat().st_size
        assert {
            "top1",
            "grid_top1",
            "packed_top1",
            "weight_bytes",
            "trained_agreement",
            "grid_agreement",
        } <= set(row)
    status, _, err = run(capsys, "pack", "--grid", "none", "--out", "x.rsq")
    assert status == 2
    assert "'--grid': 'none' is not one of 'coarse', 'fine'" in err
    status, _, err = run(capsys, "pack")
    assert status == 2
    assert "resnet10_w2a2.rsq: exists already" in err
    status, _, err = run(capsys, "pack", "--out", "x.onnx")
    assert status == 2
    assert "x.onnx: rsquant export (export_onnx) writes ONNX files; name this file *.rsq" in err
    status, _, err = run(capsys, "export", "--all", "--out", "x.onnx")
    assert status == 2 and "x.onnx: looks like a file's name; --out must name a folder" in err
    assert not (folder / "x.onnx").exists()


@pytest.mark.usefixtures("undrawn_curves")
def test_what_cannot_be_packed_is_not_suggested_to(folder, capsys):
    assert "rsquant pack runs/a" in run(capsys, *SMALL, "--name", "a")[1]
    status, out, _ = run(capsys, *SMALL, "--name", "b", "--abits", "32")
    assert status == 0
    assert "rsquant pack" not in out and "rsquant export runs/b --all" in out


@pytest.mark.usefixtures("undrawn_curves")
def test_a_quantizer_that_cannot_be_packed_is_not_suggested_to(folder, capsys, monkeypatch):
    monkeypatch.setattr(quantizers.registry, "_KINDS", dict(quantizers.registry._KINDS))
    uniform = quantizers.kind("uniform")

    class Formless(type(uniform.weights(1, 2, None))):
        on_grid = quantizers.Quantizer.on_grid

    quantizers.register("formless", Formless, uniform.activations)
    status, out, _ = run(capsys, *SMALL, "--name", "c", "--quantizer", "formless")
    assert status == 0
    assert "rsquant pack" not in out and "rsquant export runs/c --all" in out


@pytest.mark.usefixtures("undrawn_curves")
def test_layers_get_their_own_bits_and_info_lists_them(folder, capsys):
    flags = ["--layer-bits", "layer4.*=4/4", "--layer-bits", "layer2.*=/3"]
    flags += ["--layer-quantizer", "layer3.*=uniform"]
    status, out, _ = run(capsys, *SMALL, *flags)
    assert status == 0 and "W2A2 (layer4.*=4/4, layer2.*=/3, layer3.*=uniform)" in out
    assert "rsquant pack runs/resnet10_w2a2_mixed" in out
    config = (folder / "runs/resnet10_w2a2_mixed/config.yaml").read_text()
    assert "layer4.*: 4/4" in config and "layer2.*: /3" in config
    status, out, _ = run(capsys, "info", "resnet10_w2a2_mixed", "--json", "i.json")
    rows = {row["name"]: row for row in json.loads((folder / "i.json").read_text())["rows"]}
    assert status == 0 and "layer4.0.shortcut.0" in out
    assert (rows["layer4.0.conv1"]["wbits"], rows["layer4.0.conv1"]["abits"]) == (4, 4)
    assert (rows["layer2.0.conv1"]["wbits"], rows["layer2.0.conv1"]["abits"]) == (2, 3)
    assert rows["layer3.0.conv2"]["quantizer"] == "uniform"
    # What a state was trained with is not what the configuration says now.
    (folder / "runs/resnet10_w2a2_mixed/config.yaml").write_text(config.replace("/3", "/4"))
    status, _, err = run(capsys, "train", "--resume", "--epochs", "2")
    assert status == 2 and "layer1.1.2 has bits 3, in the network given 4" in err
    assert "config.yaml has changed since; restore it" in err


def test_no_command_prints_the_help(folder, capsys):
    for arguments in ([], ["--debug"]):
        status, out, err = run(capsys, *arguments)
        assert status == 0 and err == ""
        assert out.startswith("Usage: rsquant") and "train" in out


def test_python_m_rsquant_is_the_command(folder):
    command = [sys.executable, "-P", "-m", "rsquant"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("rsquant, version ")
    done = subprocess.run([*command, "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "unknown command" in done.stderr


def test_debug_shows_the_traceback(folder, capsys):
    status, _, err = run(capsys, "eval", "none.safetensors", "--debug")
    assert status == 2
    assert "Traceback" in err


@pytest.mark.usefixtures("default_signals")
@pytest.mark.usefixtures("undrawn_curves")
def test_ctrl_c_saves_and_ends_with_130(folder, capsys, monkeypatch):
    from rsquant.train import loop

    original = loop.Trainer._step

    def step(self, *arguments):
        original(self, *arguments)
        import os
        import signal

        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop.Trainer, "_step", step)
    status, out, err = run(capsys, *SMALL)
    assert status == 130
    assert "rsquant train --resume runs/resnet10_w2a2" in out + err
    assert (folder / "runs/resnet10_w2a2/state.safetensors").is_file()
    monkeypatch.setattr(loop.Trainer, "_step", original)
    status, out, _ = run(capsys, "train", "--resume")
    assert status == 0
    assert "continuing in epoch 1 of 1, step 1" in out


@pytest.mark.usefixtures("undrawn_curves")
def test_a_run_is_not_overwritten(folder, capsys):
    assert run(capsys, *SMALL, "--name", "a")[0] == 0
    status, _, err = run(capsys, *SMALL, "--name", "a")
    assert status == 2
    assert "exists already; choose another --name" in err
    # What was exported from the network that is replaced must not stay beside the new one.
    exported = folder / "runs/a/export"
    exported.mkdir()
    names = ("resnet10_w2a2_int8_48.onnx", "resnet10_w2a2_int8.weights")
    for name in (*names, "mine.onnx"):
        (exported / name).write_bytes(b"old")
    Made(exported).note({name: exported / name for name in names})
    assert run(capsys, *SMALL, "--name", "a", "--exist-ok")[0] == 0
    assert [path.name for path in exported.iterdir()] == ["mine.onnx"]


@pytest.mark.usefixtures("undrawn_curves")
def test_a_checkpoint_of_other_classes_is_refused(folder, capsys):
    from PIL import Image

    assert run(capsys, *SMALL)[0] == 0
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (folder / "photos" / split / name).mkdir(parents=True)
            Image.new("RGB", (40, 40)).save(folder / "photos" / split / name / "a.png")
    status, _, err = run(capsys, "eval", "--data", "photos")
    assert status == 2
    assert "was trained on 12 classes (arrow, ...), photos has 2 (cat, ...)" in err


def test_info_tells_of_an_instruction_set_that_cannot_be_used(folder, capsys, monkeypatch):
    monkeypatch.setenv("RSQUANT_ISA", "foo")
    status, out, _ = run(capsys, "info")
    assert status == 0
    assert "kernels      not cpu: RSQUANT_ISA=foo" in out


def test_an_own_fault_is_named_as_such(folder, capsys, monkeypatch):
    from rsquant.report import info

    monkeypatch.setattr(info, "lines", lambda: 1 / 0)
    status, _, err = run(capsys, "info")
    assert status == 1
    assert "error: ZeroDivisionError: division by zero (a bug in rsquant" in err


def test_info_tells_of_the_gpu_back_end(folder, capsys, monkeypatch):
    from rsquant import kernels

    for why, line in (
        ("", "             gpu/triton: usable"),
        ("it is Tuesday", "             not gpu/triton: it is Tuesday"),
    ):
        monkeypatch.setattr(kernels, "gpu_why_not", lambda why=why: why)
        status, out, _ = run(capsys, "info")
        assert status == 0 and line in out.splitlines()


@pytest.mark.skipif(__import__("torch").cuda.is_available(), reason="there is a device")
@pytest.mark.parametrize("command", [["bench"], *(["bench", c] for c in BENCH)])
def test_a_benchmark_without_a_device_is_one_line(folder, capsys, command):
    status, out, err = run(capsys, *command, "--device", "cuda")
    assert status == 2 and out == ""
    assert err.startswith("error: device: cuda has no GPU kernels here: ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("eval", "no\n\x1b[31mforged\u202e"),
        ("eval", "x" * 100_000),
        ("train", "--\x1b[31mflag\u202e"),
        ("\x1b[2Jnone",),
        ("train", "--config", "a\nb.yaml"),
    ],
)
def test_what_an_argument_holds_is_shown_as_one_short_line(folder, capsys, arguments):
    status, _, shown = run(capsys, *arguments)
    assert status == 2
    shown = shown.removesuffix("\n")
    assert shown.isprintable()
    assert len(shown) < 2100


def test_info_shows_names_of_runs_as_one_line_each(folder, capsys):
    odd = folder / "runs" / "a\n\x1b[31mrun\u202e[red]"
    odd.mkdir(parents=True)
    (odd / "config.yaml").touch()
    assert r"a\n\x1b[31mrun\u202e[red]: 0 epochs done" in run(capsys, "info")[1]
