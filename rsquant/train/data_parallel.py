"""One step of several processes: each has the same network and a part of every batch.

After a step all processes hold the same bits of everything that is saved, so the first one's state
is everyone's, and a run continues with any number of processes.

- Gradients are brought together by DistributedDataParallel, while backward runs.
- Statistics of quantizers are those of the whole batch (`quantizers.over_processes`).
- BatchNorms normalise by their process's part, or by the whole batch (`sync_bn`). Running
  statistics become the mean of those of all processes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rsquant.errors import ModelError
from rsquant.nn.norm import switchable_norms
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.process_group import ProcessGroup
from rsquant.quantizers.over_processes import over_processes


class _AllSettings(nn.Module):
    """Its forward is the network's at all settings: one, after which gradients are expected."""

    def __init__(self, network: SwitchableNetwork, device: torch.device) -> None:
        super().__init__()
        self.network = network
        # The search for unused parameters is to find one: DDP warns of a search in vain, from C++.
        self.unused = nn.Parameter(torch.zeros(1, device=device))

    def forward(self, images: Sequence[Tensor], rows: Sequence[int] | None) -> list[Tensor]:
        return self.network.forward_all(images, rows)


def data_parallel(
    network: SwitchableNetwork, device: torch.device, group: ProcessGroup
) -> Callable[[Sequence[Tensor], Sequence[int] | None], list[Tensor]]:
    """`network.forward_all`; of several processes, such that backward averages gradients.

    Parameters become those of the first process.
    """
    if group.world == 1:
        return network.forward_all
    # Weights of 1x1 convolutions have strides that say the same in two ways.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    # Without a search for unused parameters DDP changes the order of its messages after the first
    # step of a process. Sums of three or more would round differently in a run that was continued.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        parallel = DistributedDataParallel(
            _AllSettings(network, device),
            device_ids=[device] if device.type == "cuda" else None,
            broadcast_buffers=False,
            find_unused_parameters=True,
        )
    return parallel


def statistics_of(group: ProcessGroup) -> AbstractContextManager[None]:
    """Take statistics of all processes inside the block."""
    return nullcontext() if group.world == 1 else over_processes()


def average_statistics(network: nn.Module, group: ProcessGroup) -> None:
    """Running statistics of BatchNorms that each process has moved by its own part."""
    if group.world == 1:
        return
    norms = [norm for norm in switchable_norms(network) if norm.training and not norm.synced]
    group.average([t for norm in norms for t in (norm.running_mean, norm.running_var)])


@torch.no_grad()
def check_equal(group: ProcessGroup, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Raise ModelError, in all processes, where a tensor does not have the same bits in all."""
    if group.world == 1:
        return
    names, sums = [], []
    for name, tensor in tensors:
        words = tensor.detach().reshape(-1)
        whole = words.element_size() % 4 == 0
        names.append(name)
        sums.append(words.view(torch.int32 if whole else torch.uint8).sum(dtype=torch.int64).cpu())
    everyone = group.gather(torch.stack(sums).tolist())
    for rank, theirs in enumerate(everyone):
        for name, one, other in zip(names, everyone[0], theirs, strict=True):
            if one != other:
                raise ModelError(
                    f"{name}: differs between process 0 and process {rank}; its layer moves it by "
                    "what its own process sees (a quantizer takes statistics of all with "
                    "`rsquant.quantizers.over_processes`); train it in one process"
                )
