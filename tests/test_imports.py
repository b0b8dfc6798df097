"""The direction of imports, read from the source: a package imports only what stands below it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "rsquant"

# From the bottom up. What stands on one line may not import each other.
TIERS = [
    {"beside", "text", "version", "choices"},
    {"errors", "processors"},
    {"packages"},
    {"system"},
    {"made", "yaml_file"},
    {"atomic", "config", "crop", "decoding", "device", "padding", "process_group", "settings"},
    {"machine", "overlay", "recipes", "runs", "staging"},
    {"kernels"},
    {"packed"},
    {"runtime"},
    {"quantizers", "data"},
    {"tasks"},
    {"nn"},
    {"models"},
    {"serve"},
    {"evaluate", "interop"},
    {"train", "export"},
    {"packing"},
    {"bench"},
    {"report", "studies"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, tier in enumerate(TIERS) for name in tier}


def imports(path):
    """(module, line) of every rsquant import in a file, lazy ones too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("rsquant"):
            if node.module == "rsquant":
                yield from ((f"rsquant.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module, node.lineno
        elif isinstance(node, ast.Import):
            names = (a.name for a in node.names)
            yield from ((n, node.lineno) for n in names if n.partition(".")[0] == "rsquant")


# Place in the package -> file; kernels/gpu is rsquant/kernels/gpu there.
FILES = {p.relative_to(ROOT): p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py"}
GPU = ROOT.parent / "kernels" / "gpu"
FILES |= {Path("kernels/gpu") / p.name: p for p in sorted(GPU.glob("*.py"))}


@pytest.mark.parametrize("place", FILES, ids=str)
def test_imports_go_one_way(place):
    own = place.with_suffix("").parts[0]
    assert own in RANK, f"{own} has no tier"
    for module, line in imports(FILES[place]):
        assert module != "rsquant", f"line {line}: {own} imports the package, which is above it"
        other = module.split(".")[1]
        if other == own:
            continue
        assert other in RANK, f"line {line}: {own} imports {module}"
        assert RANK[other] < RANK[own], f"line {line}: {own} imports {other}"


@pytest.mark.parametrize(
    "module",
    [
        "rsquant",
        "rsquant.cli",
        "rsquant.kernels",
        "rsquant.config",
        "rsquant.packing",
        "rsquant.runtime",
        "rsquant.packed.build",
        "rsquant.packed.ops.registry",
    ],
)
def test_what_must_start_fast_imports_no_torch(module):
    heavy = "('torch', 'torchvision', 'onnx', 'brevitas', 'safetensors', 'scipy')"
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
