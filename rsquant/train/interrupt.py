"""Ctrl-C that waits for the end of a step, so that the state can be saved."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# A signal again within so many seconds is the same request: `timeout` and others send it to the
# process and then to its group.
SAME_REQUEST = 1.0
_NOTICE = b"\nstopping after this step, the state is saved then; once more: at once\n"


class Interrupt:
    """Whether someone asked to stop."""

    def __init__(self) -> None:
        self.asked = False


@contextmanager
def deferred_interrupt(loud: bool = True) -> Iterator[Interrupt]:
    """Turn SIGINT, SIGTERM or SIGHUP into a flag, and say so; a second one interrupts at once.

    A signal that is ignored stays so, as SIGHUP is under nohup. Outside the main thread, where
    signals cannot be caught, the flag is never set.

    Args:
        loud: whether to say so.
    """
    flag = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    process, since = os.getpid(), 0.0
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal since
        if os.getpid() != process:  # a worker, in the moment before it ignores signals
            return
        if number == getattr(signal, "SIGHUP", None):
            _detach(terminals)
        if flag.asked:
            if time.monotonic() - since < SAME_REQUEST:
                return
            raise KeyboardInterrupt
        flag.asked, since = True, time.monotonic()
        if not loud:
            return
        with suppress(OSError):
            os.write(2, _NOTICE)  # not print: the signal may have come in the middle of one

    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        caught = getattr(signal, name, None)
        if caught is not None and signal.getsignal(caught) is not signal.SIG_IGN:
            before[caught] = signal.signal(caught, handle)
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _detach(terminals: list[int]) -> None:
    """Send what would be written to a terminal that is gone nowhere, where it raises nothing."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in terminals:
            os.dup2(nowhere, descriptor)
        os.close(nowhere)
