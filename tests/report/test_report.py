"""`rsquant report`: its figures against independent computations, and its files."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import shallow  # noqa: F401  (ResNet-10)
import torch
from PIL import Image
from small_runs import CONFIG, train

import rsquant
from rsquant import runtime
from rsquant.cli import main
from rsquant.errors import RsquantError
from rsquant.report import latency, opened, pareto
from rsquant.report.answers import Answers
from rsquant.report.evenly import positions
from rsquant.report.page import page
from rsquant.report.picture import drawn, png, style
from rsquant.report.section import Picture, Section, Table
from rsquant.report.sections import confused, dense, front, history, norms, overlap, pooled, worst
from rsquant.report.write import write_figures, write_report

pytestmark = pytest.mark.usefixtures("one_start")


def answers(images=50, classes=4, sizes=(48, 32), seed=0):
    rng = np.random.default_rng(seed)
    logits = {s: rng.normal(size=(images, classes)).astype(np.float32) for s in sizes}
    labels = rng.integers(0, classes, images)
    return Answers(logits, labels, np.arange(images) * 2)


def test_each_width_and_pair_of_bits_is_as_a_run(tmp_path):
    given = {"resolutions": (32,), "num_classes": 3, "width": 8, "widths": (1.0, 0.5)}
    network = rsquant.create("resnet10", bits=("4/4", "2/2"), **given).eval()
    rsquant.save(network, tmp_path / "net.safetensors")
    found = opened.open_runs([str(tmp_path / "net.safetensors")])
    names = [f"net.safetensors {one}" for one in ("4/4", "2/2", "x0.5 4/4", "x0.5 2/2")]
    assert [one.name for one in found] == names
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for one, variant in zip(found, network.variants, strict=True):
        expected = network(images, variant.bits, variant.width)
        torch.testing.assert_close(one.network(images), expected)


def test_who_is_right_where_counts_images():
    found = answers()
    share = overlap.wrong_and_right([found.right(48), found.right(32)])
    for i, row in enumerate((48, 32)):
        for j, column in enumerate((48, 32)):
            count = 0
            for image, label in enumerate(found.labels):
                wrong = int(np.argmax(found.logits[row][image])) != label
                right = int(np.argmax(found.logits[column][image])) == label
                count += wrong and right
            assert share[i, j] == pytest.approx(100 * count / 50)


def test_the_standard_error_is_that_of_drawn_images():
    draws = np.random.default_rng(0).random((4000, 200)) < 0.7
    spread = 100 * draws.mean(1).std()
    # The deviation of 4,000 draws is known to 1 / sqrt(2 * 4000) of itself: 4 such.
    assert pareto.standard_error(70.0, 200) == pytest.approx(spread, rel=4 / np.sqrt(8000))


def point(run, file, size, top1, ms):
    return pareto.Point(run, file, size, top1, 1.0, size * size, ms, ms, ms, "packed")


def test_a_front_has_the_points_that_no_other_beats():
    rng = np.random.default_rng(0)
    # Whole numbers, so that some costs and some accuracies are equal.
    found = [point("a", "a", 8, *map(float, rng.integers(0, 12, 2))) for _ in range(60)]
    best = pareto.front(found, lambda p: p.ms)

    def beaten(p):
        at_least = [q for q in found if q.ms <= p.ms and q.top1 >= p.top1]
        return any((q.ms, q.top1) != (p.ms, p.top1) for q in at_least)

    expected = {(p.ms, p.top1) for p in found if not beaten(p)}
    assert [(p.ms, p.top1) for p in best] == sorted(expected)


def test_a_file_has_a_front_and_runs_of_one_size_have_one_together():
    settings = [point(f"f {b}", "f", s, s + b, s) for b in (4, 2) for s in (64, 32)]
    single = [point(f"of {s}", f"of {s}", s, s, s) for s in (64, 32)]
    found = pareto.groups([*settings, *single])
    assert found == {"f": settings, pareto.SINGLE: single}
    assert pareto.groups([*settings, single[0]]) == {"f": settings, "of 64": single[:1]}


def test_the_table_and_the_figures_say_what_is_on_the_front():
    found = [
        point("f 4/4", "f", 64, 54.0, 0.08),
        point("f 4/4", "f", 32, 50.0, 0.03),
        point("f 2/2", "f", 64, 53.0, 0.09),
        point("f 2/2", "f", 32, 48.0, 0.02),
        point("f 2/2", "f", 256, 48.0, 1234.5),
    ]
    section = front.section(found, {"f 4/4": "net", "f 2/2": "net"}, {}, "a processor")
    assert [p["front"] for p in section.figures["points"]] == [True, True, False, True, False]
    column = section.tables[0].headings.index("on the front")
    assert [row[column] for row in section.tables[0].rows] == ["yes", "yes", "", "yes", ""]
    column = section.tables[0].headings.index("ms (quartiles)")
    times = [row[column] for row in section.tables[0].rows]
    assert times[0] == "0.08 (0.08–0.08)" and times[-1] == "1234 (1234–1234)"


def test_series_of_a_picture_look_different():
    looks = [tuple(style(index).values()) for index in range(30)]
    assert len(set(looks)) == len(looks)


@pytest.mark.parametrize(
    "trained,stride,expected",
    [
        ((64, 48, 32), 32, [32, 40, 48, 56, 64, 72]),
        ((64, 48, 32), 8, [24, 32, 40, 48, 56, 64, 72]),
        ((224, 192, 160, 128, 96), 32, [80, *range(96, 241, 16)]),
        ((30,), 8, [22, 30, 38]),
    ],
)
def test_dense_sizes_have_the_trained_ones_and_some_between_and_beside(trained, stride, expected):
    assert dense.dense_sizes(trained, stride) == expected


def test_the_distance_of_two_samples_is_the_largest_of_their_cdfs():
    rng = np.random.default_rng(0)
    one, other = np.sort(rng.normal(size=40)), np.sort(rng.normal(0.5, size=31))
    at = [*one, *other]
    far = max(abs((one <= x).mean() - (other <= x).mean()) for x in at)
    assert pooled.distance(one, other) == pytest.approx(far)
    assert pooled.distance(one, one) == 0


def test_worst_images_have_the_least_probable_labels():
    found = answers()
    shares = {s: torch.tensor(x).double().softmax(1) for s, x in found.logits.items()}
    mean = [
        sum(float(share[i, label]) for share in shares.values()) / 2
        for i, label in enumerate(found.labels)
    ]
    got = worst.worst(found, (48, 32), count=5)
    order = sorted(range(50), key=lambda i: mean[i])[:5]
    assert [w.position for w in got] == [2 * i for i in order]
    assert [w.probability for w in got] == pytest.approx([mean[i] for i in order])
    assert got[0].predicted[48][0] == int(shares[48][order[0]].argmax())


def test_confusions_count_images_and_pairs_come_largest_first():
    found = answers()
    counts = confused.confusion(found, 48, 4)
    for image, label in enumerate(found.labels):
        counts[label, found.logits[48][image].argmax()] -= 1
    assert not counts.any()
    matrix = np.array([[8, 2, 0], [0, 5, 5], [1, 0, 9]])
    assert confused.most_confused(matrix, 3) == [(1, 2, 50.0), (0, 1, 20.0), (2, 0, 10.0)]


def test_layers_of_one_kind_are_found_by_their_names():
    names = ["layer1.0.bn1", "layer1.0.bn2", "layer2.0.bn1", "layer2.0.bn2", "layer2.1.bn1"]
    assert norms.kinds([*names, "bn"]) == {"layer*.*.bn1": [0, 2, 4], "layer*.*.bn2": [1, 3]}


def test_norms_are_means_over_channels_in_the_order_of_sizes():
    found = norms.Norms(["a", "b"], ["48", "32", "16"], {"bias": [[1.0, 0], [2, 1], [3, 0.5]]})
    assert found.monotonic("bias") == 0.5


def test_history_reads_alpha_and_leaves_gaps():
    rows = [
        {"epoch": "1", "alpha_48": "0.6", "alpha_32": "0.4", "val_top1_48": "10"},
        {"epoch": "2", "alpha_48": "0.7", "alpha_32": "0.3", "val_top1_48": ""},
    ]
    found = history.history(rows)
    assert found.epochs == [1, 2]
    assert found.alpha == {"48": [0.6, 0.7], "32": [0.4, 0.3]}
    assert list(found.top1) == ["48"] and np.isnan(found.top1["48"][1])
    assert history.moved_last([0.0, 0.5, 0.4, 0.6, 0.5]) == pytest.approx(0.1)


@pytest.mark.parametrize("total,count", [(10, 3), (10, 10), (10, 20), (1250, 500), (1, 1)])
def test_a_part_of_a_split_is_spread_over_it(total, count):
    found = positions(total, count)
    assert len(found) == len(set(found)) == min(total, count)
    gaps = np.diff([*found, total])
    assert found[0] == 0 and gaps.max() - gaps.min() <= 1


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A short run."""
    root = tmp_path_factory.mktemp("runs")
    config = replace(CONFIG, train=replace(CONFIG.train, epochs=1))
    train(root, "one", config=config)
    return root


def report(*arguments):
    with pytest.raises(SystemExit) as exit_:
        main(["report", *map(str, arguments), "--workers", "0", "--device", "cpu"])
    return exit_.value.code


@pytest.mark.slow
def test_a_report_is_one_page_with_its_pictures_and_figures(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rsquant.report.compose.TIMING_SECONDS", 0.0)
    monkeypatch.setattr("rsquant.report.latency.load", partial(runtime.load, tune=False))
    figures = tmp_path / "r.json"
    assert report(runs / "one", "--out", tmp_path / "out", "--json", figures) == 0
    page = (tmp_path / "out/report.html").read_text()
    assert "<script" not in page and not re.search(r"(src|href)=\"(?!data:|#)", page)
    pictures = sorted(p.name for p in (tmp_path / "out").glob("*.png"))
    assert {"front.png", "dense.png", "levels-one.png"} <= set(pictures)
    assert page.count("<img class") == len(pictures)
    rows = json.loads(figures.read_text())["rows"]
    assert {r["section"] for r in rows} >= {"front", "dense", "overlap", "sensitivity", "worst"}
    front_row = next(r for r in rows if r["section"] == "front")
    network = opened.open_runs([str(runs / "one")])[0].network
    assert [p["size"] for p in front_row["points"]] == list(network.resolutions)
    assert report(runs / "one", "--out", tmp_path / "out") == 2
    assert "--exist-ok replaces it" in capsys.readouterr().err


def test_runs_of_other_classes_are_refused_in_a_line(runs, tmp_path, capsys):
    from rsquant import create, save

    other = tmp_path / "other.safetensors"
    save(create("resnet10", resolutions=(48, 32), num_classes=7, width=4), other)
    assert report(runs / "one", other, "--out", tmp_path / "out") == 2
    line = capsys.readouterr().err.strip()
    assert "7" in line and "\n" not in line and not (tmp_path / "out").exists()
    assert report(runs / "one", runs / "one", "--out", tmp_path / "out") == 2
    assert "given twice" in capsys.readouterr().err


def test_a_page_shows_what_names_bring_in_as_text():
    table = Table(("<b>",), [["<script>alert(1)</script>"]], marks={(0, 0): "good"})
    picture = Picture("p", b"\x89PNG", 'a "quoted" <alt>')
    text = page(
        "<i>", ["a & b\x1b[31m"], [Section("s", "T", ["<u>"], {}, (picture,), (table,), "r")]
    )
    assert "<script" not in text and "<u>" not in text and "\x1b" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "&quot;quoted&quot;" in text


def test_a_report_is_written_whole_or_not_at_all(tmp_path):
    section = Section(
        "s", "T", [], {"a": [float("nan"), 1.0]}, (Picture("p", b"png", ""),), (), "a/b"
    )
    files = write_report(tmp_path / "out", "t", [], [section], {"more.yaml": "x: 1\n"})
    assert [f.name for f in files] == ["report.html", "more.yaml", "p-a_b.png"]
    assert all(f.is_file() for f in files)
    write_figures(tmp_path / "f.json", [section])
    assert json.loads((tmp_path / "f.json").read_text())["rows"][0]["a"] == [None, 1.0]
    (tmp_path / "new").mkdir()
    (tmp_path / "new/p-a_b.png").mkdir()
    with pytest.raises(RsquantError, match="new"):
        write_report(tmp_path / "new", "t", [], [section], {})
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["p-a_b.png"]


def browser():
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@pytest.mark.slow
def test_a_browser_shows_the_page_without_errors(tmp_path):
    """Its text and its picture's size, as the browser has them when it has laid out the page."""
    if browser() is None:
        pytest.skip("no chromium or chrome on the path")
    with drawn(height=1.0) as (figure, grid):
        grid[0, 0].plot([0, 1], **style(0))
        picture = Picture("p", png(figure), "a line")
    table = Table(("size",), [["48"]])
    section = Section("s", "Accuracy", ["A paragraph."], {}, (picture,), (table,))
    write_report(tmp_path, "Report of <one>", ["about"], [section], {})
    shot = tmp_path / "shot.png"
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=900,900"]
    options = [f"--screenshot={shot}", f"--user-data-dir={tmp_path / 'profile'}"]
    url = (tmp_path / "report.html").as_uri()
    done = subprocess.run([*command, *options, url], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Refused to" not in done.stderr and "net::ERR" not in done.stderr
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    # The line of the picture has the colour that no text has.
    line = np.abs(pixels - [0x00, 0x72, 0xB2]).sum(2) < 30
    assert line.sum() > 100
    dumped = subprocess.run(
        [*command, "--dump-dom", f"--user-data-dir={tmp_path / 'profile2'}", url],
        capture_output=True,
        text=True,
        timeout=300,
    ).stdout
    assert "Report of &lt;one&gt;" in dumped and "A paragraph." in dumped


def test_a_network_on_a_gpu_is_timed_on_the_cpu(monkeypatch):
    """Without one: what is frozen is asked to come to the CPU before it is timed."""
    asked = []
    freeze = latency.freeze

    def on_a_gpu(*arguments, **given):
        frozen = freeze(*arguments, **given)
        monkeypatch.setattr(frozen, "cpu", lambda: asked.append(True) or frozen, raising=False)
        return frozen

    monkeypatch.setattr(latency, "freeze", on_a_gpu)
    network = rsquant.create("resnet10", 32, 32, (32,), 3, width=4).eval()
    found = latency.latencies({"a": network}, {"a": (32,)}, 0.0)
    assert asked and found["a"].engine == "torch"
