"""rsquant predict, as it is typed."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import shallow  # noqa: F401
import torch
from click.testing import CliRunner
from PIL import Image
from shallow import RESNET10

import rsquant
from rsquant.cli import main
from rsquant.cli.predict import command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    torch.manual_seed(0)
    model = rsquant.create(RESNET10, 2, 2, (48, 32), 3, width=4)
    model.spec = replace(model.spec, classes=("ant", "bee", "cat"))
    rsquant.pack(model, folder / "net.rsq")
    rng = np.random.default_rng(0)
    for name in ("b.png", "a.jpg", "below/c.png"):
        (folder / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (60, 70, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / name)
    return folder


def run(*arguments, stdin=None):
    result = CliRunner().invoke(
        command, [str(a) for a in arguments], input=stdin, standalone_mode=False
    )
    if result.exception:
        raise result.exception
    return result


def test_a_folder_in_every_form(folder):
    pictures, model = folder / "pictures", folder / "net.rsq"
    lines = run(pictures, "--model", model, "--format", "jsonl", "--top", 2).stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["input"] for row in rows] == [
        str(pictures / name) for name in ("a.jpg", "b.png", "below/c.png")
    ]
    for row in rows:
        assert row["resolution"] == 48 and row["label"] == row["labels"][0]
        assert len(row["labels"]) == 2 and 0 < row["probability"] <= 1
    table = list(
        csv.DictReader(io.StringIO(run(pictures, "--model", model, "--format", "csv").stdout))
    )
    assert [row["label"] for row in table] == [row["label"] for row in rows]
    assert rows[0]["label"] in run(pictures, "--model", model).stdout.splitlines()[0]


def test_patterns_and_standard_input_are_pictures_too(folder):
    model, picture = folder / "net.rsq", folder / "pictures" / "b.png"
    named = run(folder / "pictures" / "*.png", "--model", model, "--format", "jsonl").stdout
    given = run("-", "--model", model, "--format", "jsonl", stdin=picture.read_bytes()).stdout
    assert json.loads(given)["probability"] == json.loads(named)["probability"]


def test_unreadable_pictures_are_named_and_the_rest_goes_on(folder, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"x")
    done = run(
        tmp_path / "bad.jpg",
        tmp_path / "none.png",
        folder / "pictures/a.jpg",
        "--model",
        folder / "net.rsq",
    )
    assert done.return_value == 3
    assert "bad.jpg: not an image" in done.stderr and "none.png: No such file" in done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_marked_pictures_are_saved_and_none_is_replaced(folder, tmp_path):
    arguments = (folder / "pictures", folder / "pictures/a.jpg", "--model", folder / "net.rsq")
    run(*arguments, "--save", tmp_path / "out")
    names = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.jpg")}
    assert names == {"a.jpg", "b.jpg", "below/c.jpg", "a_2.jpg"}
    marked = np.asarray(Image.open(tmp_path / "out/b.jpg"))
    original = np.asarray(Image.open(folder / "pictures/b.png"))
    assert marked.shape == original.shape and (marked != original).any()
    with pytest.raises(rsquant.errors.RsquantError, match="exists already"):
        run(*arguments, "--save", tmp_path / "out")
    run(*arguments, "--save", tmp_path / "out", "--exist-ok")
    (tmp_path / "out/below/c.jpg").write_bytes(b"mine")
    with pytest.raises(rsquant.errors.RsquantError, match=r"c\.jpg: is not as rsquant made it"):
        run(*arguments, "--save", tmp_path / "out", "--exist-ok")
    assert (tmp_path / "out/below/c.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "arguments,line",
    [
        (["nothing*.jpg"], "no file matches this pattern"),
        (["-", "-"], "is given twice"),
        (["camera:x"], "named by its number"),
        (["camera:99999999999999999999"], "there is no such camera"),
        (["a.jpg", "--resolution", "33"], "the network has 48, 32, got 33"),
        (["a.jpg", "--cascade"], "has none"),
        (["a.jpg", "--cascade", "--budget-ms", "3"], "give one of them"),
        (["a.jpg", "--budget-ms", "-1"], "must be above 0"),
    ],
)
def test_wrong_input_is_one_line(folder, capsys, arguments, line):
    if arguments[0].startswith("camera:"):
        pytest.importorskip("cv2")
    with pytest.raises(SystemExit) as stopped:
        main(["predict", *arguments, "--model", str(folder / "net.rsq")])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1


def test_a_video_is_pictures(folder, tmp_path):
    cv2 = pytest.importorskip("cv2", reason="OpenCV, the extra `video`, is not installed")
    path = str(tmp_path / "v.avi")
    out = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for level in (0, 120, 250):
        out.write(np.full((48, 64, 3), level, np.uint8))
    out.release()
    lines = run(path, "--model", folder / "net.rsq", "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line)["input"] for line in lines] == [f"{path}#{n}" for n in range(3)]


@pytest.mark.parametrize(
    "arguments,line",
    [
        (["a.jpg", "--strict"], "--strict: is of a --budget-ms"),
        (["a.jpg", "--overload", "drop"], "--overload: is of a camera with --budget-ms"),
        (["camera", "--overload", "drop"], "--overload: is of a camera with --budget-ms"),
        (["camera", "--json", "a.json"], "--format jsonl"),
    ],
)
def test_options_that_do_nothing_are_refused(capsys, arguments, line):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", *arguments])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and line in error and error.count("\n") == 1


def test_what_was_predicted_is_written_whatever_ends_it(folder, tmp_path, monkeypatch):
    from rsquant.serve import results

    def interrupted(*arguments):
        yield from list(results_before(*arguments))[:2]
        raise KeyboardInterrupt

    results_before = results.predictions
    monkeypatch.setattr(results, "predictions", interrupted)
    with pytest.raises(SystemExit) as stopped:
        given = ["--model", str(folder / "net.rsq"), "--json", str(tmp_path / "r.json")]
        main(["predict", str(folder / "pictures"), *given])
    assert stopped.value.code == 130
    assert len(json.loads((tmp_path / "r.json").read_text())["rows"]) == 2


def test_a_bad_video_is_named_and_the_rest_goes_on(folder, tmp_path):
    pytest.importorskip("cv2", reason="OpenCV, the extra `video`, is not installed")
    (tmp_path / "bad.mp4").write_bytes(b"x")
    pictures = [tmp_path / "bad.mp4", tmp_path / "none.avi", folder / "pictures/a.jpg"]
    done = run(*pictures, "--model", folder / "net.rsq")
    assert done.return_value == 3 and len(done.stdout.splitlines()) == 1
    assert f"{tmp_path / 'bad.mp4'}: OpenCV cannot read this video" in done.stderr
    assert f"{tmp_path / 'none.avi'}: there is no such file" in done.stderr


def test_no_marked_picture_replaces_an_input(folder, tmp_path):
    Image.new("RGB", (50, 40)).save(tmp_path / "a.jpg")
    before = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "link").symlink_to(tmp_path)
    for out in (tmp_path, tmp_path / "link"):
        with pytest.raises(rsquant.errors.RsquantError, match="is one of the pictures to predict"):
            run(tmp_path / "a.jpg", "--model", folder / "net.rsq", "--save", out, "--exist-ok")
    assert (tmp_path / "a.jpg").read_bytes() == before
