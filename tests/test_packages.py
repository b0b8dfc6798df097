"""Installations without some packages: what runs, and the line where something is missing."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rsquant import packages
from rsquant.errors import MissingPackage, RsquantError
from rsquant.version import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What is under each of these may import what the extra brings; numpy anything may, and the rest
# of the package nothing else.
ROOMS = {
    "cli": "cli",
    "config.py": "train",
    "yaml_file.py": "train",
    "device.py": "train",
    "process_group.py": "train",
    "machine.py": "train",  # torch, if it is there
    "report": "train",
    "quantizers": "train",
    "nn": "train",
    "models/published.py": "timm",
    "models": "train",
    "decoding.py": "predict",
    "overlay.py": "predict",
    "serve/video.py": "video",
    "serve/onnx_file.py": "export",
    "serve/checkpoint.py": "train",
    "serve": "predict",
    "data/shard": "shards",
    "data/nyu.py": "nyu",
    "data": "train",
    "tasks": "train",
    "evaluate": "train",
    "interop": "train",
    "train": "train",
    "studies": "train",
    "packing": "train",
    "export": "export",
    "bench": "bench",
    "runtime/gpu": "gpu",
    "kernels/gpu": "gpu",
}

# What runs after this finds no package but numpy; with names in argv[1], all but those.
HIDDEN = """
import runpy, sys
named = sys.argv[1].split(",") if sys.argv[1] else None
allowed = {*sys.stdlib_module_names, "numpy", "rsquant", "_editable_skbc_rsquant"}
finders = list(sys.meta_path)
class Finder:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in named if named else top not in allowed:
            return None
        found = (finder.find_spec(name, path, target) for finder in finders)
        return next((spec for spec in found if spec is not None), None)
sys.meta_path[:] = [Finder()]
sys.argv = sys.argv[2:]
"""


def hidden(names, code, *arguments, cwd=None):
    command = [sys.executable, "-P", "-c", HIDDEN + code, names, "rsquant", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def requirements(extra):
    """(packages, extras of rsquant) that pyproject.toml lists for an extra."""
    names, extras = set(), set()
    for line in PROJECT["optional-dependencies"][extra]:
        if line.startswith("rsquant["):
            extras |= set(line.removeprefix("rsquant[").rstrip("]").split(","))
        else:
            names.add(line.partition(";")[0].partition(">")[0].strip().lower())
    return names, extras


def third_party(path):
    """The top-level modules a file imports that are neither Python's, numpy nor rsquant."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and top not in ("numpy", "rsquant"):
                yield top


def sources():
    """(place in the package, file) of every Python file of the package."""
    for folder, place in ((ROOT / "rsquant", ""), (ROOT / "kernels/gpu", "kernels/gpu/")):
        for path in sorted(folder.rglob("*.py")):
            yield f"{place}{path.relative_to(folder)}", path


def test_the_extras_are_those_of_pyproject():
    assert PROJECT["dependencies"] == ["numpy>=2.0"]
    known = set(packages.EXTRAS) | set(packages.CONTAINS)
    assert set(PROJECT["optional-dependencies"]) == known | {"dev"}
    for extra in known:
        names, extras = requirements(extra)
        assert names == {packages.distribution(m) for m in packages.EXTRAS.get(extra, ())}, extra
        assert extras == set(packages.CONTAINS.get(extra, ())), extra


def test_what_files_import_is_in_their_extras():
    for place, path in sources():
        extra = next((e for room, e in ROOMS.items() if place.startswith(room)), None)
        allowed = set(packages.modules(extra)) if extra else set()
        if extra == "bench":
            allowed |= set(packages.modules("gpu"))
        assert set(third_party(path)) <= allowed, place


def test_every_command_has_an_extra():
    from rsquant.cli import COMMANDS

    assert set(COMMANDS) == set(packages.COMMANDS)
    known = set(packages.EXTRAS) | set(packages.CONTAINS)
    assert set(packages.COMMANDS.values()) | set(packages.NAMES.values()) <= known


def test_numpy_alone_runs_a_packed_file(tmp_path):
    """The script that `make wheel` runs in an environment that really is empty."""
    script = ROOT / "tests/wheel/installed.py"
    code = f"sys.argv.append('--no-command'); runpy.run_path({str(script)!r}, run_name='__main__')"
    done = hidden("", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"rsquant {__version__} runs with numpy ")


def test_rooms_that_need_torch_say_so_when_they_are_imported():
    rooms = ["quantizers", "nn", "models", "data", "evaluate", "train", "packing"]
    rooms += ["export", "bench", "runtime.gpu"]
    code = f"""
import importlib
for room in {rooms}:
    try:
        importlib.import_module("rsquant." + room)
    except ImportError as error:
        print(error)
"""
    lines = hidden("", code).stdout.splitlines()
    assert len(lines) == len(rooms)
    for room, line in zip(rooms, lines, strict=True):
        assert line.startswith(f"rsquant.{room} needs torch")
        assert "pip install 'rsquant[" in line
    extras = [line.rpartition("[")[2].rstrip("]'") for line in lines]
    assert extras == ["train"] * 7 + ["export", "bench", "gpu"]


@pytest.mark.parametrize(
    "absent,code,line",
    [
        (
            "onnx,onnxruntime",
            "import rsquant; rsquant.export_onnx",
            "rsquant.export_onnx needs onnx and onnxruntime, which are not installed; "
            "pip install 'rsquant[export]'",
        ),
        (
            "onnxruntime",
            "from rsquant import export_onnx",
            "rsquant.export_onnx needs onnxruntime, which is not installed; "
            "pip install 'rsquant[export]'",
        ),
        (
            "safetensors",
            "import rsquant; rsquant.save",
            "rsquant.save needs safetensors, which is not installed; pip install 'rsquant[train]'",
        ),
        (
            "PIL",
            "import rsquant.data.sources",
            "rsquant.data needs pillow, which is not installed; pip install 'rsquant[train]'",
        ),
        (
            "webdataset",
            "from rsquant import data; data.open_source('s/{train,val}-{0..3}.tar')",
            "a data set of shards needs webdataset, which is not installed; "
            "pip install 'rsquant[shards]'",
        ),
        (
            "yaml",
            "from rsquant import config; config.load_yaml('x.yaml')",
            "rsquant.config needs pyyaml, which is not installed; pip install 'rsquant[train]'",
        ),
        (
            "torch",
            "from rsquant import runtime; runtime.load('x.rsq', device='cuda')",
            "device: cuda has no GPU kernels here: PyTorch is not installed; "
            "pip install 'rsquant[gpu]'",
        ),
    ],
)
def test_a_missing_package_is_named_with_the_line_to_type(absent, code, line):
    done = hidden(absent, code)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].partition(": ")[2] == line


@pytest.mark.parametrize(
    "absent,arguments,line",
    [
        ("click", ["--version"], "rsquant needs click, which is not installed; 'rsquant[train]'"),
        ("click", ["train"], "rsquant train needs click, which is not installed; 'rsquant[train]'"),
        ("click", ["info"], "rsquant info needs click, which is not installed; 'rsquant[cli]'"),
        ("torch", ["train"], "rsquant train needs torch, which is not installed; 'rsquant[train]'"),
        (
            "matplotlib,tensorboard,PIL",  # before hours of training, not after
            ["train"],
            "rsquant train needs tensorboard, matplotlib and pillow, which are not installed; "
            "'rsquant[train]'",
        ),
        ("rich", ["bench"], "rsquant bench needs rich, which is not installed; 'rsquant[bench]'"),
        ("torch", ["bench"], "rsquant bench needs torch, which is not installed; 'rsquant[bench]'"),
        (
            "onnx",
            ["export", "--all"],
            "rsquant export needs onnx, which is not installed; 'rsquant[export]'",
        ),
        ("torch", ["pack"], "rsquant pack needs torch, which is not installed; 'rsquant[train]'"),
        ("torch", ["eval"], "rsquant eval needs torch, which is not installed; 'rsquant[train]'"),
        ("yaml", ["train"], "rsquant train needs pyyaml, which is not installed; 'rsquant[train]'"),
    ],
)
def test_a_command_names_what_it_lacks(tmp_path, absent, arguments, line):
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    for name in ("config.yaml", "best.safetensors"):
        (run / name).touch()
    code = "from rsquant.__main__ import main; main()"
    done = hidden(absent, code, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"error: {line}\n".replace("; '", "; pip install '")


def test_info_runs_without_torch(tmp_path):
    code = "from rsquant.__main__ import main; main()"
    absent = ",".join(m for m in packages.modules("all") if m not in ("click", "rich"))
    done = hidden(absent, code, "info", "--json", "i.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not gpu/triton: PyTorch is not installed" in done.stdout
    assert (tmp_path / "i.json").is_file()


def test_help_runs_without_torch(tmp_path):
    absent = ",".join(m for m in packages.modules("all") if m not in ("click", "rich"))
    for command in packages.COMMANDS:
        done = hidden(absent, "from rsquant.__main__ import main; main()", command, "--help")
        assert done.returncode == 0 and "Usage" in done.stdout


def test_the_error_is_of_both_kinds():
    error = packages.missing("x", ("PIL", "onnx"), "export")
    assert isinstance(error, MissingPackage | RsquantError) and isinstance(error, ImportError)
    assert error.modules == ("PIL", "onnx")
    packages.require("x", "train", "torch")
    with pytest.raises(MissingPackage, match=r"x needs nothing_of_this_name, which is not inst"):
        packages.require("x", "train", "torch", "nothing_of_this_name")


def test_the_version_is_written_once():
    assert PROJECT["dynamic"] == ["version"] and "version" not in PROJECT
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    for _, path in sources():
        if path.name != "version.py":
            assert f'"{__version__}"' not in path.read_text(), path
