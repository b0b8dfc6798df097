"""Networks that give one prediction per pixel: torch's maps, on every back end, and bad files."""

import copy

import every_operation
import numpy as np
import pytest
import torch
from back_ends import assert_equal_everywhere, packed_file, pixels_of
from shallow import RESNET10
from torch import nn
from torch.nn import functional

import rsquant
from rsquant.data.transforms import normalise
from rsquant.errors import PackError
from rsquant.packed.cascade import CascadeSpec, StageSpec
from rsquant.packed.fields import FieldError
from rsquant.packed.file import checked, open_packed
from rsquant.packed.format import read_packed
from rsquant.packed.plan import MAPS
from rsquant.packed.schema import from_json
from rsquant.packing.grid import on_grid
from rsquant.packing.write import pack


def refinenet(arch=f"refinenet_lw_bn_{RESNET10}"):
    torch.manual_seed(0)
    return rsquant.create(arch, 2, 2, (64, 32), 5, width=2, task="segmentation")


@pytest.mark.parametrize("size", [64, 40])
def test_every_code_and_pixel_is_the_one_torch_gives(compare, pixels, signed_norms, size):
    network = on_grid(signed_norms(refinenet()), "coarse").network
    compared, _, logits = compare(network, pixels(2, size, size))
    assert compared > 10_000
    assert logits.shape == (2, 5, size // 4, size // 4)
    assert logits.std() > 0


def test_a_fusion_is_one_step_with_its_convolution(tmp_path):
    pack(refinenet(), tmp_path / "x.rsq")
    steps = open_packed(tmp_path / "x.rsq").plan.steps
    resized = {step.output for step in steps if step.OP == "resize"}
    added = {step.epilogue.add for step in steps if step.OP == "conv"}
    assert len(resized) == 3 and resized <= added


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["refinenet_resnet18", "refinenet_bn_resnet50"])
def test_full_decoders_too(compare, pixels, signed_norms, arch):
    network = on_grid(signed_norms(refinenet(arch)), "coarse").network
    compare(network, pixels(1, 64, 64))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return every_operation.NETWORKS["pixels"]().eval()


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    return packed_file(network, tmp_path_factory.mktemp("maps"))


def test_heads_are_int8_convolutions_of_the_same_values_everywhere(file, gpu):
    program = assert_equal_everywhere(file, ((32, 32), (19, 26)), gpu)
    assert program.output == (3, 19, 26)
    tensors, metadata = read_packed(file)
    assert {name: t.dtype for name, t in tensors.items() if name.endswith("weight")} == {
        "conv.weight": np.int16,
        "conv2.weight": np.uint8,
        "head.weight": np.int8,
        "other.weight": np.int8,
    }
    assert metadata["version"] == MAPS


def test_logits_are_torch_s_but_for_int8_weights(network, file):
    made = on_grid(network, "coarse").network
    given = torch.from_numpy(pixels_of(2, 32, 32))
    with torch.no_grad():
        expected = made(normalise(given, made.spec.mean, made.spec.std))
    got = torch.from_numpy(rsquant.runtime.load(file, threads=1, tune=False)(given.numpy()))
    # Half of 1/127 of the largest weight in each of two sums of at most 63 products.
    assert (got - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize("size", [None, (13, 50)])
def test_maps_and_masks_of_any_size(file, gpu, size):
    given = pixels_of(2, 16, 24)
    session = rsquant.runtime.load(file, threads=1, tune=False)
    logits = torch.from_numpy(session(given))
    wanted = size or (16, 24)
    expected = functional.interpolate(logits, wanted, mode="bilinear").numpy()
    from rsquant.runtime.gpu import GpuSession

    on_gpu = GpuSession(open_packed(file), str(gpu), False, True, 1)
    for of in (session, on_gpu):
        maps, masks = of.maps(given, size), of.masks(given, size)
        assert masks.dtype == np.uint8 and masks.shape == (2, *wanted)
        # Some roundings of float32 each.
        np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        top = np.sort(expected, 1)
        clear = top[:, -1] - top[:, -2] > 1e-4 * np.abs(expected).max()
        np.testing.assert_array_equal(masks[clear], expected.argmax(1)[clear])
    tensor = on_gpu.masks(torch.from_numpy(given).to(gpu), size)
    np.testing.assert_array_equal(tensor.cpu().numpy(), on_gpu.masks(given, size))


def test_masks_of_more_than_256_classes_are_uint16():
    from rsquant.runtime.maps import likeliest

    logits = np.zeros((1, 300, 1, 1), np.float32)
    logits[0, 280] = 1
    masks = likeliest(logits, (2, 2))
    assert masks.dtype == np.uint16 and (masks == 280).all()


def test_a_network_of_whole_images_has_no_masks(tmp_path):
    torch.manual_seed(0)
    pack(rsquant.create(RESNET10, 2, 2, (32,), 3, width=2), tmp_path / "x.rsq")
    session = rsquant.runtime.load(tmp_path / "x.rsq", threads=1, tune=False)
    with pytest.raises(rsquant.errors.ModelError, match="masks: this network gives logits"):
        session.masks(pixels_of(1, 32, 32))
    assert not session.gives_maps


@pytest.mark.parametrize("size", [(0, 3), (3, 65537), 5, (1, 2, 3), (4.0, 4), ("4", "4"), ()])
def test_a_size_that_is_none_is_refused(file, size):
    session = rsquant.runtime.load(file, threads=1, tune=False)
    for call in (session.maps, session.masks):
        with pytest.raises(ValueError, match="size: must be height and width, each 1 to 65536"):
            call(pixels_of(1, 32, 32), size)


def test_a_size_may_be_of_numpy(file):
    session = rsquant.runtime.load(file, threads=1, tune=False)
    assert session.masks(pixels_of(1, 32, 32), np.array([5, 6])).shape == (1, 5, 6)


def test_float_weights_before_the_head_are_refused(network, tmp_path):
    changed = copy.deepcopy(network)
    changed.body.conv2 = nn.Conv2d(5, 7, 3, 1, 1)
    with pytest.raises(PackError, match="conv2: has float32 weights in the middle"):
        pack(changed, tmp_path / "x.rsq")


def older(tensors, metadata):
    metadata["version"] = MAPS - 1


def without_heads(tensors, metadata):
    """Maps of low-bit weights alone, which need the version as well."""
    older(tensors, metadata)
    steps = [step for step in metadata["steps"] if step["name"] in ("conv", "conv2")]
    metadata["steps"] = steps
    for name in [name for name in tensors if name.startswith(("head", "other"))]:
        del tensors[name]


def beyond(tensors, metadata):
    tensors["head.weight"] = tensors["head.weight"].copy()
    tensors["head.weight"].flat[0] = -128


def other_shape(tensors, metadata):
    tensors["other.weight"] = tensors["other.weight"].reshape(3, 5, 1, 1)


def other_classes(tensors, metadata):
    metadata["model"]["num_classes"] = 2


def with_cascade(tensors, metadata):
    spec = CascadeSpec((StageSpec(24, 0.5), StageSpec(32, None)), 0, "x", 4, 0.5, 1.0, ())
    from rsquant.packed.ops.base import as_json

    metadata["cascade"] = as_json(spec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (older, rf"'(head|other).weight' of int8 is known from version {MAPS} of the format on"),
        (without_heads, rf"the last step must be a linear one before version {MAPS} of the format"),
        (beyond, r"'head.weight' has values beyond 127 in size"),
        (other_shape, r"'other.weight' must be int8 \(3, 1, 1, 5\), is int8 \(3, 5, 1, 1\)"),
        (other_classes, r"the last value must be a float one of 2 channels, the classes, is float"),
        (with_cascade, r"cascade: is of logits of whole images, but these are maps"),
    ],
)
def test_files_that_do_not_fit_are_refused(file, tmp_path, change, message):
    tensors, metadata = read_packed(file)
    change(tensors, metadata)
    with pytest.raises(FieldError, match=message):
        checked(tmp_path / "x.rsq", from_json(metadata), tensors)
