"""Images to calibrate and to measure parity on: of the right split, cut as evaluation cuts them."""

import numpy as np
import pytest
import torch
from PIL import Image
from shallow import RESNET10

import rsquant
from rsquant import runs
from rsquant.config import RunConfig, dump_yaml
from rsquant.data.shapes import CLASSES, SIDE, shapes_source
from rsquant.data.transforms import evaluation_crop, normalise
from rsquant.errors import DataError
from rsquant.evaluate.images import calibration_images, pictures, validation_images
from rsquant.nn import ModelSpec
from rsquant.runs import Checkpoint

SIZES = (48, 32)
SEED = 7  # of the run's own data; generated images have 0

of_both = pytest.mark.parametrize(
    ("images_of", "split"), [(calibration_images, "train"), (validation_images, "val")]
)


def spec(num_classes=5, classes=()):
    return ModelSpec("resnet18", 2, 2, SIZES, num_classes, width=8, classes=classes)


def change(checkpoint, old, new):
    config = checkpoint.run / runs.CONFIG
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A run on the generated set of another seed."""
    monkeypatch.chdir(tmp_path)
    folder = runs.RUNS / "mine"
    folder.mkdir(parents=True)
    (folder / runs.CONFIG).write_text(dump_yaml(RunConfig()))
    network = rsquant.create(RESNET10, 2, 2, SIZES, 5, width=8)
    rsquant.save(network, folder / runs.BEST)
    found = runs.resolve()
    change(found, "seed: 0", f"seed: {SEED}")
    return found


@pytest.fixture
def photographs(tmp_path):
    """Two classes of images of several sizes, one gray per split and class, one file broken."""
    for split, base in (("train", 10), ("val", 60)):
        for i, name in enumerate(("cat", "dog")):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for j, (height, width) in enumerate([(40, 70), (65, 50), (64, 64)]):
                pixels = np.full((height, width, 3), base + 20 * i + j, np.uint8)
                Image.fromarray(pixels).save(folder / f"{j}.png")
    (tmp_path / "data" / "val" / "cat" / "1.png").write_bytes(b"no image")
    return str(tmp_path / "data")


def grays(images, spec):
    """The gray of each image of one colour, from normalised values."""
    mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
    return ((images.mean((2, 3)) * std + mean) * 255).round().int().tolist()


def cut(split, count, size, spec):
    """Centres of a split's first images, normalised."""
    return normalise(
        torch.stack([evaluation_crop(split.image(i), size) for i in range(count)]),
        spec.mean,
        spec.std,
    )


@of_both
def test_images_are_centres_of_the_runs_own_split(checkpoint, images_of, split):
    found = images_of(spec(), SIZES, 5, checkpoint)
    expected = getattr(shapes_source(SEED), split)
    assert list(found.at) == list(SIZES)
    for size in SIZES:
        assert torch.equal(found.at[size], cut(expected, 5, size, spec()))


def test_no_image_is_of_both_splits(checkpoint):
    calibration = calibration_images(spec(), (32,), 6, checkpoint).at[32]
    validation = validation_images(spec(), (32,), 6, checkpoint).at[32]
    assert not any(torch.equal(a, b) for a in calibration for b in validation)


@of_both
def test_without_a_run_images_are_generated(images_of, split):
    found = images_of(spec(), (32,), 3)
    assert torch.equal(found.at[32], cut(getattr(shapes_source(0), split), 3, 32, spec()))
    assert found.source == "3 generated images"


@of_both
def test_a_checkpoint_outside_a_run_gets_generated_images_and_the_reason(
    checkpoint, images_of, split
):
    alone = Checkpoint(checkpoint.path, None)
    found = images_of(spec(), (32,), 2, alone)
    assert found.source == (
        f"2 generated images ({checkpoint.path} is not in a run folder, so its data set "
        "is not known)"
    )
    assert torch.equal(found.at[32], cut(getattr(shapes_source(0), split), 2, 32, spec()))


@of_both
def test_a_named_source_takes_the_place_of_the_runs(checkpoint, photographs, images_of, split):
    found = images_of(spec(2), (32,), 4, checkpoint, photographs)
    base = {"train": 10, "val": 60}[split]
    # Evenly over the classes, evenly spaced in each; the broken one was not among them.
    expected = [base, base + 1, base + 20, base + 21]
    if split == "val":
        expected.remove(base + 1)
    assert grays(found.at[32], spec()) == [[gray] * 3 for gray in expected]


@of_both
def test_the_source_is_named_with_the_number_of_images(checkpoint, images_of, split):
    kind = {"train": "training", "val": "validation"}[split]
    assert images_of(spec(), (32,), 3, checkpoint).source == f"3 {kind} images of shapes"


@of_both
def test_a_run_that_used_fewer_images_gives_no_others(checkpoint, images_of, split):
    change(checkpoint, f"{split}_images: null", f"{split}_images: 3")
    found = images_of(spec(), (32,), 5, checkpoint)
    assert torch.equal(found.at[32], cut(getattr(shapes_source(SEED), split), 3, 32, spec()))


@of_both
def test_another_normalisation_is_the_networks(checkpoint, images_of, split):
    plain = ModelSpec("resnet18", 2, 2, SIZES, 5, mean=(0.0,) * 3, std=(1.0,) * 3)
    found = images_of(plain, (32,), 2, checkpoint).at[32]
    pixels = torch.stack(
        [evaluation_crop(getattr(shapes_source(SEED), split).image(i), 32) for i in range(2)]
    )
    assert torch.equal((found * 255).round().to(torch.uint8), pixels)


# Labels.


@of_both
@pytest.mark.parametrize(
    ("network", "fit"),
    [
        (spec(12, CLASSES), True),
        (spec(12), True),
        (spec(12, CLASSES[::-1]), False),
        (spec(5, CLASSES[:5]), False),
        (spec(5), False),
        (spec(13), False),
    ],
    ids=["same names", "same number", "other order", "fewer names", "fewer", "more"],
)
def test_labels_are_there_where_the_classes_are_the_networks(
    checkpoint, images_of, split, network, fit
):
    found = images_of(network, (32,), 14, checkpoint)
    assert labels(found) == ([*range(12), 0, 1] if fit else None)


def labels(found):
    return None if found.labels is None else found.labels.tolist()


@of_both
def test_generated_images_have_labels_only_by_name(images_of, split):
    # Twelve classes of something else are as many as there are shapes.
    assert images_of(spec(12), (32,), 2).labels is None
    assert labels(images_of(spec(12, CLASSES), (32,), 2)) == [0, 1]


def test_unreadable_images_take_their_labels_with_them(photographs):
    found = validation_images(spec(2, ("cat", "dog")), (32,), 6, data=photographs)
    assert labels(found) == [0, 0, 1, 1, 1] and len(found.at[32]) == 5
    assert found.source.startswith("5 validation images")


def test_a_split_without_a_readable_image_is_an_error(photographs, tmp_path):
    for path in (tmp_path / "data" / "val").glob("*/*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"data: none of the 6 images of .* is readable"):
        validation_images(spec(2), (32,), 6, data=photographs)
    assert len(calibration_images(spec(2), (32,), 6, data=photographs).at[32]) == 6


@of_both
def test_a_source_that_was_named_must_open(checkpoint, images_of, split):
    with pytest.raises(DataError, match="'/nowhere' is not a folder"):
        images_of(spec(), (32,), 2, checkpoint, "/nowhere")


# Pictures.


def test_pictures_are_validation_images_as_they_are(checkpoint):
    found = pictures(3, checkpoint)
    expected = shapes_source(SEED).val
    assert len(found) == 3
    for i, picture in enumerate(found):
        assert picture.dtype == torch.uint8 and picture.shape == (3, SIDE, SIDE)
        assert torch.equal(picture, expected.image(i))


def test_pictures_keep_their_sizes_and_unreadable_ones_are_left_out(photographs):
    found = pictures(6, data=photographs)
    shapes = [(40, 70), (64, 64), (40, 70), (65, 50), (64, 64)]
    assert [tuple(picture.shape) for picture in found] == [(3, *shape) for shape in shapes]
    assert [int(picture.unique()) for picture in found] == [60, 62, 80, 81, 82]


def test_pictures_without_a_run_are_generated():
    (found,) = pictures(1)
    assert torch.equal(found, shapes_source(0).val.image(0))
