"""A task that is not classification trains, resumes, evaluates, saves, loads and exports."""

import csv
import dataclasses

import numpy as np
import pytest
import torch
import toy_segmentation as toy
from click.testing import CliRunner
from small_runs import Silent, state
from torch.nn import functional

import rsquant
from rsquant import cli, runs, tasks
from rsquant.config import DataConfig, ModelConfig, RunConfig, TrainConfig, load_run
from rsquant.data import evaluation_batches, normalise, training_batches
from rsquant.errors import CheckpointError, ConfigError, DataError, ModelError
from rsquant.evaluate.accuracy import evaluate
from rsquant.export.export_checkpoint import export_checkpoint
from rsquant.nn import QuantConv2d
from rsquant.report.plots import training_curves
from rsquant.train import training
from rsquant.train.losses import ensemble_logits, mred

pytestmark = pytest.mark.usefixtures("one_start")

CONFIG = RunConfig(
    ModelConfig("resnet18", 2, 2, toy.SIZES, task=toy.NAME),
    DataConfig("patches", workers=0, area=(0.5, 1.0), train_images=24, val_images=8),
    TrainConfig(epochs=3, batch=8, lr=0.1, schedule="cosine", device="cpu", calibration=8),
)


@pytest.fixture(autouse=True)
def task(monkeypatch, default_signals):
    toy.registered(monkeypatch)


@pytest.fixture
def built(monkeypatch):
    """Runs train the toy's network, in the place of one with a name."""

    def build(spec):
        network = toy.network()
        network.spec = dataclasses.replace(network.spec, classes=spec.classes)
        return network

    monkeypatch.setattr(training, "build", build)


def train(root, name, stop_after=None, config=CONFIG):
    lines = []
    training.start(config, Silent(stop_after), lines.append, name, root=root)
    return lines


@pytest.mark.parametrize("workers", [0, 2])
def test_labels_are_cropped_and_flipped_with_their_image(workers):
    batches = training_batches(
        toy.Patches(20, 0), (24, 16), 8, 1, 3, workers, (0.5, 1.0), samples=toy.TASK
    )
    seen = set()
    for batch in batches:
        assert [x.shape for x in batch.images] == [(8, 3, 24, 24), (8, 3, 16, 16)]
        assert batch.labels.shape == (8, 24, 24) and batch.labels.dtype == torch.int64
        # The colour says the class, but for pixels blended at edges and those of no class.
        colours = torch.from_numpy(toy.COLOURS.astype(np.int64))
        pixels = batch.images[0].permute(0, 2, 3, 1).long()
        apart = (pixels.unsqueeze(-2) - colours).abs().sum(-1)
        pure = (apart.amin(-1) == 0) & (batch.labels != toy.IGNORED)
        right = apart.argmin(-1) == batch.labels
        assert pure.float().mean() > 0.5 and right[pure].float().mean() > 0.95
        seen |= set(batch.labels.unique().tolist())
    assert seen == {0, 1, 2, toy.IGNORED}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_wrong_label_is_told_with_its_image(workers):
    split = toy.Patches(4, 0, damaged={2})
    wanted = r"^data: patches/2: its map has the class 7, known are 0 to 2$"
    with pytest.raises(DataError, match=wanted):
        list(evaluation_batches(split, (24,), 2, workers, toy.TASK))


class Growing(toy.Patches):
    def label(self, i):
        return super().label(i)[: 24 - i]


def test_samples_of_several_shapes_fit_in_no_batch():
    with pytest.raises(
        DataError, match=r"patches/1 becomes \(3, 24, 33\) and patches/0 \(3, 24, 3"
    ):
        list(evaluation_batches(Growing(3, 0), (24,), 2, 0, toy.TASK))
    assert len(list(evaluation_batches(Growing(3, 0), (24,), 1, 0, toy.TASK))) == 3


def test_it_trains_and_learns(built, tmp_path):
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, epochs=8))
    lines = train(tmp_path, "run", config=config)
    with (tmp_path / "run" / runs.METRICS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {"train_segmentation", "train_pixels_24", "train_pixels_ensemble", "alpha_16"}
    columns |= {f"val_{name}_{size}" for name in ("miou", "pixels", "loss") for size in toy.SIZES}
    columns |= {"val_miou_ensemble", "val_loss_ensemble"}
    assert columns <= set(rows[0])
    assert not any("top1" in name or "iou_red" in name or "class" in name for name in rows[0])
    for size in toy.SIZES:
        assert float(rows[-1][f"val_miou_{size}"]) > 60
        assert float(rows[0][f"val_miou_{size}"]) < float(rows[-1][f"val_miou_{size}"])
    assert "mean IoU %  24: " in lines[-1]
    # The best checkpoint is that of the highest mean of the main figure.
    means = [np.mean([float(row[f"val_miou_{size}"]) for size in toy.SIZES]) for row in rows]
    best = rsquant.load(tmp_path / "run" / runs.BEST, into=toy.network())
    result = evaluate(best, toy.Patches(8, 1), batch=8, workers=0)
    assert result.mean == pytest.approx(max(means), abs=0.01)
    assert load_run(tmp_path / "run" / runs.CONFIG).model.task == toy.NAME
    training_curves(tmp_path / "run")


@pytest.mark.parametrize("stop_after", [6, 9])
def test_it_resumes_bit_for_bit(built, tmp_path, stop_after):
    train(tmp_path, "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "cut", stop_after)
    assert state(tmp_path / "cut")[1]["step"] > 0
    training.resume(tmp_path / "cut", Silent(), lambda line: None)
    expected, got = (state(tmp_path / name) for name in ("whole", "cut"))
    assert expected[0].keys() == got[0].keys()
    for name, tensor in expected[0].items():
        assert torch.equal(tensor, got[0][name]), name
    assert expected[1]["progress"] == got[1]["progress"]


def vary(network):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for norm in (network.body.bn, network.body.bn2):
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.uniform_(-0.5, 0.5, generator=generator)
    return network.eval()


@torch.no_grad()
def test_each_size_and_the_ensemble_are_measured_at_the_images_own_size():
    network, split, alpha = vary(toy.network()), toy.Patches(5, 7), torch.tensor([0.3, 1.1])
    result = evaluate(
        network,
        split,
        batch=5,
        workers=0,
        ensemble=lambda outputs: ensemble_logits(outputs, alpha),
    )
    truth = np.stack([split.label(i).numpy() for i in range(5)])
    images = torch.stack([split.image(i) for i in range(5)])
    outputs = []
    for size, width in ((24, 32), (16, 21)):
        x = functional.interpolate(
            images.contiguous(memory_format=torch.channels_last),
            (size, width),
            mode="bilinear",
            antialias=True,
        )
        with network.at(size):  # not at 27.7 or 18.3, the side of the square of that area
            outputs.append(network(normalise(x)))
    assert [tuple(z.shape[2:]) for z in outputs] == [(12, 16), (8, 11)]
    second = functional.interpolate(outputs[1], (12, 16), mode="bilinear")
    weights = torch.softmax(alpha, 0)
    blended = weights[0] * outputs[0] + weights[1] * second
    measured = [result.sizes[24], result.sizes[16], result.ensemble]
    for metric, output in zip(measured, [*outputs, blended], strict=True):
        large = functional.interpolate(output, (24, 32), mode="bilinear").argmax(1).numpy()
        known = truth != toy.IGNORED
        each = [
            ((large == c) & (truth == c) & known).sum()
            / (((large == c) | (truth == c)) & known).sum()
            for c in range(3)
        ]
        assert metric.samples == 5
        # A sum rounded otherwise may change a pixel of 3,840 between two classes.
        assert metric.figures()["miou"] == pytest.approx(100 * np.mean(each), abs=0.2)


@pytest.mark.parametrize("variant", ["full", "vanilla", "top-down", "from-largest", "none"])
def test_the_loss_is_that_of_the_paper_on_outputs_of_one_size(variant):
    generator = torch.Generator().manual_seed(0)
    outputs = [
        torch.randn(2, 3, side, side + 1, generator=generator, dtype=torch.float64)
        for side in (8, 5, 3)
    ]
    labels = torch.randint(0, 3, (2, 16, 18), generator=generator)
    labels[:, :3] = toy.IGNORED
    alpha = torch.randn(3, generator=generator, dtype=torch.float64)
    loss = mred(outputs, labels, alpha, variant, toy.TASK)

    def large(z, size):
        return functional.interpolate(z, size, mode="bilinear").numpy()

    def log_softmax(z):
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    def entropy(z):
        picked = log_softmax(large(torch.from_numpy(z), (16, 18)))
        known = labels.numpy() != toy.IGNORED
        image, y, x = np.nonzero(known)
        return -picked[image, labels.numpy()[known], y, x].mean()

    def kl(p, q):
        p, q = log_softmax(p), log_softmax(q)
        return (np.exp(p) * (p - q)).sum(1).mean()

    z = [large(output, (8, 9)) for output in outputs]
    shares = np.exp(alpha.numpy()) / np.exp(alpha.numpy()).sum()
    blended = sum(share * one for share, one in zip(shares, z, strict=True))
    everyone = [blended, *z]
    pairs = {
        "full": [(t, s) for t in range(3) for s in range(t + 1, 4)],
        "vanilla": [(0, s) for s in (1, 2, 3)],
        "top-down": [(1, 2), (1, 3), (2, 3)],
        "from-largest": [(1, 2), (1, 3)],
        "none": [],
    }[variant]
    divergences = [kl(everyone[t], everyone[s]) for t, s in pairs]
    expected = [
        sum(map(entropy, z)),
        entropy(blended),
        3 / len(pairs) * sum(divergences) if pairs else 0.0,
    ]
    got = [loss.classification, loss.ensemble, loss.distillation]
    np.testing.assert_allclose([one.item() for one in got], expected, rtol=1e-12, atol=1e-15)


@torch.no_grad()
def test_it_is_saved_and_loaded_as_the_task_it_is(tmp_path):
    network = vary(toy.network())
    rsquant.save(network, tmp_path / "a.safetensors")
    again = rsquant.load(tmp_path / "a.safetensors", into=toy.network())
    assert again.spec.task == toy.NAME
    image = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(image), again(image))
    again.spec = dataclasses.replace(again.spec, task="classification")
    with pytest.raises(
        CheckpointError, match="has task toy-segmentation, the network given has cl"
    ):
        rsquant.load(tmp_path / "a.safetensors", into=again)
    with pytest.raises(ModelError, match=r"must give logits \(N, classes\), got \(1, 3, 8, 8\)"):
        rsquant.save(again, tmp_path / "b.safetensors")


def test_a_checkpoint_of_a_task_nobody_registered_is_refused(tmp_path, monkeypatch):
    network = rsquant.create("resnet18", 2, 2, (32,), 3, width=1)
    tasks.register("same", tasks.Classification())
    network.spec = dataclasses.replace(network.spec, task="same")
    rsquant.save(network, tmp_path / "a.safetensors")
    assert rsquant.load(tmp_path / "a.safetensors").spec.task == "same"
    del tasks.registry._TASKS["same"]
    with pytest.raises(CheckpointError, match="unknown name 'same'; known: classification, segm"):
        rsquant.load(tmp_path / "a.safetensors")


def test_networks_whose_outputs_are_others_are_refused():
    with pytest.raises(
        ModelError, match=r"Net: must return logits \(N, classes\), got \(1, 3, 128"
    ):
        rsquant.convert(toy.Net(), 2, 2, toy.SIZES)
    with pytest.raises(ModelError, match=r"must give logits \(N, classes, H, W\), got \(1, 5\)"):
        rsquant.create("resnet18", 2, 2, (32,), 5, width=1, task=toy.NAME)


def test_a_task_nobody_registered_is_refused_before_anything_is_written(tmp_path):
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, task="segmen"))
    with pytest.raises(ConfigError, match="task: unknown name 'segmen'"):
        train(tmp_path, "x", config=config)
    for wrong in (
        lambda: rsquant.create("resnet18", task="classificaton"),
        lambda: rsquant.convert(toy.Net(), task="classificaton"),
    ):
        with pytest.raises(ConfigError, match="did you mean 'classification'"):
            wrong()
    assert not any(tmp_path.iterdir())


def test_the_data_is_opened_by_the_task(built, tmp_path):
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, source="shapes"))
    with pytest.raises(DataError, match="'shapes' has no maps of classes"):
        train(tmp_path, "x", config=config)


def test_the_head_is_replaced_for_other_classes():
    network = toy.network()
    head = network.body.head
    assert not isinstance(head, QuantConv2d) and isinstance(network.body.middle, QuantConv2d)
    network.reset_classifier(["sky", "road"])
    assert network.body.head is head and head.out_channels == network.spec.num_classes == 2
    with torch.no_grad():
        assert network.eval()(torch.zeros(1, 3, 16, 16)).shape == (1, 2, 8, 8)


@pytest.mark.parametrize("form", ["codebook", "int8", "float"])
def test_its_outputs_are_exported(tmp_path, form):
    images = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    parity = rsquant.export_onnx(vary(toy.network()), tmp_path / "a.onnx", 24, images, form=form)
    assert parity.passed
    own, file = (one.argmax(1).numpy() for one in parity.outputs)
    assert own.shape == (3, 12, 12)
    assert parity.top1_agreement == (own == file).mean() > 0.9


def test_files_of_a_run_are_measured_on_squares_without_labels(built, tmp_path, monkeypatch):
    train(tmp_path, "run")
    monkeypatch.setattr(
        "rsquant.export.export_checkpoint.load", lambda path: rsquant.load(path, into=toy.network())
    )
    outcome = export_checkpoint(runs.resolve(tmp_path / "run"), (), count=3, calibrate=2)
    assert outcome.task is toy.TASK
    for row in outcome.rows:
        assert row["passed"] and row["images"] == 3
        assert row["miou"] is row["file_miou"] is None
        assert 0.9 < row["top1_agreement"] <= 1


def test_the_command_line_shows_what_the_task_measures(built, tmp_path, monkeypatch):
    train(tmp_path, "run")
    # A converted network's layers are not in its file.
    monkeypatch.setattr(
        "rsquant.evaluate.report.load", lambda path: rsquant.load(path, into=toy.network())
    )
    done = CliRunner().invoke(
        cli.group, ["eval", str(tmp_path / "run"), "--resolutions", "24,20", "--workers", "0"]
    )
    assert done.exit_code == 0, done.output
    for text in ("mean IoU %", "pixels %", "loss", "interpolated"):
        assert text in done.output
    assert "top-1" not in done.output
