"""`rsquant export` as a user meets it: what it prints and writes, and its errors of one line."""

import json
import os
import shutil

import onnx
import onnxruntime
import pytest
import shallow  # noqa: F401  (ResNet-10)

from rsquant.cli import main
from rsquant.made import LIST

pytestmark = pytest.mark.usefixtures("one_start")

TRAIN = [
    "train",
    "--arch",
    "resnet10",
    "--width",
    "8",
    "--resolutions",
    "48,32",
    "--train-images",
    "48",
    "--val-images",
    "24",
    "--epochs",
    "1",
    "--batch",
    "16",
    "--workers",
    "0",
    "--device",
    "cpu",
]
COMPARED = ["--images", "4"]
FEW = [*COMPARED, "--calibrate", "4"]
EXPORT = "runs/resnet10_w2a2/export"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one trained run of resnet10 2/2 at 48 and 32."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with pytest.raises(SystemExit) as exit_:
            main(list(TRAIN))
    assert exit_.value.code == 0
    return folder


@pytest.fixture
def folder(trained, tmp_path, monkeypatch):
    """The current folder, with a copy of that run."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def export(folder, capsys):
    """export(arguments) -> exit status, and what was printed to stdout and to stderr."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main(["export", *arguments])
        captured = capsys.readouterr()
        return exit_.value.code, captured.out, captured.err

    return run


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != LIST)


def test_all_sizes_are_written_as_int8_over_one_file_of_weights(export, folder):
    status, out, err = export("--all", *FEW, "--json", "e.json")
    assert (status, err) == (0, "")
    assert "checkpoint runs/resnet10_w2a2/best.safetensors" in out
    assert "ranges of activations from 4 training images of shapes" in out
    assert "parity on 4 validation images of shapes" in out
    for column in (
        "resolution",
        "own size",
        "float32",
        "largest error",
        "layer by layer",
        "top-1 agreement",
        "top-1 %",
    ):
        assert column in out
    files = ["resnet10_w2a2_int8.weights", *(f"resnet10_w2a2_int8_{n}.onnx" for n in (32, 48))]
    assert names(folder / EXPORT) == files
    lines = out.splitlines()
    for name in files:
        size = (folder / EXPORT / name).stat().st_size
        assert f"written {EXPORT}/{name}  ({size / 1e6:.2f} MB)" in lines
    assert "written e.json" in lines
    assert any(line.startswith("form int8: ") and "parity passed" in line for line in lines)
    assert "needs onnxruntime 1.24.1 or later, with default options" in lines


def test_the_rows_in_json_are_those_of_the_files(export, folder):
    assert export("--all", *FEW, "--json", "e.json")[0] == 0
    rows = json.loads((folder / "e.json").read_text())["rows"]
    assert [row["resolution"] for row in rows] == [48, 32]
    for row in rows:
        assert row["file"] == f"{EXPORT}/resnet10_w2a2_int8_{row['resolution']}.onnx"
        assert row["weights"] == f"{EXPORT}/resnet10_w2a2_int8.weights"
        assert row["file_bytes"] == (folder / row["file"]).stat().st_size
        assert (row["arch"], row["wbits"], row["abits"]) == ("resnet10", 2, 2)
        assert (row["form"], row["images"], row["passed"]) == ("int8", 4, True)
        assert row["forced_error"] <= 1e-5 and row["wrong_codes"] == 0
        assert row["top1"] % 25 == row["file_top1"] % 25 == 0  # of four images


def test_a_single_file_is_written_for_all_sizes(export, folder):
    status, out, err = export("--single-file", *COMPARED)
    assert (status, err) == (0, "")
    assert names(folder / EXPORT) == ["resnet10_w2a2_codebook_all.onnx"]
    assert out.count("written ") == 1
    assert f"written {EXPORT}/resnet10_w2a2_codebook_all.onnx" in out
    assert "form codebook: " in out and "ranges of activations" not in out
    session = onnxruntime.InferenceSession(f"{EXPORT}/resnet10_w2a2_codebook_all.onnx")
    assert session.get_inputs()[0].shape[2:] == ["H", "W"]


def test_one_size_with_preprocessing_takes_pixels(export, folder):
    status, out, err = export("--resolution", "32", "--preprocess", "--form", "codebook", *COMPARED)
    assert (status, err) == (0, "")
    assert names(folder / EXPORT) == ["resnet10_w2a2_codebook_32.onnx"]
    assert "needs onnxruntime 1.24.1 or later" in out
    session = onnxruntime.InferenceSession(f"{EXPORT}/resnet10_w2a2_codebook_32.onnx")
    (given,) = session.get_inputs()
    assert (given.name, given.type) == ("pixels", "tensor(uint8)")


def test_a_compat_file_needs_an_older_onnxruntime(export, folder):
    status, out, err = export("--resolution", "32", "--compat", *FEW, "--out", "old")
    assert (status, err) == (0, "")
    assert "needs onnxruntime 1.20.1 or later, with default options" in out
    proto = onnx.load(folder / "old/resnet10_w2a2_int8_32.onnx")
    assert proto.opset_import[0].version == 21
    assert not (folder / EXPORT).exists()


def test_interpolate_exports_a_size_that_was_not_trained(export, folder):
    status, out, err = export("--resolution", "40", "--interpolate", "--form", "float", *COMPARED)
    assert (status, err) == (0, "")
    assert f"written {EXPORT}/resnet10_w2a2_float_40.onnx" in out
    assert "needs onnxruntime 1.17 or later" in out


@pytest.mark.parametrize(
    "arguments,message",
    [
        (
            [],
            "name the sizes with --resolutions 96,80, or give --all or --single-file (one of "
            "these)",
        ),
        (["--all", "--resolution", "48"], "(one of these)"),
        (["--all", "--single-file"], "(one of these)"),
        (["--resolution", "40"], "40 was not trained (trained: 48, 32); --interpolate exports it"),
        (["--resolution", "8", "--interpolate"], "smaller than the network's stride of 16"),
        (
            ["--all", "--form", "int4"],
            "'--form': 'int4' is not one of 'auto', 'codebook', 'int8', 'float'",
        ),
        (["--single-file", "--form", "int8"], "form int8: has different ranges at every size"),
        (["--all", "--out", "file"], "file: is a file; --out must name a folder"),
        (
            ["--resolution", "32", *FEW, "--out", "file/out"],
            "file/out: file is a file, where a folder is needed; choose another",
        ),
        (["--all", "--json", "file"], "file: exists already; --exist-ok replaces it"),
        (["--all", "--data", "nowhere"], "'nowhere' is not a folder"),
    ],
)
def test_wrong_input_gives_one_line_and_writes_nothing(export, folder, arguments, message):
    (folder / "file").write_text("mine")
    status, out, err = export(*arguments)
    assert status == 2
    assert err.startswith("error: ") and message in err
    assert len(err.splitlines()) == 1
    assert "Traceback" not in out + err and "written" not in out
    assert names(folder) == ["file", "runs"] and (folder / "file").read_text() == "mine"
    assert not (folder / EXPORT).exists()


def test_an_existing_file_is_kept_unless_told(export, folder):
    path = folder / EXPORT / "resnet10_w2a2_int8_32.onnx"
    path.parent.mkdir()
    path.write_text("mine")
    status, out, err = export("--resolution", "32", *FEW)
    assert status == 2 and "written" not in out
    assert err == f"error: {EXPORT}/{path.name}: exists already; --exist-ok replaces it\n"
    assert path.read_text() == "mine"
    assert export("--resolution", "32", *FEW, "--exist-ok")[0] == 0
    assert path.stat().st_size > 1000


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_cannot_be_written_is_one_line(export, folder):
    (folder / "locked").mkdir(mode=0o555)
    status, _, err = export("--resolution", "32", *FEW, "--out", "locked")
    assert status == 2
    assert err == "error: locked: cannot be written (Permission denied)\n"
