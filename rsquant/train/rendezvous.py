"""How processes that torchrun started find each other, each time it starts them.

torchrun's store outlives the processes, so it still holds what those before a restart have written:
addresses of processes that are gone, to which new ones would connect for ever. torch 2.15 keeps one
store for all restarts and puts no prefix before their keys (pytorch issue 135712), and the count of
restarts in the environment is each machine's own. So the processes that live agree here on a prefix
that no others have had.
"""

from __future__ import annotations

import secrets
import time
from datetime import timedelta

from torch.distributed import DistStoreError
from torch.distributed.distributed_c10d import PrefixStore, Store

PATIENCE = timedelta(minutes=10)


def fresh_store(store: Store, rank: int, world: int, patience: timedelta = PATIENCE) -> PrefixStore:
    """A part of a store that the living processes of a group have for themselves.

    Each process but the first asks under a word of its own. The first answers whatever words it
    finds, of the living and of the dead, until all living ones have taken its answer.

    Args:
        store: may hold what processes of the same ranks wrote before.
        patience: how long to wait for the others.
    Raises:
        DistStoreError: the others did not come.
    """
    store.set_timeout(patience)
    word = secrets.token_hex(8)
    if rank:
        store.set(f"rsquant/ask/{rank}", word)
        prefix = store.get(f"rsquant/answer/{word}").decode()
        store.set(f"rsquant/taken/{prefix}/{rank}", "")
        return PrefixStore(f"rsquant/{prefix}", store)
    until = time.monotonic() + patience.total_seconds()
    for other in range(1, world):
        while not store.check([f"rsquant/taken/{word}/{other}"]):
            asked = store.get(f"rsquant/ask/{other}").decode()
            store.set(f"rsquant/answer/{asked}", word)
            if time.monotonic() > until:
                raise DistStoreError(f"process {other} did not come")
            time.sleep(0.01)
    return PrefixStore(f"rsquant/{word}", store)
