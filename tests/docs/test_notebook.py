"""docs/examples/shapes.ipynb runs from top to bottom, in a few seconds with tiny settings."""

import contextlib
import io
import json
from pathlib import Path

import pytest
import shallow  # noqa: F401  (ResNets of few blocks)

PAGE = Path(__file__).parents[2] / "docs" / "examples" / "shapes.ipynb"
TINY = """
ARCH, WIDTH, SIZES = "resnet10", 4, (32, 24)
TRAIN_IMAGES, VAL_IMAGES, EPOCHS, BATCH, RATE = 48, 24, 1, 16, 0.05
"""


def execute(folder, monkeypatch, settings=None):
    """Run all code cells, perhaps with other settings; their names, and what was printed."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("RSQUANT_CACHE", str(folder / "cache"))
    cells = [cell for cell in json.loads(PAGE.read_text())["cells"] if cell["cell_type"] == "code"]
    names, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        for number, cell in enumerate(cells):
            source = "".join(cell["source"])
            if settings and "parameters" in cell["metadata"].get("tags", ()):
                source = settings
            exec(compile(source, f"cell {number}", "exec"), names)
    return names, printed.getvalue()


def test_all_cells_run_with_tiny_settings(tmp_path, monkeypatch):
    names, printed = execute(tmp_path, monkeypatch, TINY)
    assert set(names["accuracy"].sizes) == {32, 24}
    assert "epoch 1 of 1" in printed and "32 pixels: top-1" in printed
    assert names["session"].resolutions == (32, 24)
    assert "24 pixels" in printed and "the smallest, though over" in printed
    assert sum(names["cascade"](image).resolution in (32, 24) for image in names["pixels"]) == 24


def test_it_is_stored_without_output():
    for cell in json.loads(PAGE.read_text())["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.slow
def test_the_network_of_the_page_learns(tmp_path, monkeypatch):
    names, _ = execute(tmp_path, monkeypatch)
    # 12 classes in equal parts: chance is 8.3 %.
    assert all(one.top1 > 50 for one in names["accuracy"].sizes.values())
    chosen, largest = names["found"].chosen, names["found"].fixed[0]
    assert chosen.madds <= largest.madds
