"""Operations are found by the names of their files."""

import subprocess
import sys

import pytest

from rsquant.packed.ops.registry import by_torch_name, operation, operations


def test_every_operation_has_the_name_of_its_file():
    assert {"conv", "map", "concat", "function", "resize"} <= operations().keys()
    for name, kind in operations().items():
        assert kind.OP == name == kind.__module__.rpartition(".")[2]
        assert operation(name) is kind


@pytest.mark.parametrize("name", ["base", "registry", "epilogue", "", "..build", "os", "Conv"])
def test_other_names_are_none(name):
    assert operation(name) is None


def test_no_two_operations_are_made_of_the_same_call_of_torch():
    names = [name for kind in operations().values() for name in kind.TORCH]
    assert len(names) == len(set(names)) == len(by_torch_name())


def test_a_file_imports_the_operations_it_has_and_no_others():
    code = (
        "import sys; from rsquant.packed.ops.registry import operation; operation('concat'); "
        "print('rsquant.packed.ops.resize' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
