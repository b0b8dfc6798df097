"""The page on tasks runs as it is printed."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

from rsquant import tasks
from rsquant.tasks import Task
from rsquant.train.losses import mred

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What the page prints, and the names it leaves."""
    folder, printed, names = tmp_path_factory.mktemp("page"), io.StringIO(), {}
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(folder)
        patch.setattr(tasks.registry, "_TASKS", dict(tasks.registry._TASKS))
        for code in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S):
            exec(compile(code, PAGE.name, "exec"), names)
    return printed.getvalue(), names, {p.name for p in folder.iterdir()}


def test_a_third_partys_task_trains_evaluates_saves_loads_and_exports(ran):
    printed, names, files = ran
    assert printed == "['exact', 'labels', 'loss']\nmultilabel True\n"
    assert files == {"multilabel.safetensors", "multilabel.onnx"}
    assert names["model"].spec.task == "multilabel"


def test_its_losses_are_those_it_says(ran):
    task = ran[1]["TASK"]
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(2)]
    labels = torch.randint(0, 2, (5, 3), generator=generator).double()
    loss = mred(outputs, labels, torch.zeros(2, dtype=torch.float64), "from-largest", task)
    p, q = (1 / (1 + torch.exp(-z)) for z in outputs)
    entropy = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    entropy -= (labels * q.log() + (1 - labels) * (1 - q).log()).mean()
    kl = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    torch.testing.assert_close(loss.classification, entropy)
    torch.testing.assert_close(loss.distillation, 2 * kl)  # S / number of paths = 2


def test_the_table_names_what_a_task_has():
    table = re.findall(r"^\| [^|]* \| (.*) \|$", PAGE.read_text(), re.M)
    named = {name for row in table for name in re.findall(r"`(\w+)`", row)}
    assert "together" in named
    assert [name for name in named if not hasattr(Task, name)] == ["figures"]  # each task's own
    public = {name for name in dir(Task) if not name.startswith("_")}
    told = named | {"main", "agreement", "loss_name", "prediction_name"}
    assert public <= told
