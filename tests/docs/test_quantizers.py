"""The page on quantizers runs as it is printed."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

import rsquant
from rsquant import quantizers
from rsquant.errors import ConfigError

PAGE = Path(__file__).parents[2] / "docs" / "quantizers.md"


def test_a_third_partys_quantizer_trains_saves_loads_and_exports(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quantizers.registry, "_KINDS", dict(quantizers.registry._KINDS))
    printed, names = io.StringIO(), {}
    torch.manual_seed(0)
    with contextlib.redirect_stdout(printed):
        for code in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S):
            exec(compile(code, PAGE.name, "exec"), names)
    assert printed.getvalue() == "1.0\n"
    files = {"power.safetensors", "power.onnx", "power.rsq"}
    assert {p.name for p in tmp_path.iterdir()} == files
    quantizer = names["model"].body.layer1[0].conv1.weight_quantizer
    assert type(quantizer) is names["PackedPowerWeights"]
    assert quantizer.on_grid().integers()[0].tolist() == [-2, -1, 1, 2]


def test_the_table_has_every_name():
    rows = re.findall(r"^\| `([\w-]+)`", PAGE.read_text(), re.M)
    brevitas = ["brevitas-default", "brevitas-learned", "brevitas-mse"]
    assert rows == ["lq", "lq-thresholds", "uniform", "lsq", *brevitas]
    assert set(rows) <= set(quantizers.names())


def test_a_checkpoint_of_a_name_nobody_registered_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(quantizers.registry, "_KINDS", dict(quantizers.registry._KINDS))
    kind = quantizers.kind("uniform")
    quantizers.register("mine", kind.weights, kind.activations)
    model = rsquant.create("resnet18", 2, 2, (32, 16), 3, width=4, quantizer="mine")
    rsquant.save(model, tmp_path / "a.safetensors")
    monkeypatch.undo()
    with pytest.raises(rsquant.errors.CheckpointError, match="unknown name 'mine'"):
        rsquant.load(tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match="unknown name 'mine'"):
        quantizers.kind("mine")
