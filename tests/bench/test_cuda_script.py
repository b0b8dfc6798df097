"""bench/gpu.sh with a stand-in for Python: its parts, their files, what it does with failures."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from rsquant.cli.bench import command

SCRIPT = Path(__file__).parents[2] / "bench" / "gpu.sh"
PARTS = (
    "networks50",
    "layers50",
    "train50",
    "networks18",
    "layers18",
    "train18",
    "sizes50",
    "sizes18",
)
# Names the device, notes what it is called with, writes the file; fails where FAIL is in the name.
STAND_IN = """#!/usr/bin/env bash
case "$2" in *get_device_name*) echo nvidia_h200; exit 0 ;; esac
printf '%s\\n' "$*" >> "$LOG"
while [ $# -gt 0 ]; do
  [ "$1" = --json ] && file=$2
  shift
done
case "$file" in *${FAIL:-nothing}*) exit 1 ;; esac
echo '{}' > "$file"
"""


@pytest.fixture
def gpu_script(tmp_path):
    if shutil.which("bash") is None or shutil.which("timeout") is None:
        pytest.skip("no bash here")
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    log = tmp_path / "log"

    def run(*parts, **more):
        log.write_text("")
        given = {**os.environ, "PYTHON": str(python), "LOG": str(log), "OUT": str(tmp_path / "o")}
        done = subprocess.run(
            ["bash", str(SCRIPT), *parts], env=given | more, capture_output=True, text=True
        )
        return done, [shlex.split(line) for line in log.read_text().splitlines()]

    return run


def test_each_part_asks_for_something_possible_and_writes_its_file(gpu_script, tmp_path):
    done, calls = gpu_script()
    assert done.returncode == 0, done.stderr
    files = sorted(path.name for path in (tmp_path / "o").iterdir())
    assert files == sorted(f"gpu_{part}_nvidia_h200.json" for part in PARTS)
    assert len(calls) == len(PARTS)
    kinds = {"networks": "networks", "sizes": "networks", "layers": "kernels", "train": "training"}
    for part, call in zip(PARTS, calls, strict=True):
        kind, *options = call[call.index("bench") + 1 :]
        assert kind == kinds[part.rstrip("0123456789")]
        # The command's own parser takes them: a wrong option or engine is an error here.
        given = command.commands[kind].make_context(kind, options).params
        assert given["device"] == "cuda" and given["arch"] in ("resnet18", "resnet50")
        assert (given.get("plot") is not None) == (kind == "kernels")
        assert given["exist_ok"] and given["json_file"].name == f"gpu_{part}_nvidia_h200.json"


def test_what_is_there_is_not_done_again_unless_forced(gpu_script):
    assert len(gpu_script("train18", "layers18")[1]) == 2
    done, calls = gpu_script("train18", "sizes18")
    assert len(calls) == 1 and "gpu_train18_nvidia_h200.json is there" in done.stdout
    assert len(gpu_script("train18", FORCE="1")[1]) == 1


def test_a_lost_part_does_not_stop_the_others(gpu_script):
    done, calls = gpu_script("train18", "layers18", "sizes18", FAIL="layers18")
    assert done.returncode == 1 and len(calls) == 3
    assert "error: not done: layers18" in done.stderr
    done, calls = gpu_script("train18", "layers18", "sizes18")
    assert done.returncode == 0 and len(calls) == 1


def test_an_unknown_part_is_named(gpu_script):
    done, calls = gpu_script("everything")
    assert done.returncode == 1 and not calls
    assert "error: no part 'everything'; there are: networks50" in done.stderr
