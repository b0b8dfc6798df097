"""The command line where the machine lacks or refuses something."""

import subprocess
import sys

import pytest

from rsquant.cli import main

# A package of this name is not there, whatever is installed.
WITHOUT = (
    "import sys\n"
    "class Absent:\n"
    "    def find_spec(self, name, *_):\n"
    "        if name.partition('.')[0] == sys.argv[1]:\n"
    "            raise ModuleNotFoundError(f\"No module named '{name}'\", name=name)\n"
    "sys.meta_path.insert(0, Absent())\n"
    "from rsquant.__main__ import main; main(sys.argv[2:])"
)


@pytest.mark.parametrize(
    "package,arguments,named",
    [
        ("click", ["--version"], "click"),
        ("click", ["train"], "click"),
        ("torch", ["train"], "torch"),
        ("rich", ["bench"], "rich"),
        ("yaml", ["train"], "pyyaml"),
    ],
)
def test_a_missing_package_is_a_line_that_says_what_to_install(tmp_path, package, arguments, named):
    command = [sys.executable, "-P", "-c", WITHOUT, package, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: this needs {named}, which is not installed; pip install {named}\n"
    )


@pytest.mark.parametrize(
    "error,line",
    [
        (MemoryError(), "error: out of memory; use a smaller --batch"),
        (
            PermissionError(13, "Permission denied", "there"),
            "error: there: Permission denied; give",
        ),
        (RuntimeError("can't start new thread"), "error: the system starts no more threads"),
    ],
)
def test_what_the_machine_does_is_no_fault_of_rsquant(capsys, monkeypatch, error, line):
    from rsquant.report import info

    def fail():
        raise error

    monkeypatch.setattr(info, "lines", fail)
    with pytest.raises(SystemExit, match="2"):
        main(["info"])
    err = capsys.readouterr().err
    assert err.startswith(line) and len(err.splitlines()) == 1 and "fault" not in err
