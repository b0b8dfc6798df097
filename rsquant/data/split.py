"""What a data set is to the rest of rsquant: two splits of labelled images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

# In maps of classes: what a pixel has whose class nobody says.
IGNORED = 255


class Split(Protocol):
    """A sequence of labelled images. Cheap to copy into a worker process."""

    def __len__(self) -> int: ...

    def label(self, i: int) -> Any:
        """What the task is told of image i; of classification: its class's position in
        `Source.classes`. One that is read from a file may raise UnreadableImage too."""

    def name(self, i: int) -> str:
        """What to call image i in a message: its path, where it has one."""

    def image(self, i: int, min_side: int | None = None) -> Tensor:
        """(3, H, W) uint8. `min_side`: see `images.decode`. Raises UnreadableImage."""


@dataclass(frozen=True)
class Source:
    """Labelled images to train on and to validate on, over the same classes.

    Attributes:
        place: what finds it again from any folder: a resolved path, "torchvision:NAME" or "shapes".
        fingerprint: of the names in it (see `data.identity`), also of what a limit leaves out; ""
            for the generated set.
        note: what the user should know about it, in a line; "" where there is nothing.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    note: str = ""
    place: str = ""
    fingerprint: str = ""
