"""Names and values that others chose are shown as one printable line of limited length."""

import io
import pickle

import pytest
from rich.progress import Progress, TextColumn
from rich.table import Table

from rsquant.cli import console as consoles
from rsquant.cli.progress import ImageProgress
from rsquant.data.loader import UnreadableLog
from rsquant.errors import CheckpointError, RsquantError
from rsquant.text import LONGEST, cut, did_you_mean, one_line
from rsquant.train.recorder import LOG, Recorder

FORGED = "a.jpg\n2026-01-01 00:00:00  epoch 1: top-1 99.9 %\x1b[2K\x1b[31m"


@pytest.mark.parametrize(
    "text,shown",
    [
        ("photo ü 写真 📷.jpg", "photo ü 写真 📷.jpg"),
        ("full\u3000width and no\u00a0break", "full\u3000width and no\u00a0break"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred\x07\x9b2J", r"\x1b[31mred\x07\x9b2J"),
        ("gpj.\u202egnp\u2066", r"gpj.\u202egnp\u2066"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("line\u2028and\u2029\x85", r"line\u2028and\u2029\x85"),
        ("latin\udce9.jpg", r"latin\xe9.jpg"),  # a byte of a name that is no UTF-8
        ("lone \ud800", r"lone \ud800"),
        ("nul\0", r"nul\x00"),
    ],
)
def test_what_does_not_print_as_itself_is_escaped(text, shown):
    assert one_line(text) == shown
    assert one_line(one_line(text)) == shown
    shown.encode()


@pytest.mark.parametrize("length", [LONGEST - 1, LONGEST, LONGEST + 1, 10**6])
@pytest.mark.parametrize("character", ["x", "\x1b", "\U000e0041"])
def test_long_text_keeps_its_ends_and_says_how_long_it_was(length, character):
    shown = one_line("begin" + character * (length - 8) + "end")
    assert len(shown) <= LONGEST
    assert shown.isprintable()
    assert shown.startswith("begin")
    assert shown.endswith("end")
    assert ("characters" in shown) == (length > LONGEST or character != "x")


def test_a_limit_is_kept_to_the_character():
    for longest in range(60, 70):
        assert len(cut("y" * 1000, longest)) == longest


def test_errors_are_one_line_whatever_is_in_them():
    error = CheckpointError(f"{FORGED}: has {'z' * 10**6}; train again")
    assert str(error).isprintable()
    assert len(str(error)) <= LONGEST
    assert str(error).endswith("train again")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # from a worker process
    assert str(RsquantError(OSError("x\ny"))) == r"x\ny"


def test_a_file_name_forges_no_line_of_the_log(tmp_path):
    shown = []
    recorder = Recorder(tmp_path, echo=shown.append)
    UnreadableLog().add([(FORGED, "broken\x1b[0m"), ("b" * 10**5, "r" * 10**5)], recorder.log)
    recorder.log(f"data {FORGED}")
    recorder.close()
    lines = (tmp_path / LOG).read_text().splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() and len(line) < LONGEST + 30 for line in lines + shown)


@pytest.mark.parametrize(
    "name,hint",
    [
        ("trian", "did you mean '--train'? "),
        ("nonsense", ""),
        (7, ""),
        ("", ""),
        ("x" * 1_000_000, ""),
    ],
)
def test_the_nearest_of_known_names(name, hint):
    assert did_you_mean(name, ("train", "eval"), "--") == hint


def test_markup_escape_codes_and_emoji_in_names_are_their_letters(monkeypatch):
    name = "[red]a[/red] [/b] :smile: \x1b[31m\n"
    stream = io.StringIO()
    console = consoles.console()
    console.file = stream
    ImageProgress(console).echo(name)
    table = Table("name", title=name.strip())
    table.add_row("[red]a[/red] [/b] :smile:")
    console.print(table)
    bars = Progress(TextColumn("{task.description}", markup=False), console=console)
    bars.add_task("[/b] [red]x", total=1)
    console.print(bars.make_tasks_table(bars.tasks))
    shown = stream.getvalue()
    assert shown.splitlines()[0] == r"[red]a[/red] [/b] :smile: \x1b[31m\n"
    assert shown.count("[red]a[/red] [/b] :smile:") == 3
    assert "[/b] [red]x" in shown
