"""The peak memory of a process of its own."""

import ast
from pathlib import Path

import pytest
import torch

import rsquant
from rsquant.bench.memory import peak_rss
from rsquant.packing.write import pack

ROOT = Path(__file__).parents[2]


@pytest.fixture
def packed(tmp_path):
    torch.manual_seed(0)
    network = rsquant.create("resnet18", 2, 2, (32,), 5, width=8)
    return pack(network, tmp_path / "x.rsq").path


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="VmHWM is Linux's")
@pytest.mark.parametrize("module", ["numpy", "json", "rsquant"])
def test_modules_of_the_current_folder_are_not_run(packed, tmp_path, monkeypatch, module):
    monkeypatch.setenv("RSQUANT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / f"{module}.py").write_text("open('was run', 'w'); raise SystemExit")
    monkeypatch.chdir(folder)
    peak = peak_rss(packed, 32, 1, 1, "low")
    assert [path.name for path in folder.iterdir()] == [f"{module}.py"]
    assert peak is not None and peak > 5e6


def started_with(call):
    """The first two of a list that starts with sys.executable, as source."""
    return [ast.unparse(element) for element in call.elts[:2]]


@pytest.mark.parametrize("folder", ["rsquant", "bench", "kernels"])
def test_every_python_that_is_started_leaves_the_current_folder_out(folder):
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.List) and "sys.executable" in started_with(node):
                assert started_with(node)[1] == "'-P'", f"{path}:{node.lineno}"
