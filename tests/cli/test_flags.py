"""Messages of the library name parameters; the command line shows its flags in their place."""

import ast
import re
from pathlib import Path

import click
import pytest

from rsquant.cli import COMMANDS, group
from rsquant.cli.flags import as_flags

ROOT = Path(__file__).parents[2]
# Options of other programs, not ours.
OTHERS = (
    "--force-reinstall",
    "--max-restarts",
    "--shm-size",
    "--query-gpu",
    "--format=csv",
    "--debug",
)


def command(name):
    return group.get_command(click.Context(group), name)


@pytest.mark.parametrize(
    "name,message,shown",
    [
        (
            "eval",
            "x.json: there; `exist_ok=True` replaces it",
            "x.json: there; --exist-ok replaces it",
        ),
        ("train", "set `nesterov=False` or a `momentum`", "set --no-nesterov or a --momentum"),
        ("train", "`norm_momentum=0.1` lets", "--norm-momentum 0.1 lets"),
        ("train", "settings: train.lr: must be 1", "--lr: must be 1"),
        ("train", "settings: data.train_images: must", "--train-images: must"),
        ("train", "settings: unknown key 'x'", "settings: unknown key 'x'"),
        ("train", "r.yaml: train.lr: must be 1", "r.yaml: train.lr: must be 1"),
        ("train", "say it with `source=DIR`", "say it with --data DIR"),
        ("eval", "say it with `data='a b'`", "say it with --data 'a b'"),
        ("export", "`form='float'` exports it", "--form float exports it"),
        ("export", "another `resolution`", "another --resolution"),
        ("export", "all sizes (`resolutions=()`)", "all sizes (--all)"),
        ("export", "leave out `single_file=True`", "leave out --single-file"),
        ("pack", "fewer `workers`", "fewer workers"),  # pack has none
        ("eval", "go on with `resume('runs/a b')`", "go on with rsquant train --resume 'runs/a b'"),
        ("train", "go on with `resume('runs/a')`", "go on with rsquant train --resume runs/a"),
        ("train", "pass `np.zeros(3)` or ``", "pass `np.zeros(3)` or ``"),
        ("info", "`lr`, --lr and `", "lr, --lr and `"),
    ],
)
def test_parameters_become_the_flags_of_the_command(name, message, shown):
    assert as_flags(message, command(name)) == shown


def test_without_a_command_names_stay():
    assert as_flags("`exist_ok=True` replaces it", None) == "exist_ok=True replaces it"


def texts(tree):
    """The string constants of a module that are no docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, documented)]
    docs = {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


def test_no_message_outside_the_command_line_has_a_flag():
    files = [p for p in (ROOT / "rsquant").rglob("*.py") if p.parent.name != "cli"]
    found = []
    for path in (*files, *(ROOT / "kernels").rglob("*.py")):
        for line, text in texts(ast.parse(path.read_text())):
            flags = re.findall(r"(?<![\w-])--(?:[a-z][\w=-]*|$)", text)  # "--" and a name, in parts
            found += [(path.name, line, f) for f in flags if not f.startswith(OTHERS)]
    assert found == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_parameter_a_message_may_name_has_one_flag(name):
    options = [p for p in command(name).params if isinstance(p, click.Option)]
    for option in options:
        assert "--" in as_flags(f"`{option.name}`", command(name)), option.name
