"""A teacher's outputs, which networks may teach, and runs that have one."""

import dataclasses

import pytest
import torch
from shallow import RESNET10
from small_runs import CONFIG, Silent, state, train
from tiny_network import SIZES, converted
from torchvision.models import resnet18

import rsquant
from rsquant import config as configs
from rsquant import runs
from rsquant.data.transforms import normalise
from rsquant.errors import CheckpointError, ConfigError
from rsquant.models.resnet import ResNet
from rsquant.train import training
from rsquant.train.metrics import read_metrics
from rsquant.train.teacher import Teacher, check_teacher, open_teacher


def pixels():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (2, 3, s, s), generator=generator).byte() for s in SIZES]


@pytest.mark.parametrize("at", ["every", "largest"])
def test_it_says_what_its_network_gives_for_images_normalised_its_own_way(vary, at):
    network = vary(converted())
    network.spec = dataclasses.replace(network.spec, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    network.train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    got = Teacher(network, at)(pixels())
    assert not network.training and not any(z.requires_grad for z in got)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    with torch.no_grad():
        expected = [network(normalise(x, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))) for x in pixels()]
    expected = expected[:1] * 2 if at == "largest" else expected
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


SPEC = dataclasses.replace(converted().spec, classes=("ant", "bee", "cat"))


@pytest.mark.parametrize(
    "changes,message",
    [
        (
            {"classes": ("ant", "cat", "bee")},
            "another order: class 1 is 'cat', .* data set is 'bee'",
        ),
        ({"classes": ("ant", "bee", "dog")}, "other classes: class 2 is 'dog', .* is 'cat'"),
        ({"num_classes": 4, "classes": ()}, "tells 4 classes apart, the data set has 3"),
        ({"task": "other"}, "is of the task other, this network of classification"),
    ],
)
def test_a_teacher_that_says_other_things_is_refused(changes, message):
    with pytest.raises(ConfigError, match=f"teacher: runs/t .*{message}"):
        check_teacher(dataclasses.replace(SPEC, **changes), SPEC, "runs/t")
    check_teacher(SPEC, SPEC, "")
    check_teacher(dataclasses.replace(SPEC, classes=()), SPEC, "")


def taught(**changes):
    return dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, epochs=2, **changes))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A checkpoint with the built-in set's classes."""
    folder = tmp_path_factory.mktemp("teacher")
    one = dataclasses.replace(
        CONFIG,
        model=dataclasses.replace(CONFIG.model, wbits=32, abits=32),
        train=dataclasses.replace(CONFIG.train, epochs=1, calibration=0),
    )
    train(folder, "teacher", config=one)
    return folder / "teacher" / runs.BEST


def test_a_run_tells_its_teacher_and_resumes_with_the_same_one_only(teacher, tmp_path):
    config = taught(teacher=str(teacher), labels=0.5)
    lines = train(tmp_path, "whole", config=config)
    assert any(line.startswith(f"teacher {teacher}: resnet10 W32A32") for line in lines)
    assert all(float(row["train_teacher"]) > 0 for row in read_metrics(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "cut", 7, config=config)
    run = tmp_path / "cut"
    assert configs.load_run(run / runs.CONFIG).train.teacher == str(teacher.resolve())
    moved, other = tmp_path / "moved.safetensors", tmp_path / "other.safetensors"
    network = rsquant.load(teacher)
    rsquant.save(network, moved)
    with torch.no_grad():
        network.body.fc.bias.add_(1e-3)
    rsquant.save(network, other)
    with pytest.raises(CheckpointError, match="has other weights than when the run began"):
        training.resume(run, Silent(), lambda line: None, teacher=str(other))
    training.resume(run, Silent(), lambda line: None, teacher=str(moved))
    expected, got = state(tmp_path / "whole")[0], state(run)[0]
    assert [n for n, t in expected.items() if not torch.equal(t, got[n])] == []


def test_a_teacher_that_is_not_there_or_too_coarse_for_a_size_is_told_before_anything_is_written(
    teacher, tmp_path
):
    with pytest.raises(CheckpointError, match=r"teacher: .*no such run"):
        train(tmp_path, "x", config=taught(teacher="none"))
    with pytest.raises(ConfigError, match="labels: is of a `teacher`, and there is none"):
        train(tmp_path, "x", config=taught(labels=0.5))
    assert not any(tmp_path.iterdir())


def test_a_published_network_teaches(monkeypatch):
    torch.manual_seed(0)
    body = resnet18().eval()
    tensors = body.state_dict()
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *_, **__: tensors
    )
    student = dataclasses.replace(SPEC, num_classes=1000, resolutions=(64, 48), classes=())
    config = configs.from_dict({"train": {"teacher": "torchvision:resnet18"}})
    teacher = open_teacher(config, student, torch.device("cpu"))
    images = [torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8) for size in (64, 48)]
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    with torch.no_grad():
        for got, x in zip(teacher(images), images, strict=True):
            expected = body(normalise(x, mean, std))
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert teacher.place == "torchvision:resnet18"
    fewer = dataclasses.replace(student, num_classes=10)
    with pytest.raises(ConfigError, match="tells 1000 classes apart, the data set has 10"):
        open_teacher(config, fewer, torch.device("cpu"))


def test_weights_alone_teach_as_the_network_that_they_are_of(tmp_path, vary):
    torch.manual_seed(0)
    body = vary(ResNet(RESNET10, 3, 4, "tiny", False)).eval()
    path = tmp_path / "weights.pth"
    torch.save(body.state_dict(), path)
    low = rsquant.create(RESNET10, 2, 2, SIZES, 3, width=4, stem="tiny").spec
    other = dataclasses.replace(low, arch="resnet18", width=8)
    images = pixels()
    for student, arch in ((low, None), (low, RESNET10)):
        settings = {"teacher": str(path), "teacher_arch": arch}
        teacher = open_teacher(configs.from_dict({"train": settings}), student, torch.device("cpu"))
        with torch.no_grad():
            for got, x in zip(teacher(images), images, strict=True):
                expected = body(normalise(x, low.mean, low.std))
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        assert teacher.place == str(path.resolve())
    config = configs.from_dict({"train": {"teacher": str(path)}})
    with pytest.raises(
        CheckpointError, match=r"teacher: .*weights.pth.*taken for resnet18; .*teacher_arch"
    ):
        open_teacher(config, other, torch.device("cpu"))
    with pytest.raises(
        CheckpointError, match=r"3 classes in the source, 4 here.* data set's classes"
    ):
        open_teacher(config, dataclasses.replace(low, num_classes=4), torch.device("cpu"))
    torch.save({k: v for k, v in body.state_dict().items() if not k.startswith("bn1.")}, path)
    with pytest.raises(CheckpointError, match=r"has no bn1; .*teacher_arch"):
        open_teacher(config, low, torch.device("cpu"))
    with pytest.raises(ConfigError, match="teacher_arch: is of a `teacher`, and there is none"):
        train(tmp_path, "x", config=taught(teacher_arch=RESNET10))
