"""Work on another thread while this one goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")


@contextlib.contextmanager
def beside(work: Callable[[], Result]) -> Iterator[list[Result]]:
    """Call `work` on another thread while the block of a `with` statement runs.

    It gains time where `work` holds no lock of the interpreter, as compiled code. (The standard
    library's executors take longer to import than what they would save when a file is loaded.)

    Where no thread can be started, it is called before the block.

    Yields:
        a list, which what `work` returned is in behind the block.
    Raises:
        what `work` raised, unless the block raised something.
    """
    results, errors = list[Result](), list[BaseException]()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # to the thread that waits for it
            errors.append(error)

    thread = Thread(target=run)
    try:
        thread.start()
    except RuntimeError:  # no more threads to be had
        run()
    try:
        yield results
    finally:
        if thread.ident is not None:  # it was started
            thread.join()
    if errors:
        raise errors[0]
