"""A small set of images with label files, in the layout of CamVid."""

import numpy as np
from PIL import Image

CLASSES = ("Sky", "Road", "Unlabelled(ignore)", "Car")


def numbers(i, height=36, width=48):
    """The label file of image i: four quarters, of numbers 0 to 3."""
    quarters = np.kron(np.roll(np.arange(4), i).reshape(2, 2), np.ones((height // 2, width // 2)))
    return quarters.astype(np.uint8)


def write_set(folder, train=4, val=2, **sizes):
    """Write the set; image i shows its labels, as levels of 60 times the number."""
    for name in ("images", "labels", "splits"):
        (folder / name).mkdir(parents=True)
    names = [f"frame_{i}" for i in range(train + val)]
    for i, name in enumerate(names):
        labels = numbers(i, **sizes)
        Image.fromarray(labels).save(folder / "labels" / f"{name}.png")
        Image.fromarray(labels * 60).convert("RGB").save(folder / "images" / f"{name}.png")
    (folder / "splits" / "train.txt").write_text("\n".join(names[:train]) + "\n")
    (folder / "splits" / "val.txt").write_text("\n".join(names[train:]))
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return folder
