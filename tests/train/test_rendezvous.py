"""Processes that torchrun starts again meet each other, not what is left of those before."""

import os
import threading
import time
from datetime import timedelta

import pytest
from processes import together
from torch.distributed import DistStoreError, HashStore, TCPStore

from rsquant.errors import PeerError
from rsquant.train.distributed import joined
from rsquant.train.rendezvous import fresh_store


def parts_of(store, world, late=None):
    """What each process of a start has of a store, by rank; `late` asks after all others."""
    parts = [None] * world

    def ask(rank):
        if rank == late:
            time.sleep(0.1)
        parts[rank] = fresh_store(store, rank, world, timedelta(seconds=20))

    threads = [threading.Thread(target=ask, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return parts


@pytest.mark.parametrize("late", [0, 1, 2])
def test_every_start_has_a_part_of_the_store_of_its_own(late):
    store = HashStore()
    for start in range(3):
        parts = parts_of(store, 3, late if start else None)
        assert not any(part.check(["address"]) for part in parts)
        parts[late].set("address", str(start))
        assert [part.get("address") for part in parts] == [str(start).encode()] * 3


def test_a_process_that_does_not_come_ends_the_wait():
    for rank in (0, 1):
        with pytest.raises(DistStoreError):
            fresh_store(HashStore(), rank, 2, timedelta(seconds=0.05))
    store = HashStore()  # of a process 1 that is gone
    store.set("rsquant/ask/1", "of one that is gone")
    with pytest.raises(DistStoreError, match="process 1 did not come"):
        fresh_store(store, 0, 2, timedelta(seconds=0.05))


@pytest.mark.parametrize("late", [0, 1])
def test_processes_that_are_started_again_join_whoever_is_late(late):
    """torch alone connects to the address of the process that is gone, and waits for it."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    agent = {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_PORT": store.port}

    def sum_of(group):
        return group.sum(1.0)

    def killed(group):
        group.sum(1.0)
        os._exit(9)

    assert together(killed, **agent) == [None, None]
    results = together(sum_of, late=late, **agent)
    assert results == [[2.0], [2.0]]


def test_a_place_where_nobody_is_is_named(monkeypatch):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with (
        pytest.raises(PeerError, match=r"process 1 of 2 could not join the others at 127"),
        joined(),
    ):
        pass
