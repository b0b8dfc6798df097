"""BatchNorm statistics of the network as it is now, at every setting, from data.

Statistics that training gathered follow weights that moved meanwhile; those that came with weights
are of other sizes, or of a network without quantizers. An average of some batches with the weights
kept still is that of the network itself.

Source: as `torch.optim.swa_utils.update_bn`; for low-bit networks Sun et al. (arXiv 1910.10699).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from rsquant.errors import ModelError
from rsquant.nn.batch_statistics import normalising_by_batches
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.switchable import SwitchableNetwork


@torch.no_grad()
def reestimate(network: SwitchableNetwork, batches: Iterable[Sequence[Tensor]]) -> int:
    """Replace the statistics of every BatchNorm by their mean over some batches.

    Every row gets those of its own setting; all batches weigh alike. Frozen BatchNorms (in
    evaluation mode, in a network that is in training mode) keep theirs, and nothing but statistics
    changes: weights, bases and modes are as before. Where a batch fails, the statistics are, too.

    Args:
        batches: of each the images at every setting, as `forward_all` takes them: S tensors
            (N, 3, R, R) float32, normalised, largest first, on the network's device. A batch of
            fewer than two images is left out.
    Returns:
        The number of batches that counted.
    Raises:
        ModelError: none did, or images of sizes that are not trained.
    """
    count = 0
    with normalising_by_batches(network) as norms:
        before = [{name: value.clone() for name, value in _statistics(n).items()} for n in norms]
        try:
            for images in batches:
                if len(images[0]) < 2:
                    continue
                count += 1
                for norm in norms:
                    norm.momentum = 1.0 / count
                network.forward_all(images)
            if not count:
                raise ModelError("reestimate: needs a batch of 2 or more images, got none")
        except BaseException:
            for norm, values in zip(norms, before, strict=True):
                for name, value in values.items():
                    _statistics(norm)[name].copy_(value)
            raise
    for norm in norms:
        if norm.momentum is None:  # which goes on averaging from here
            norm.num_batches_tracked.fill_(count)
    return count


def _statistics(norm: SwitchableBatchNorm2d) -> dict[str, Tensor]:
    return {"mean": norm.running_mean, "var": norm.running_var}
