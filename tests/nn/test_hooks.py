"""Forward hooks of users: those that look on are left out of files, those that change are told."""

import pytest
import torch
from tiny_network import batches, converted
from torch import nn

import rsquant
from rsquant.errors import ExportError, ModelError, PackError
from rsquant.nn.freeze import freeze


def after(change, **options):
    return lambda module: module.register_forward_hook(change, **options)


def before(change, **options):
    return lambda module: module.register_forward_pre_hook(change, **options)


def in_place(_, inputs, output):
    output.clamp_(max=100)


def inputs_in_place(_, inputs):
    inputs[0].add_(1)


CHANGING = {
    "output": after(lambda m, x, y: 2 * y),
    "input": before(lambda m, x: (2 * x[0],)),
    "input alone": before(lambda m, x: 2 * x[0]),
    "in place": after(in_place),
    "input in place": before(inputs_in_place),
    "keywords": after(lambda m, x, named, y: y + 1, with_kwargs=True),
    "input and keywords": before(lambda m, x, named: ((x[0] + 1,), named), with_kwargs=True),
    "always": after(lambda m, x, y: y + 1, always_call=True),
}


@pytest.mark.parametrize("kind", CHANGING)
def test_a_hook_that_changes_values_is_refused_by_name(kind, tmp_path):
    model = converted().eval()
    x = batches()[0]
    with torch.no_grad():
        CHANGING[kind](model.body.middle)
        logits = model(x)
        line = "^middle: has a forward hook that changes its values, and .* remove the hook, or"
        with pytest.raises(PackError, match=line):
            rsquant.pack(model, tmp_path / "a.rsq")
        with pytest.raises((ModelError, ExportError), match=line):
            rsquant.export_onnx(model, tmp_path / "a.onnx", 16)
        assert torch.equal(model(x), logits)  # the hook is still there
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "where,name",
    [
        ("", "the network"),
        ("body", "the network"),
        ("body.stem", "stem"),
        ("body.bn", "bn"),
        ("body.middle.input_quantizer", r"middle\.input_quantizer"),
        ("body.fc", "fc"),
    ],
)
def test_so_is_one_on_anything_that_a_file_has_in_another_form(where, name):
    model = converted().eval()
    CHANGING["output"](model.get_submodule(where))
    with pytest.raises(ModelError, match=f"^{name}: has a forward hook"):
        freeze(model, 16)


def test_one_on_another_module_is_exported_and_not_packed(tmp_path):
    model = converted(nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())).eval()
    CHANGING["output"](model.body.middle[1])
    assert rsquant.export_onnx(model, tmp_path / "a.onnx", 16, form="float").passed
    with pytest.raises(PackError, match=r"^middle\.1: has a forward hook .* \(ReLU\)$"):
        rsquant.pack(model, tmp_path / "a.rsq")


class Recorder:
    """Keeps what it sees, with its graph."""

    def __init__(self):
        self.seen = []

    def __call__(self, module, inputs, output):
        self.seen.append(output)

    def unchanged(self, module, inputs, output):
        self.seen.append(output.detach().mean().item())
        return output


@pytest.mark.parametrize("method", ["__call__", "unchanged"])
def test_hooks_that_look_on_change_nothing_of_a_file(method, tmp_path):
    model = converted().eval()
    rsquant.pack(model, tmp_path / "plain.rsq")
    recorders = [Recorder() for _ in model.modules()]
    for module, recorder in zip(model.modules(), recorders, strict=True):
        module.register_forward_hook(getattr(recorder, method))
    model(batches()[0])  # values with a graph in every recorder
    rsquant.pack(model, tmp_path / "hooked.rsq")
    assert (tmp_path / "plain.rsq").read_bytes() == (tmp_path / "hooked.rsq").read_bytes()
    assert rsquant.export_onnx(model, tmp_path / "a.onnx", 16, form="float").passed
    assert recorders[0].seen


def test_a_hook_for_training_only_is_no_hindrance(tmp_path):
    model = converted().eval()
    model.body.middle.register_forward_hook(lambda m, x, y: 2 * y if m.training else None)
    rsquant.pack(model, tmp_path / "a.rsq")
