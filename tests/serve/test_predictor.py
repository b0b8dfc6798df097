"""From a picture to labels, beside doing it by hand."""

import io

import numpy as np
import pytest
from PIL import Image

import rsquant
from rsquant.decoding import UnreadableImage, decode
from rsquant.errors import ConfigError
from rsquant.runtime import evaluation_crop
from rsquant.serve import Predictor, latency


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)


def by_hand(session, pixels, size):
    logits = session(evaluation_crop(pixels, size)[None])[0].astype(np.float64)
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def test_labels_are_the_likeliest_classes(session, picture):
    said = Predictor(session, top=3)(picture)
    expected = by_hand(session, picture, 64)
    order = np.argsort(-expected)[:3]
    assert said.labels == tuple(session.classes[i] for i in order)
    np.testing.assert_allclose(said.probabilities, expected[order], rtol=1e-5)
    assert said.resolution == 64 and said.tried == (64,) and said.choice is None


@pytest.mark.parametrize("size", [64, 48, 32])
def test_a_size_may_be_asked_for_once_or_for_all(session, picture, size):
    once, for_all = Predictor(session)(picture, size), Predictor(session, resolution=size)(picture)
    assert once.resolution == for_all.resolution == size
    assert once.probabilities == for_all.probabilities
    assert once.probabilities[0] == pytest.approx(by_hand(session, picture, size).max(), rel=1e-5)


def test_every_form_of_a_picture_is_the_same_picture(session, picture, tmp_path):
    image = Image.fromarray(picture)
    image.save(tmp_path / "a.png")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    predictor = Predictor(session)
    forms = (picture, image, tmp_path / "a.png", str(tmp_path / "a.png"), buffer.getvalue())
    assert len({predictor(form).probabilities for form in forms}) == 1


def test_a_checkpoint_and_onnx_files_say_what_the_packed_file_says(model, session, tmp_path):
    rsquant.save(model, tmp_path / "net.safetensors")
    rsquant.export_onnx(model, tmp_path / "net.onnx", 48)
    rng = np.random.default_rng(1)
    checkpoint = Predictor(tmp_path / "net.safetensors")
    onnx = Predictor(tmp_path / "net.onnx")
    assert checkpoint.resolutions == (64, 48, 32) and onnx.resolutions == (48,)
    assert checkpoint.classes == onnx.classes == session.classes
    for _ in range(3):
        pixels = rng.integers(0, 256, (60, 50, 3), np.uint8)
        np.testing.assert_allclose(
            checkpoint(pixels, 48).probabilities, onnx(pixels).probabilities, rtol=1e-3
        )


def test_settings_that_exclude_each_other(session):
    with pytest.raises(ConfigError, match="resolution and budget_ms: each chooses the size"):
        Predictor(session, resolution=48, budget_ms=5)
    with pytest.raises(ConfigError, match="resolution: the network has 64, 48, 32, got 50"):
        Predictor(session, resolution=50)
    with pytest.raises(ConfigError, match="top: must be 1 or more"):
        Predictor(session, top=0)
    with pytest.raises(ConfigError, match="no such file"):
        Predictor("nothing.rsq")


def test_wrong_pictures_are_named(session, tmp_path):
    predictor = Predictor(session)
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(UnreadableImage, match="not an image"):
        predictor(tmp_path / "a.jpg")
    with pytest.raises(TypeError, match="must be a numpy array of uint8"):
        predictor(np.zeros((5, 5, 3)))
    with pytest.raises(ValueError, match=r"must be \(H, W, 3\)"):
        predictor(np.zeros((3, 5, 5), np.uint8))


@pytest.fixture
def times(monkeypatch):
    known = {64: 0.010, 48: 0.005, 32: 0.002}
    monkeypatch.setattr("rsquant.serve.predictor.measured", lambda network, sizes: known)
    return known


def test_a_budget_chooses_and_says_why(session, picture, times):
    said = Predictor(session, budget_ms=7)(picture)
    assert said.resolution == 48 and said.choice.fits
    assert "48 pixels" in said.choice.reason
    assert Predictor(session, budget_ms=1)(picture).resolution == 32
    with pytest.raises(ConfigError, match="the smallest size, 32 pixels"):
        Predictor(session, budget_ms=1, strict=True)


def test_latencies_are_of_a_processor_and_a_version_of_the_kernels(session, monkeypatch):
    from rsquant.runtime.cpu import choice

    before = latency._key(session)
    monkeypatch.setattr(choice, "_processor", lambda: "another")
    other = latency._key(session)
    monkeypatch.setattr(choice, "VERSION", choice.VERSION + 1)
    assert len({before, other, latency._key(session)}) == 3


def test_settings_without_effect_are_refused(session):
    with pytest.raises(ConfigError, match="strict: is of a budget"):
        Predictor(session, strict=True)
    with pytest.raises(ConfigError, match="threads: an open network has its own"):
        Predictor(session, threads=2)


def test_latencies_are_measured_once(packed, tmp_path, monkeypatch):
    monkeypatch.setenv("RSQUANT_CACHE", str(tmp_path))
    predictor = Predictor(packed, threads=1)
    seconds = latency.measured(predictor.network, predictor.resolutions)
    assert set(seconds) == {64, 48, 32} and all(s > 0 for s in seconds.values())
    monkeypatch.setattr(latency, "_measure", None)
    again = latency.measured(predictor.network, predictor.resolutions)
    assert again == pytest.approx(seconds, abs=1e-9)


@pytest.mark.parametrize("how,seen", [("degrade", [0, 1, 2, 3, 4]), ("drop", [])])
def test_a_stream_drops_or_degrades_what_is_too_late(session, picture, times, how, seen):
    """By when a picture is taken it has waited longer than a budget of a microsecond."""
    items = list(Predictor(session, budget_ms=1e-3).stream([picture] * 5, how))
    assert [item.number for item in items] == seen
    assert all(item.late and item.prediction.resolution == 32 for item in items)


def test_one_slow_call_does_not_drop_all_that_follows(session, picture, times):
    predictor = Predictor(session, budget_ms=1000)
    predictor.budget.tell(32, 100.0)  # 50,000 times what it takes on the idle machine
    seen = list(predictor.stream([picture] * 30, "drop"))
    assert len(seen) == 29 and seen[0].dropped == 1


def test_a_stream_raises_what_its_source_raises(session, picture, times):
    def pictures():
        yield picture
        raise OSError("unplugged")

    stream = Predictor(session, budget_ms=1000).stream(pictures())
    assert next(stream).prediction.resolution == 64
    with pytest.raises(OSError, match="unplugged"):
        next(stream)


def test_a_stream_needs_a_budget(session, picture):
    with pytest.raises(ConfigError, match="has no budget"):
        next(Predictor(session).stream([picture]))


def test_decoding_needs_no_torch(picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png"), picture)
