"""Options of `rsquant train` that say what images it sees: the section `data` of a run."""

from __future__ import annotations

import click

from rsquant import choices
from rsquant.cli.options import DATA as SET
from rsquant.cli.options import Share

# Their names are keys of the configuration, but for --data, its `source`.
DATA: list[click.Parameter] = [
    click.Option(
        ["--data"],
        type=SET,
        help="ImageFolder directory (train/ and val/), torchvision:NAME, shapes, or WebDataset "
        "shards: a directory with train-*.tar and val-*.tar, or a pattern like "
        "'DIR/{train-{000..146},val-{00..06}}.tar', also of http(s) addresses; of segmentation a "
        "directory of images and label files. With --resume: where the run's set is now.",
    ),
    click.Option(
        ["--workers"],
        type=int,
        help="Processes that load images.",
    ),
    click.Option(
        ["--crop"],
        type=click.Choice(choices.CROPS),
        help="single: one crop resized to all sizes; multi: a crop per size.",
    ),
    click.Option(
        ["--area"],
        type=Share(),
        help="Range of the cropped share of an image: 0.08,1.",
    ),
    click.Option(
        ["--flip/--no-flip"],
        default=None,
        help="Mirror half of the crops.",
    ),
    click.Option(
        ["--augment"],
        type=click.Choice(choices.AUGMENTATIONS),
        help="Change each crop by one of torchvision's augmentations, the same at all sizes.",
    ),
    click.Option(
        ["--train-images"],
        type=int,
        help="Use this many training images.",
    ),
    click.Option(
        ["--val-images"],
        type=int,
        help="Use this many validation images.",
    ),
]
