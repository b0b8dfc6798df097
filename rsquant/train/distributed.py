"""Training in the processes that torchrun starts: joining them, what must be alike, their ends.

torchrun tells each process its place by the environment: RANK, WORLD_SIZE, LOCAL_RANK and others.
Without it a process trains alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import distributed
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

import rsquant.version
from rsquant import config as configs
from rsquant.atomic import replacing
from rsquant.config import RunConfig
from rsquant.data.ranks import check_world
from rsquant.data.split import Source
from rsquant.errors import ConfigError, PeerError, RsquantError
from rsquant.process_group import ALONE, ProcessGroup, lost_peer
from rsquant.runs import CONFIG
from rsquant.train.rendezvous import PATIENCE, fresh_store

# Says which launch by torchrun trains in a folder.
LAUNCH = ".launch"
# How long a process that fails waits for a better word on it, in seconds: of the first process,
# which says what all would, or of the one whose end the others see.
_FOR_FIRST, _FOR_PEER = 1.0, 5.0
_CLAIM = "rsquant/failed"


class Unsaid(SystemExit):
    """The end of a process whose error another process tells."""


@contextmanager
def joined() -> Iterator[ProcessGroup]:
    """The group that torchrun made this process part of; `ALONE` without it.

    Of an error that several processes have only one is raised as it is: the others end with
    `Unsaid`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        yield ALONE
        return
    store, rank, world = _initialised()
    try:
        yield ProcessGroup(rank, world)
    except KeyboardInterrupt:
        if rank:
            raise Unsaid(130) from None
        raise
    except Exception as error:
        lost = lost_peer(error)
        if not _says(store, rank, _FOR_PEER if lost else _FOR_FIRST if rank else 0.0):
            raise Unsaid(2) from error
        told = lost or error
        if rank and lost is None and isinstance(error, RsquantError):
            told = type(error)(f"process {rank}: {error}")
        _tell_launcher(str(told))
        raise told from (None if told is error else error)
    finally:
        # Nothing is left to say; a peer that is gone cannot answer.
        with suppress(Exception):
            distributed.destroy_process_group()


def _initialised() -> tuple[Store, int, int]:
    """A store for the processes of this start alone, and this one's place; the group is there."""
    try:
        store, rank, world = next(rendezvous("env://", timeout=PATIENCE))
        store = fresh_store(store, rank, world)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=world)
    except (distributed.DistError, RuntimeError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise PeerError(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} could not join the others "
            f"at {where}: {error}"
        ) from error
    return store, rank, world


def _says(store: Store, rank: int, patience: float) -> bool:
    """Whether this process is the one that tells of the end; another may, within some seconds."""
    try:
        if patience:
            with suppress(distributed.DistError, RuntimeError):
                store.wait([_CLAIM], timedelta(seconds=patience))
                return False
        return bool(store.add(_CLAIM, 1) == 1)
    except (
        distributed.DistError,
        RuntimeError,
    ):  # the store was the first process's, which is gone
        return True


def _tell_launcher(line: str) -> None:
    """What torchrun has in its summary of failures, in place of how to see a traceback."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        told = {"message": line, "extraInfo": {"timestamp": str(int(time.time()))}}
        with suppress(OSError):
            Path(path).write_text(json.dumps({"message": told}))


def device_name(name: str, group: ProcessGroup) -> str:
    """The device of this process: of several on a machine each has its own.

    Raises:
        ConfigError: there are fewer devices than processes, or one is named for all.
    """
    if group.world == 1 or name == "cpu" or not torch.cuda.is_available():
        return name
    if name not in ("auto", "cuda"):
        raise ConfigError(
            f"device: '{name}' is one device, but each of {group.world} processes needs its own; "
            "use 'cuda' or 'cpu'"
        )
    local, devices = int(os.environ.get("LOCAL_RANK", group.rank)), torch.cuda.device_count()
    if local >= devices:
        raise ConfigError(
            f"device: process {group.rank} is number {local + 1} on its machine, which has "
            f"{devices} CUDA device{'s' if devices > 1 else ''}; start at most {devices} there"
        )
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def check_batch(config: RunConfig, group: ProcessGroup) -> None:
    """Raise ConfigError for a batch that the processes cannot do together."""
    batch, world = config.train.batch, group.world
    check_world(batch, group.rank, world)
    if world > 1 and batch // world < 2:
        raise ConfigError(
            f"batch: {batch} images of {world} processes leave one to each, and BatchNorm needs 2 "
            f"or more; use {2 * world} or more, or fewer processes"
        )
    if world > 1 and config.train.accumulate > batch // world // 2:
        raise ConfigError(
            f"accumulate: must leave 2 images or more to a part of the {batch // world} images of "
            f"each process, so at most {batch // world // 2}, got {config.train.accumulate}"
        )


def check_synced(config: RunConfig, group: ProcessGroup) -> None:
    """Raise ConfigError for statistics of several processes where there is one."""
    if config.train.sync_bn and group.world == 1:
        raise ConfigError(
            "sync_bn: is of several processes, and this is one; leave it out, or start more with "
            "torchrun"
        )


def check_alike(group: ProcessGroup, config: RunConfig, source: Source) -> None:
    """Raise ConfigError, in every process, where processes have other code, settings or data."""
    if group.world == 1:
        return
    everyone = group.gather(_identity(config, source))
    first = everyone[0]
    for rank, own in enumerate(everyone):
        for what, value in own.items():
            if value != first[what]:
                where = os.environ.get("GROUP_WORLD_SIZE", "1") != "1"
                machine = f" on {own['machine']}" if where else ""
                if what == "machine":
                    continue
                raise ConfigError(
                    f"process {rank}{machine} has {what} {value}, process 0 has {first[what]}; "
                    "all must have the same"
                )


def _identity(config: RunConfig, source: Source) -> dict[str, str]:
    """What must be alike, by its name for the user."""
    plain = configs.to_dict(config)
    for section, key in (("data", "source"), ("data", "workers"), ("train", "device")):
        del plain[section][key]
    settings = {
        f"{section}.{key}": repr(value)
        for section, keys in plain.items()
        for key, value in keys.items()
    }
    data = hashlib.sha256(repr((source.classes, len(source.train), len(source.val))).encode())
    return {
        "machine": os.uname().nodename,
        "rsquant": rsquant.version.__version__,
        "torch": torch.__version__,
        "rsquant code": code_fingerprint(),
        **settings,
        "a data set": f"{source.fingerprint or source.name} of {len(source.train)} training and "
        f"{len(source.val)} validation images ({data.hexdigest()[:8]})",
    }


def code_fingerprint() -> str:
    """8 hexadecimal digits of the package's Python files."""
    digest = hashlib.sha256()
    root = Path(rsquant.version.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def seed_step(group: ProcessGroup, seed: int, epoch: int, step: int) -> None:
    """Have what a step draws follow from where it is and in which process.

    So it is in no process's state, and differs between processes.
    """
    if group.world > 1:
        sequence = np.random.SeedSequence([seed, epoch, step, group.rank])
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


@contextmanager
def files_of_first(group: ProcessGroup, run: Path, names: tuple[str, ...]) -> Iterator[Path]:
    """A folder with these files of a run, which the first process alone may be able to read."""
    if group.world == 1:
        yield run
        return

    def content(name: str) -> bytes:
        # A byte in front tells an empty file from none.
        return b"+" + (run / name).read_bytes() if (run / name).is_file() else b""

    with tempfile.TemporaryDirectory() as name_of_copy:
        for name in names:
            data = group.bytes_of_first(lambda name=name: content(name))  # type: ignore[misc]
            if data:
                (Path(name_of_copy) / name).write_bytes(data[1:])
        yield run if group.is_first else Path(name_of_copy)


def launch() -> str:
    """What is the same in all restarts of one launch by torchrun and in no other; "" without it."""
    run_id = os.environ.get("TORCHELASTIC_RUN_ID", "")
    # Without --rdzv-id all launches are called none; the launcher lives on when it restarts.
    return f"{run_id} {os.getppid()}" if run_id == "none" else run_id


def check_restartable(name: str | None) -> None:
    """Raise ConfigError for a run that could not be found again when torchrun restarts it."""
    if name is None and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
        raise ConfigError(
            "name: a run that torchrun may restart must have one, to be continued by; "
            "add `name`, or leave out --max-restarts"
        )


def mark_launch(run: Path) -> None:
    """Note in a run's folder who trains there, if a restart may have to know."""
    if launch():
        with replacing(run / LAUNCH) as temporary:
            temporary.write_text(launch())


def restarted_in(run: Path) -> bool:
    """Whether this is a restart by torchrun of the training in a folder, or of its beginnings."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0:
        return False
    try:
        return (run / LAUNCH).read_text() == launch()
    except (OSError, ValueError):
        # Ended between making the folder and saying whose it is.
        return run.is_dir() and not any(run.iterdir())


def can_continue(run: Path) -> bool:
    """Whether a restarted training got as far as its settings."""
    return (run / CONFIG).is_file()
