"""One BatchNorm for all settings, in training: what private ones are compared with.

The tables keep a row per setting, all of them equal, so that everything that reads a network reads
this one. Source: RS-Nets (arXiv 2007.09558), section 4.3 and figure 4, left.
"""

from __future__ import annotations

import torch
from torch import nn

from rsquant.nn.norm import switchable_norms


def share_norms(network: nn.Module) -> None:
    """Have every setting use and move the first row of all BatchNorms."""
    for norm in switchable_norms(network):
        norm.shared = True


@torch.no_grad()
def copy_first_row(network: nn.Module) -> None:
    """Make all rows of all BatchNorms the first one, after it moved."""
    for norm in switchable_norms(network):
        for table in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            table[1:] = table[:1]
        if norm.momentum is None:
            norm.num_batches_tracked[1:] = norm.num_batches_tracked[:1]
