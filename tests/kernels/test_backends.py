"""Which instruction set is used, and what is said about the others."""

import subprocess
import sys

import pytest

from rsquant import kernels
from rsquant.errors import ConfigError
from rsquant.kernels import backends


def test_the_compiled_kernels_are_there() -> None:
    assert kernels.has_native(), kernels.available()


def test_an_unusable_instruction_set_says_why() -> None:
    for isa in kernels.available():
        assert isa.usable == (isa.why_not == "")


@pytest.mark.parametrize("name", backends.ISAS)
def test_this_machine_runs_the_kernel_tests_on(name: str) -> None:
    """One line per instruction set in the summary: skipped here means untested on this run."""
    isa = next(isa for isa in kernels.available() if isa.name == name)
    if not isa.usable:
        pytest.skip(f"{name} is untested here: {isa.why_not}")


def test_the_best_usable_one_is_the_automatic_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RSQUANT_ISA", raising=False)
    usable = [isa.name for isa in kernels.available() if isa.usable]
    with kernels.force(None):
        assert kernels.active() == usable[0]


def test_the_environment_chooses_and_force_wins_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    best = kernels.active()
    monkeypatch.setenv("RSQUANT_ISA", "scalar")
    assert kernels.active() == "scalar"
    with kernels.force(best):
        assert kernels.active() == best
    assert kernels.active() == "scalar"


def test_force_is_undone_when_the_block_raises() -> None:
    before = kernels.active()
    with pytest.raises(RuntimeError, match="inside"), kernels.force("scalar"):
        raise RuntimeError("inside")
    assert kernels.active() == before


def test_an_unknown_name_lists_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    known = "avx512vnni, avx512, avx2, neondot, neon, scalar"
    with pytest.raises(ConfigError, match=rf"force\('sse9'\): must be one of {known}"):
        kernels.force("sse9")
    monkeypatch.setenv("RSQUANT_ISA", "sse9")
    with pytest.raises(ConfigError, match="RSQUANT_ISA=sse9: must be one of"):
        kernels.active()


def test_an_unusable_name_is_an_error_and_not_a_slower_kernel() -> None:
    # At least one is unusable everywhere: no machine has both AVX2 and NEON.
    name = next(isa.name for isa in kernels.available() if not isa.usable)
    with pytest.raises(ConfigError, match=r"usable here: .*scalar"):
        kernels.force(name)


def test_without_the_extension_nothing_is_usable_and_the_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backends, "_native", None)
    monkeypatch.setattr(backends, "_import_error", "No module named '_cpu'")
    monkeypatch.delenv("RSQUANT_ISA", raising=False)
    assert not kernels.has_native()
    assert not any(isa.usable for isa in kernels.available())
    with pytest.raises(ConfigError, match=r"No module named '_cpu'.*has_native\(\)"):
        kernels.active()


def test_importing_the_kernels_imports_no_torch() -> None:
    code = "import sys, rsquant.kernels; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
