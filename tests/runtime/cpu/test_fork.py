"""Sessions in children made by fork(), which have none of their threads."""

import gc
import os
import signal
import time
import traceback

import numpy as np

from rsquant.runtime import load


def in_child(act):
    """Whether `act` comes to its end, in a child; one that hangs is ended."""
    child = os.fork()
    if child == 0:
        try:
            act()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def test_a_child_calls_and_lets_go_of_a_session_with_threads(make):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    held = [load(make(stem="imagenet"), threads=3, tune=False)]
    expected = held[0](pixels)
    time.sleep(0.05)  # its threads are asleep

    def let_go():
        held.clear()
        gc.collect()

    def call():
        np.testing.assert_array_equal(held[0](pixels), expected)
        let_go()

    assert in_child(let_go)
    assert in_child(call)
    np.testing.assert_array_equal(held[0](pixels), expected)
