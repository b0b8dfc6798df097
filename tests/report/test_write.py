"""The files of a report: what they replace."""

import pytest

from rsquant.errors import RsquantError
from rsquant.report.section import Picture, Section
from rsquant.report.write import PAGE, check_folder, write_report


def write(folder):
    section = Section("front", "Front", (), {}, (Picture("front", b"\x89PNG", "all"),))
    return write_report(folder, "Title", (), (section,), {"layer_bits.yaml": "x"})


def test_a_report_replaces_an_earlier_report_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert [path.name for path in write(tmp_path)] == [PAGE, "layer_bits.yaml", "front.png"]
    with pytest.raises(RsquantError, match="exists already"):
        check_folder(tmp_path, exist_ok=False)
    check_folder(tmp_path, exist_ok=True)
    write(tmp_path)
    (tmp_path / "front.png").write_bytes(b"mine")
    page = (tmp_path / PAGE).read_bytes()
    with pytest.raises(RsquantError, match=r"front\.png: is not as rsquant made it"):
        write(tmp_path)
    assert (tmp_path / "front.png").read_bytes() == b"mine"
    assert (tmp_path / PAGE).read_bytes() == page
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_page_of_others_is_not_replaced(tmp_path):
    (tmp_path / PAGE).write_text("mine")
    with pytest.raises(RsquantError, match=r"report\.html: is not as rsquant made it"):
        check_folder(tmp_path, exist_ok=True)


def test_a_file_is_no_folder_for_a_report(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RsquantError, match="file: is a file, where a folder is needed"):
        check_folder(tmp_path / "file", exist_ok=True)
