"""The roofline picture: what is drawn where."""

import matplotlib.image
import pytest
from matplotlib.figure import Figure

from rsquant.bench.cuda import roofline as module
from rsquant.bench.cuda.roofline import point, roofline
from rsquant.bench.rows import CudaLayerRow


def row(engine, batch=1, kernel="3x3", macs=10**9, moved=10**7, ms=0.01, peak=400.0):
    return CudaLayerRow(
        arch="resnet18",
        layer="layer1.0.conv1",
        in_channels=64,
        out_channels=64,
        kernel=kernel,
        stride=1,
        resolution=224,
        output=56,
        ms=ms,
        batch=batch,
        epilogue="codes",
        engine=engine,
        form="plain",
        median_ms=ms,
        warm_ms=ms,
        samples=3,
        macs=macs,
        bytes=moved,
        tmacs=None,
        gbytes_per_s=None,
        copy_gbytes_per_s=4000.0,
        peak_tmacs=peak,
        share_of_bytes=None,
        share_of_operations=None,
    )


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is drawn."""
    made = []

    class Kept(Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr("matplotlib.figure.Figure", Kept)
    return made


def test_a_point_is_operations_per_byte_and_per_second():
    # Two operations per multiply-add; 2e9 in 10 us are 200 tera per second.
    assert point(row("gpu")) == (200.0, pytest.approx(200.0))


def test_a_panel_per_batch_has_roofs_points_and_labels(tmp_path, figures):
    rows = [
        row(engine, batch, kernel, peak=800.0 if engine in ("gpu", "int8") else 400.0)
        for engine in module._COLOURS
        for batch in (1, 32, 128, 256)
        for kernel in ("1x1", "3x3", "7x7")
    ]
    path = roofline(rows, tmp_path / "r.png", "layers on a device")
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    height, width, _ = matplotlib.image.imread(path).shape
    assert width > 1000 and height > 500
    (figure,) = figures
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == [f"batch {b}" for b in (1, 32, 128, 256)]
    assert len(figure.axes) == 6
    for axes in panels:
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert "operations per byte" in axes.get_xlabel()
        # Twelve points, the copy's slope and two levels.
        assert len(axes.lines) == 15
        texts = [text.get_text() for text in axes.texts]
        assert texts[0] == "copy 4 TB/s"
        assert set(texts[1:]) == {
            "int8 matrix product\n1600 T/s",
            "bfloat16 matrix product\n800 T/s",
        }
        slope = axes.lines[-3]
        x, y = slope.get_xdata(), slope.get_ydata()
        # The slope is the copy's 4 TB/s, and ends where the highest level begins: 1600 T/s.
        assert y[0] / x[0] == pytest.approx(4.0) and (x[1], y[1]) == (400.0, 1600.0)
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    kernels = ["1x1 convolution", "3x3 convolution", "7x7 convolution"]
    assert labels == [*module._LABELS.values(), *kernels]
    assert figure.get_suptitle() == "layers on a device"
    assert figure.axes[0].get_ylabel() == "tera-operations per second"


def test_rows_without_a_time_or_a_product_are_no_obstacle(tmp_path, figures):
    rows = [row("gpu", peak=None), row("int8", ms=0.0, peak=None), row("cudnn_bf16", ms=-0.1)]
    path = roofline(rows, tmp_path / "r.png", "")
    assert path.stat().st_size > 1000
    # One point and the copy's slope.
    assert len(figures[0].axes[0].lines) == 2


def test_no_rows_make_an_empty_picture(tmp_path):
    assert roofline([], tmp_path / "r.png", "nothing").stat().st_size > 1000
