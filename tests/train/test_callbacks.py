"""What a name of a callback may mean, and one line for what it cannot."""

import pytest

from rsquant.errors import ConfigError
from rsquant.train.callbacks import Callback, named_callback

MODULE = """
from rsquant.train.callbacks import Callback
class Plain(Callback): pass
class Needs(Callback):
    def __init__(self, what): pass
class Fails(Callback):
    def __init__(self): raise OSError("no network")
made = Needs(1)
number = 3
def make(): return made
def other(): return 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "own_logger.py").write_text(MODULE)
    (tmp_path / "broken_logger.py").write_text("def (")
    (tmp_path / "raising_logger.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", ["Plain", "made", "make"])
def test_a_class_an_object_or_what_makes_one(name):
    assert isinstance(named_callback(f"own_logger:{name}"), Callback)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("os:sep", "os:sep is no subclass of rsquant.train.callbacks.Callback; name one"),
        ("argparse:Action", "argparse:Action is no subclass of"),
        ("own_logger:number", "is no subclass of"),
        ("own_logger:other", "is no subclass of"),
        ("own_logger:Needs", "cannot be made without arguments .TypeError.*give them defaults"),
        ("own_logger:Fails", "cannot be made without arguments .OSError: no network"),
        ("own_logger:Plaim", "own_logger has no Plaim; did you mean 'Plain'"),
        (".x:y", "must be MODULE:NAME, as my_logger:MyLogger, got '.x:y'"),
        ("x", "must be MODULE:NAME"),
        ("no_such_logger:y", "cannot be imported .*is its folder on PYTHONPATH"),
        ("broken_logger:y", "broken_logger cannot be imported .SyntaxError.*shows where"),
        ("raising_logger:y", "raising_logger cannot be imported .ZeroDivisionError"),
    ],
)
def test_anything_else_is_one_line(name, line):
    with pytest.raises(ConfigError, match=f"^callback: .*{line}") as error:
        named_callback(name)
    assert "\n" not in str(error.value)
