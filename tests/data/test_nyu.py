"""NYUDv2 from a small file of the published structure."""

import pickle

import numpy as np
import pytest

from rsquant.data.map_sets import open_maps
from rsquant.data.split import IGNORED
from rsquant.errors import DataError

h5py = pytest.importorskip("h5py", reason="needs the extra nyu")
io = pytest.importorskip("scipy.io", reason="needs the extra nyu")

HEIGHT, WIDTH = 4, 6


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, HEIGHT, WIDTH, 3), np.uint8)
    labels = rng.integers(0, 7, (5, HEIGHT, WIDTH)).astype(np.uint16)
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = images.transpose(0, 3, 2, 1)
        file["labels"] = labels.transpose(0, 2, 1)
    names = np.array([["wall", "floor", "other prop"]], dtype=object)
    mapping = {"mapClass": np.array([[3, 1, 3, 2, 2, 1]], np.uint8), "className": names}
    io.savemat(tmp_path / "classMapping40.mat", mapping)
    parts = {"trainNdxs": np.array([[1], [4], [5]]), "testNdxs": np.array([[2], [3]])}
    io.savemat(tmp_path / "splits.mat", parts)
    return tmp_path, images, labels


def test_images_and_classes_are_upright_and_of_the_published_split(folder):
    place, images, labels = folder
    source = open_maps(str(place))
    assert source.classes == ("wall", "floor", "other prop") and source.name == "NYUDv2"
    assert (len(source.train), len(source.val)) == (3, 2)
    table = np.array([IGNORED, 2, 0, 2, 1, 1, 0])
    for split, indices in ((source.train, (0, 3, 4)), (source.val, (1, 2))):
        for i, index in enumerate(indices):
            assert np.array_equal(split.image(i).permute(1, 2, 0).numpy(), images[index])
            assert np.array_equal(split.label(i).numpy(), table[labels[index]])
    copy = pickle.loads(pickle.dumps(source.val))
    assert copy.name(1).endswith("nyu_depth_v2_labeled.mat[3]")
    assert np.array_equal(copy.label(1), source.val.label(1))
    assert len(open_maps(str(place), 2, 1).train) == 2


def test_labels_without_a_class_and_small_images_are_told_before_training(folder):
    with h5py.File(folder[0] / "nyu_depth_v2_labeled.mat", "r+") as file:
        file["labels"][2, 1, 3] = 9
    source = open_maps(str(folder[0]))
    source.train.check(HEIGHT)
    with pytest.raises(DataError, match=r"labeled.mat\[3\] has the label 9 at row 3, column 1"):
        source.val.check(HEIGHT)
    with pytest.raises(DataError, match=r"labeled.mat\[2\] is 6x4 pixels, and the network needs 5"):
        source.val.check(5)


def test_a_part_without_a_pixel_of_a_class_is_refused(folder):
    place = folder[0]
    with h5py.File(place / "nyu_depth_v2_labeled.mat", "r+") as file:
        file["labels"][1:3] = 0
    source = open_maps(str(place))
    assert source.train.check(HEIGHT).sum() == (folder[2][[0, 3, 4]] > 0).sum()
    with pytest.raises(DataError, match=r"labeled.mat\[2\] and all 2 label maps of this part have"):
        source.val.check(HEIGHT)


def test_more_damaged_labels_than_the_loader_skips_are_told_before_training(folder):
    place = folder[0]
    # A chunk of each map, and bytes of the first that are no compressed ones.
    with h5py.File(place / "nyu_depth_v2_labeled.mat", "r+") as file:
        del file["labels"]
        maps = folder[2].transpose(0, 2, 1)
        maps = file.create_dataset("labels", data=maps, chunks=(1, WIDTH, HEIGHT), compression=1)
        maps.id.write_direct_chunk((0, 0, 0), b"no bytes of zlib")
    with pytest.raises(DataError, match=r"1 of 3 label maps .*labeled.mat\[1\]: labels: "):
        open_maps(str(place)).train.check(HEIGHT)


@pytest.mark.parametrize(
    "file,variables,message",
    [
        ("splits.mat", None, "but no splits.mat"),
        ("splits.mat", {"trainNdxs": [[9]], "testNdxs": [[1]]}, "must name images of 1 to 5"),
        ("splits.mat", {"testNdxs": [[1]]}, "has no variable trainNdxs"),
        ("classMapping40.mat", {"mapClass": [[4]], "className": ["a"]}, "numbers of 1 to 1 cl"),
    ],
)
def test_files_that_do_not_fit_are_refused(folder, file, variables, message):
    place = folder[0]
    (place / file).unlink()
    if variables is not None:
        io.savemat(place / file, variables)
    with pytest.raises(DataError, match=message):
        open_maps(str(place))


def test_other_files_are_refused(folder):
    place = folder[0]
    (place / "nyu_depth_v2_labeled.mat").write_bytes(b"no HDF5")
    with pytest.raises(DataError, match="is damaged, or another file"):
        open_maps(str(place))
    (place / "splits.mat").write_bytes(b"nothing")
    with pytest.raises(DataError, match="is no MATLAB file of version 5"):
        open_maps(str(place))
