"""What a new run removes from the folder it takes, and which folders it does not take."""

import pytest

from rsquant.errors import ConfigError
from rsquant.made import Made
from rsquant.train.run_folder import WRITTEN, clear, new_folder


def files(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def test_what_was_made_from_the_old_network_goes_and_the_rest_stays(tmp_path):
    own = {"mine.png", "notes.txt", "report/notes.txt", "holiday/a.png", "mine.rsq"}
    own |= {"report/mine.png", "export/mine.onnx", "events.out.tfevents.1", "changed.rsq"}
    drawn = {"curves.png", "study.json", "events.out.tfevents.1.rsquant"}
    listed = {"": ("net.rsq", "changed.rsq"), "export": ("a.onnx", "a.weights")}
    listed |= {"report": ("report.html", "front.png", "layer_bits.yaml")}
    put(tmp_path, *own, *drawn, *WRITTEN)
    for folder, names in listed.items():
        put(tmp_path / folder, *names)
        Made(tmp_path / folder).note({name: tmp_path / folder / name for name in names})
    (tmp_path / "changed.rsq").write_text("since then")
    clear(tmp_path)
    assert files(tmp_path) == own


def test_a_folder_that_is_no_run_is_not_taken(tmp_path):
    put(tmp_path, "photos/a.png")
    with pytest.raises(ConfigError, match=r"is no run folder, it has a.png and no config.yaml"):
        new_folder("stem", "photos", True, tmp_path)
    assert files(tmp_path) == {"photos/a.png"}


@pytest.mark.parametrize("names", [(), (".lock",), ("config.yaml", "mine.png"), ("log.txt",)])
def test_a_run_and_what_a_killed_one_left_are_replaced(tmp_path, names):
    (tmp_path / "run").mkdir()
    put(tmp_path / "run", *names)
    assert new_folder("stem", "run", True, tmp_path) == tmp_path / "run"


def test_the_configuration_goes_last(tmp_path, monkeypatch):
    put(tmp_path, "curves.png", *WRITTEN)
    left = []
    monkeypatch.setattr("pathlib.Path.unlink", lambda path, **given: left.append(path.name))
    clear(tmp_path)
    assert set(left[left.index("config.yaml") :]) <= {"config.yaml", ".launch"}
