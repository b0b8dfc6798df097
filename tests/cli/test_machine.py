"""The command line where the machine lacks or refuses something."""

import pytest

from rsquant.cli import main


@pytest.mark.parametrize(
    "error,line",
    [
        (MemoryError(), "error: out of memory; use a smaller batch"),
        (
            PermissionError(13, "Permission denied", "there"),
            "error: there: Permission denied; change its permissions",
        ),
        (RuntimeError("can't start new thread"), "error: the system cannot start more threads"),
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
