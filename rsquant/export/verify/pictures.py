"""Does the preprocessing in a file give what the evaluation gives?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from torch import Tensor

from rsquant.data.transforms import evaluation_crop, normalise, resize
from rsquant.evaluate.images import drawn_pictures
from rsquant.export.engine import run, session
from rsquant.export.graph import IMAGES, LOGITS
from rsquant.export.preprocess import PIXELS

# Of grey values: see `preprocess.HALF`. Ties may fall either way, two levels are rarer than one in
# a million.
_LEVELS, _SHARE = 2, 0.1


def check_preprocessing(
    path: Path,
    resolution: int | None,
    mean: Sequence[float],
    std: Sequence[float],
    pictures: Sequence[Tensor] = (),
    whole: bool = False,
) -> str:
    """Compare the images that a file makes of pictures with those of evaluation.

    Args:
        resolution: of the file; None: it takes pictures at their own size.
        pictures: (3, H, W) uint8; none: two are drawn.
        whole: it makes squares of whole pictures, not of their centre.
    Returns:
        "" if no value is off by more than 2 grey values, and at most 10 % by more than a half;
        else what is wrong.
    Raises:
        ExportError: onnxruntime does not load or run the file.
    """
    proto = onnx.load(str(path))
    if PIXELS not in {i.name for i in proto.graph.input}:
        return f"the file has no input named {PIXELS}"
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(IMAGES))
    engine, plain = session(proto.SerializeToString()), session(path)
    step = 1 / (255 * np.array(std, np.float32).reshape(1, 3, 1, 1))
    for picture in pictures or drawn_pictures():
        if resolution is None:
            cut = picture
        elif whole:
            cut = resize(picture, resolution, resolution)
        else:
            cut = evaluation_crop(picture, resolution)
        wanted = normalise(cut[None], mean, std).numpy()
        pixels = picture.permute(1, 2, 0)[None].contiguous().numpy()
        got, logits = run(engine, pixels, [IMAGES, LOGITS])
        where = f"a picture of {picture.shape[2]} x {picture.shape[1]}"
        if got.shape != wanted.shape:
            return f"{where} becomes {got.shape}, not {wanted.shape}"
        if not np.allclose(run(plain, pixels)[0], logits, rtol=1e-4, atol=1e-4):
            return f"{where} gives other logits when its preprocessed images are read out"
        apart = np.abs(got - wanted) / step
        if apart.max() > _LEVELS + 0.01:
            return f"{where} is off by {apart.max():.1f} grey values"
        if (apart > 0.5).mean() > _SHARE:
            return f"{where} is off by a grey value in {(apart > 0.5).mean():.0%} of its values"
    return ""
