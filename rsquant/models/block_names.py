"""Which layers of a pre-activation ResNet are those of a post-activation one.

    post     conv1 bn1 relu conv2 bn2 (+ shortcut) relu
    preact   (norm relu) conv1 [act2: norm relu] conv2 bn (+ shortcut)

So the BatchNorm of `act2` is `bn1`, `bn` is the last one of the branch, and a shortcut's layers are
those of `downsample`. The BatchNorm in front of a block's first convolution has no counterpart.
"""

from __future__ import annotations

import re

_BLOCK = re.compile(r"(layer\d+\.\d+)\.(.+)")


def other_names(name: str, bottleneck: bool) -> tuple[str, ...]:
    """The names of a tensor of a block in other kinds of block; none for what is in no block."""
    found = _BLOCK.fullmatch(name)
    if found is None:
        return ()
    block, rest = found.groups()
    last = "bn3" if bottleneck else "bn2"
    # In words of each kind: post, preact, preact-bare.
    alike = [
        ("downsample.0.", "shortcut.0.", "shortcut."),
        ("downsample.1.", "shortcut.1."),
        ("bn1.", "act2.0."),
        (f"{last}.", "bn."),
    ]
    if bottleneck:
        alike.append(("bn2.", "act3.0."))
    for group in alike:
        for prefix in group:
            part = rest.removeprefix(prefix)
            # "shortcut.weight" is bare; "shortcut.0.weight" is not.
            if part != rest and (prefix != "shortcut." or not part[0].isdigit()):
                return tuple(f"{block}.{other}{part}" for other in group if other != prefix)
    return ()
