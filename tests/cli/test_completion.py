"""What the Tab key offers, as a shell asks for it: click's variables, in a process of its own."""

import os
import subprocess
import sys

import pytest

from rsquant import choices


def complete(words, cwd, shell="bash", environment=None):
    """What is offered for the last word of a line."""
    variables = {
        "_RSQUANT_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
        **(environment or {}),
    }
    done = subprocess.run(
        [sys.executable, "-P", "-X", "importtime", "-m", "rsquant"],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **variables},
        check=False,
    )
    assert "| torch\n" not in done.stderr and "| numpy\n" not in done.stderr
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "words,offered",
    [
        (["rsquant", "e"], ["eval", "export"]),
        (["rsquant", "train", "--arch", "resnet1"], ["resnet18", "resnet101", "resnet152"]),
        (["rsquant", "train", "--quantizer", ""], list(choices.QUANTIZERS)),
        (["rsquant", "train", "--grid", ""], ["none", "fine", "coarse"]),
        (["rsquant", "pack", "--grid", ""], ["coarse", "fine"]),
        (["rsquant", "train", "--block", "pre"], ["preact", "preact-bare"]),
        (["rsquant", "train", "--data", "s"], ["shapes"]),
        (["rsquant", "export", "--form", ""], list(choices.FORMS)),
        (["rsquant", "eval", "--checkpoint", ""], ["best", "last"]),
        (["rsquant", "bench", "--device", "c"], ["cpu", "cuda"]),
        (["rsquant", "train", "--basis"], ["--basis-updates"]),
        (["rsquant", "eval", "first"], ["first"]),
        (["rsquant", "train", "--resume", "fi"], ["first"]),
    ],
)
def test_the_shell_completes(tmp_path, words, offered):
    for name in ("first", "second"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").touch()
    assert complete(words, tmp_path) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_line_of_the_help_page_gives_the_shell_its_function(tmp_path, shell):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "rsquant"],
        capture_output=True,
        text=True,
        env={**os.environ, "_RSQUANT_COMPLETE": f"{shell}_source"},
        check=True,
    )
    assert "_rsquant_completion" in done.stdout and f"_RSQUANT_COMPLETE={shell}_com" in done.stdout


def test_bash_completes_after_that_line(tmp_path):
    """bash itself calls the function, with a command of that name on its path."""
    command = tmp_path / "rsquant"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m rsquant "$@"\n')
    command.chmod(0o755)
    script = """
eval "$(_RSQUANT_COMPLETE=bash_source rsquant)"
COMP_WORDS=(rsquant train --schedule "") COMP_CWORD=3
_rsquant_completion rsquant "" --schedule
echo "${COMPREPLY[@]}"
complete -p rsquant
"""
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
        check=True,
    )
    offered, registered = done.stdout.splitlines()
    assert offered == "step cosine"
    assert "_rsquant_completion" in registered
