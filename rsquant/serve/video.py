"""Pictures of a video file or a camera, by OpenCV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from rsquant.decoding import Pixels
from rsquant.errors import DataError
from rsquant.text import one_line

# No system has cameras of more digits, and OpenCV's numbers end at 2**31.
_DIGITS = 6


def frames(name: str) -> Iterator[Pixels]:
    """(H, W, 3) uint8, R G B, one after the other.

    Args:
        name: a video file, camera, or camera:N with the number of a camera, counted from 0.
    Raises:
        DataError: there is no such camera or file, or none of its pictures can be read.
    """
    first, _, number = name.partition(":")
    camera = first == "camera"
    if camera and not (number or "0").isdecimal():
        raise DataError(f"{name}: a camera is named by its number, as camera:0")
    if len(number) > _DIGITS:
        raise DataError(f"{one_line(name)}: there is no such camera")
    if not camera and not Path(name).is_file():
        raise DataError(f"{name}: there is no such file")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    capture = cv2.VideoCapture(int(number or 0) if camera else name)
    try:
        if not capture.isOpened():
            what = "there is no such camera" if camera else "OpenCV cannot read this video"
            raise DataError(f"{name}: {what}")
        seen = 0
        while True:
            there, picture = capture.read()
            if not there:
                break
            seen += 1
            yield np.ascontiguousarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
        if not seen:
            raise DataError(f"{name}: none of its pictures can be read")
    finally:
        capture.release()
