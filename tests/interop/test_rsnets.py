"""Files of RS-Nets' program: the same logits at every size, or a line that says what is wrong."""

import json

import pytest
import shallow
import torch
from rsnets_network import Mobile, Net, trained

import rsquant
from rsquant import choices
from rsquant.cli import main
from rsquant.errors import CheckpointError, ConfigError, ModelError
from rsquant.interop.rsnets import PIXELS, SIZES, import_rsnets, read_rsnets
from rsquant.interop.rsnets_names import architectures, layers, plain_name

# In the order of their BatchNorms, which need not be that of our rows.
ORDER = (32, 64, 48)


def make(arch, classes=7):
    sizes = len(ORDER)
    torch.manual_seed(0)
    if arch == "mobilenet_v2":
        return trained(Mobile(sizes, classes))
    blocks = shallow.LAYERS[arch][1]
    return trained(Net(blocks, shallow.LAYERS[arch][0] is shallow.Bottleneck, sizes, classes))


@pytest.fixture(scope="module")
def ten():
    return make("resnet10")


def saved(path, network, prefix="module.", **changes):
    """As their program saves: the network in DataParallel, among other things."""
    tensors = {prefix + name: tensor for name, tensor in network.state_dict().items()} | changes
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    others = {"epoch": 120, "best_acc0": 73.1, "optimizer": optimizer.state_dict()}
    torch.save({"arch": "parallel", "state_dict": tensors, **others}, path)
    return path


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("arch", ["resnet10", "resnet14", "mobilenet_v2"])
def test_logits_are_those_of_their_network(arch, prefix, tmp_path):
    theirs = make(arch)
    path = saved(tmp_path / "model_best.pth.tar", theirs, prefix)
    imported = import_rsnets(path, arch, tmp_path / "ours.safetensors", ORDER)
    ours = rsquant.load(tmp_path / "ours.safetensors")
    assert ours.spec.arch == arch and ours.resolutions == (64, 48, 32)
    images = [torch.rand(2, 3, size, size) for size in ORDER]
    with torch.no_grad():
        for x, expected in zip(images, theirs(images), strict=True):
            torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-4)
    shares = theirs.alpha.softmax(0)[[1, 2, 0]].tolist()
    assert imported.ensemble == pytest.approx(shares)


def test_their_images_are_values_of_0_to_1(ten, tmp_path):
    path = saved(tmp_path / "a.pth", ten)
    spec = read_rsnets(path, "resnet10", ORDER).network.spec
    assert (spec.mean, spec.std) == ((0.0,) * 3, (1.0,) * 3)
    normalised = read_rsnets(path, "resnet10", ORDER, "imagenet").network.spec
    assert normalised.mean == (0.485, 0.456, 0.406)
    assert tuple(PIXELS) == choices.PIXELS


def test_paths_of_one_size_keep_their_order(ten, tmp_path):
    network = read_rsnets(saved(tmp_path / "a.pth", ten), "resnet10", (64, 64, 64)).network
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for own, expected in zip(network.forward_all([images] * 3), ten([images] * 3), strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-4)


def test_names():
    assert plain_name("module.layer1.0.bn1.bn_12.weight") == ("layer1.0.bn1.weight", 12)
    assert plain_name("module.fc.module.bias") == ("fc.bias", None)
    assert plain_name("module.alpha") == ("alpha", None)
    for arch, convolutions in (("resnet18", 20), ("resnet50", 53), ("mobilenet_v2", 52)):
        assert sum(layer.kind == "conv" for layer in layers(arch)) == convolutions
    assert set(choices.ARCHITECTURES) <= set(architectures())
    assert len(SIZES) == 5


def without(network, part):
    return {name: t for name, t in network.state_dict().items() if part not in name}


@pytest.mark.parametrize(
    "tensors,arch,sizes,message",
    [
        (lambda n: n.state_dict(), "mobilenet_v2", ORDER, "is of resnet10, not of mobilenet_v2; c"),
        (
            lambda n: without(n, "layer4"),
            "resnet10",
            ORDER,
            "of resnet10: it lacks layer4.0.bn1",
        ),
        (
            lambda n: {**n.state_dict(), "se.weight": torch.ones(3)},
            "resnet10",
            ORDER,
            "not of resnet10: it has se.weight besides; name the `arch`",
        ),
        (lambda n: without(n, "bn_"), "resnet10", ORDER, "has no BatchNorms bn_0, bn_1, .. of sev"),
        (lambda n: n.state_dict(), "resnet10", SIZES, "of 3 sizes, but 5 are named: 224, 192"),
        (lambda n: without(n, "layer2.0.bn1.bn_2"), "resnet10", ORDER, "every BatchNorm must have"),
        (lambda n: without(n, "bn_0"), "resnet10", (64, 48), "of sizes 1, 2 .* from 0 on"),
        (
            lambda n: {**n.state_dict(), "alpha": torch.ones(2)},
            "resnet10",
            ORDER,
            r"of 3 sizes, and an alpha of \(2,\)",
        ),
        (
            lambda n: {**n.state_dict(), "conv1.module.weight": torch.ones(32, 3, 7, 7)},
            "resnet10",
            ORDER,
            r"its conv1.weight is \(32, 3, 7, 7\), not \(64, 3, 7, 7\)",
        ),
        (
            lambda n: {**n.state_dict(), "fc.module.bias": torch.full((7,), torch.nan)},
            "resnet10",
            ORDER,
            "fc.bias has NaN values",
        ),
        (
            lambda n: {**n.state_dict(), "module.alpha": torch.ones(3)},
            "resnet10",
            ORDER,
            "has alpha twice",
        ),
    ],
)
def test_other_files_are_refused_and_nothing_is_written(
    ten, tensors, arch, sizes, message, tmp_path
):
    torch.save({"state_dict": tensors(ten)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message):
        import_rsnets(tmp_path / "a.pth", arch, tmp_path / "out.safetensors", sizes)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


def test_bad_arguments_are_refused(ten, tmp_path):
    path = saved(tmp_path / "a.pth", ten)
    for error, message, arguments in (
        (ConfigError, "arch: must be one of resnet18", ("vgg11", ORDER)),
        (ConfigError, "pixels: must be one of plain", ("resnet10", ORDER, "bytes")),
        (ModelError, "all the same one", ("resnet10", (64, 64, 32))),
        (ModelError, "16", ("resnet10", (64, 48, 16))),
        (CheckpointError, "no such file", ("resnet10", ORDER)),
    ):
        given = tmp_path / "none.pth" if error is CheckpointError else path
        with pytest.raises(error, match=message):
            read_rsnets(given, *arguments)
    with pytest.raises(ConfigError, match=r"out: must be named \*.safetensors"):
        import_rsnets(path, "resnet10", tmp_path / "out.rsq", ORDER)


def test_no_code_of_a_file_runs(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}, "args": pytest.approx(1)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="cannot be read without running code"):
        read_rsnets(tmp_path / "a.pth", "resnet10", ORDER)


def test_the_command(ten, tmp_path, capsys):
    path = saved(tmp_path / "model_best.pth.tar", ten)
    given = ["import", "rsnets", str(path), "--arch", "resnet10", "--resolutions", "32,64,48"]
    with pytest.raises(SystemExit) as done:
        main([*given, "--json", str(tmp_path / "i.json")])
    assert not done.value.code
    shown = capsys.readouterr().out
    assert "resnet10, float32, 7 classes" in shown and "model_best.safetensors" in shown
    rows = json.loads((tmp_path / "i.json").read_text())["rows"]
    assert [row["resolution"] for row in rows] == [64, 48, 32]
    with pytest.raises(SystemExit) as done:
        main(given)
    assert done.value.code == 2
    assert "model_best.safetensors: exists already; --exist-ok replaces" in capsys.readouterr().err
    with pytest.raises(SystemExit) as done:
        main([*given[:-1], "32,64", "--exist-ok"])
    assert "name its --resolutions in the order" in capsys.readouterr().err
