"""Several processes that train together, forked from a test: nothing is imported again."""

import multiprocessing
import os
import socket
import time
import traceback
import warnings

from rsquant.train.distributed import joined


def together(function, world=2, late=None, **environment):
    """What `function(group)` returned in each process, by rank; None where it ended unsaid.

    The process `late` joins some tenths of a second after the others.
    An error in a process is raised here as RuntimeError with the traceback, except one of those
    that `function` is to return itself.
    """
    context = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes, processes = [], []
    for rank in range(world):
        ours, theirs = context.Pipe(duplex=False)
        place = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **environment}
        process = context.Process(target=_one, args=(function, place, theirs, rank == late))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of fork, where there are threads
            process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    results = []
    for pipe in pipes:
        try:
            results.append(pipe.recv())
        except EOFError:
            results.append(("returned", None))
    for process in processes:
        process.join()
    for kind, value in results:
        if kind == "raised":
            raise RuntimeError(value)
    return [value for _, value in results]


def _one(function, place, pipe, late):
    if late:
        time.sleep(0.3)
    os.environ.update({name: str(value) for name, value in place.items()})
    try:
        with joined() as group:
            result = function(group)
        pipe.send(("returned", result))
    except Exception:
        pipe.send(("raised", traceback.format_exc()))
