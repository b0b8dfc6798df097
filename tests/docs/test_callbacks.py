"""The example of docs/callbacks.md, with a stand-in for the package it logs to."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

from small_runs import Silent

from rsquant.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from rsquant.train import training
from rsquant.train.callbacks import named_callback

PAGE = Path(__file__).parents[2] / "docs" / "callbacks.md"
CONFIG = RunConfig(
    ModelConfig("resnet18", 32, 32, (32, 24), width=8),
    DataConfig("shapes", workers=0, train_images=16, val_images=8),
    TrainConfig(epochs=1, batch=8, lr=0.01, device="cpu"),
)


def test_the_example_logs_steps_and_epochs(tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    (tmp_path / "wandb_logger.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    told = []
    run = SimpleNamespace(log=told.append, finish=lambda **end: told.append(end))

    def init(**given):
        told.append(given)
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    monkeypatch.delitem(sys.modules, "wandb_logger", raising=False)
    logger = named_callback("wandb_logger:WandbLogger")
    training.start(CONFIG, Silent(), lambda line: None, "mine", root=tmp_path, callbacks=[logger])
    started, *logged, ended = told
    assert (started["name"], started["id"], ended) == ("mine", "mine", {"exit_code": 0})
    assert started["config"]["model"]["arch"] == "resnet18"
    steps = [one for one in logged if "step/loss" in one]
    assert len(steps) == 2 and logged[-1]["epoch"] == 1 and len(logged) == 3
    monkeypatch.delitem(sys.modules, "wandb_logger")
