"""A checkpoint's metadata is one that rsquant writes, or is refused by the name of the field."""

import json

import pytest
import torch

import rsquant
from rsquant.errors import CheckpointError, ModelError
from rsquant.models import checkpoint
from rsquant.models.factory import weight_shapes


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "a.safetensors"
    rsquant.save(rsquant.create("resnet18", 2, 2, (32, 24), 2, width=1), path)
    return checkpoint.read_tensors(path, checkpoint.FORMAT, checkpoint.VERSION)


QUANTIZER = "body.layer1.0.act2.2"


@pytest.mark.parametrize(
    "place,value,message",
    [
        (("model", "wbits"), True, "'wbits' must be an integer from 1 to 32, got True"),
        (("model", "abits"), 2.0, "'abits' must be an integer"),
        (("model", "resolutions"), [32, "24"], "'resolutions' must be an integer"),
        (("model", "resolutions"), [], "'resolutions' must be a list of 1 to 64"),
        (("model", "num_classes"), 10**400, "'num_classes' .* got a number of 1329 bits"),
        (("model", "std"), [1, 1, 0], "'std' must be a positive number"),
        (("model", "mean"), "x" * 10**5, "'mean' must be a list"),
        (("model", "arch"), {"a": 1}, "'arch' must be text"),
        (("model", "arch"), "custom\n", "describes an impossible network"),
        (("model", "classes"), ["a"], "has 1 names of classes, but 2 classes"),
        (("model", "surprise"), 1, "unknown field 'surprise'"),
        (("model",), None, "model must be an object"),
        (("extra",), 1, "unknown field 'extra'"),
        (("version",), True, "version True, this rsquant reads"),
        (("version",), [2], "version a list of 1, this rsquant reads"),
        (("versions",), [], "versions of modules are damaged"),
        (("versions", "body.bn1"), "2", "versions: 'body.bn1' must be an integer"),
        (("versions", "body.none"), 2, "the network has no module 'body.none'"),
        (("layers", "body.none"), {}, "describes the layer none"),
        (("layers", "body.bn1"), {}, "the layer bn1 is damaged: 'eps' is missing"),
        (("layers", QUANTIZER, "signed"), 0, "'signed' must be true or false, got 0"),
        (("layers", QUANTIZER, "bits"), True, "has bits True, in the network given 2"),
        (("layers", "body.conv1", "padding"), "z" * 10**5, "conv1 has padding"),
        # Small in the file, gigabytes in the network.
        (("model", "width"), 2048, r"conv1.weight is .*, the network's is \(2048, "),
        (("model", "num_classes"), 9_000_000, r"fc.weight is .*, the network's is \(9000000, "),
        (("model", "arch"), "torchvision:vgg19_bn", "has a different architecture: lacks"),
        (("model", "arch"), "resnet101", "has a different architecture"),
    ],
)
def test_a_field_that_is_wrong_is_refused_by_name(saved, tmp_path, place, value, message):
    tensors, metadata = saved
    metadata = json.loads(json.dumps(metadata))
    parent = metadata
    for step in place[:-1]:
        parent = parent[step]
    parent[place[-1]] = value
    if "arch" in place and str(value).startswith("torchvision"):
        metadata["model"] |= {"stem": "own", "block": "own", "width": 64}
    path = tmp_path / "a.safetensors"
    checkpoint.write_tensors(path, tensors, metadata)
    with pytest.raises(CheckpointError, match=message) as error:
        rsquant.load(path)
    assert len(str(error.value)) < 600
    assert str(error.value).isprintable()


def test_tensors_of_another_kind_are_refused_and_halves_are_read(saved, tmp_path):
    tensors, metadata = saved
    path = tmp_path / "a.safetensors"
    whole = {"body.fc.bias": torch.zeros(2, dtype=torch.int64)}
    checkpoint.write_tensors(path, tensors | whole, metadata)
    with pytest.raises(CheckpointError, match=r"body.fc.bias holds torch.int64, .* torch.float32"):
        rsquant.load(path)
    half = {"body.fc.bias": torch.tensor([0.5, -2.0], dtype=torch.float16)}
    checkpoint.write_tensors(path, tensors | half, metadata)
    assert rsquant.load(path).body.fc.bias.tolist() == [0.5, -2.0]


def test_what_load_would_refuse_is_not_saved(tmp_path):
    model = rsquant.create("resnet18", 2, 2, (32, 24), 2, width=1)
    object.__setattr__(model.spec, "classes", ("a", "b", "c"))
    with pytest.raises(ModelError, match=r"not written, .* 3 names of classes, but 2 classes"):
        rsquant.save(model, tmp_path / "a.safetensors")


@pytest.mark.parametrize("arch,abits", [("resnet50", 2), ("resnet18", 32), ("mobilenet_v2", 2)])
def test_shapes_found_without_memory_are_those_of_the_network(arch, abits):
    width = {"width": 1} if arch.startswith("resnet") else {}
    model = rsquant.create(arch, 2, abits, (32,), 3, **width)
    own = dict(model.body.named_parameters())
    shapes = weight_shapes(model.spec)
    assert len(shapes) > 10
    assert all(tuple(own[name].shape) == shape for name, shape in shapes.items())
