"""Signals while a network trains: said at once, obeyed after the step, whoever they reach."""

import os
import signal
import subprocess
import sys
import threading

import pytest
import torch.utils.data

from rsquant.data.loader import evaluation_batches
from rsquant.data.shapes import shapes_source
from rsquant.train import interrupt
from rsquant.train.interrupt import deferred_interrupt

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_a_flag_that_is_told_at_once(number, capfd):
    before = signal.getsignal(number)
    with deferred_interrupt() as flag:
        send(number)
        assert flag.asked
        assert "stopping after this step" in capfd.readouterr().err
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", SIGNALS)
def test_the_same_request_twice_is_one_and_a_later_one_interrupts(number, monkeypatch, capfd):
    now = [100.0]
    monkeypatch.setattr(interrupt.time, "monotonic", lambda: now[0])
    with deferred_interrupt() as flag:
        send(number)
        now[0] += 0.1
        send(number)  # `timeout` sends to the process, then to its group
        send(signal.SIGTERM)
        assert flag.asked
        now[0] += 2
        with pytest.raises(KeyboardInterrupt):
            send(number)
    assert capfd.readouterr().err.count("stopping") == 1


def test_an_ignored_signal_stays_ignored(capfd):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with deferred_interrupt() as flag:
            send(signal.SIGHUP)
            assert not flag.asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_changes_no_handler():
    seen = []

    def work():
        with deferred_interrupt() as flag:
            seen.append((signal.getsignal(signal.SIGTERM), flag.asked))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux")
def test_a_hangup_leaves_no_terminal_to_fail_on():
    code = """
import os, signal, sys
from rsquant.train.interrupt import deferred_interrupt
with deferred_interrupt() as flag:
    os.write(int(sys.argv[1]), b"r")
    sys.stdin.read()
    signal.raise_signal(signal.SIGHUP)
    for _ in range(100):
        print("a line", flush=True)
        print("a line", file=sys.stderr, flush=True)
    os._exit(7 if flag.asked else 1)
"""
    main, terminal = os.openpty()
    ready, writes = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code, str(writes)],
        stdin=subprocess.PIPE,
        stdout=terminal,
        stderr=terminal,
        pass_fds=[writes],
    )
    os.close(terminal)
    os.close(writes)
    assert os.read(ready, 1) == b"r"
    os.close(ready)
    os.close(main)  # writing to it raises from now on
    process.communicate(b"")
    assert process.returncode == 7


@pytest.mark.parametrize("number", SIGNALS)
def test_workers_leave_signals_to_their_parent(number):
    """A signal to the group: every image still comes."""
    split = shapes_source(0, 8, 24).val
    others = set(children())
    with deferred_interrupt() as flag:
        seen = 0
        for batch in evaluation_batches(split, (16,), 4, 2):
            seen += len(batch.labels)
            if seen == 4:
                workers = set(children()) - others
                assert len(workers) == 2
                for process in (*workers, os.getpid()):
                    os.kill(process, number)
        assert flag.asked and seen == 24


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_a_worker_starts_does_not_end_it(number, monkeypatch):
    """Torch's handler of a worker's SIGTERM stands before our own code runs there."""
    handlers = torch.utils.data._utils.signal_handling
    set_handlers = handlers._set_worker_signal_handlers

    def set_then_send():
        set_handlers()
        os.kill(os.getpid(), number)

    monkeypatch.setattr(handlers, "_set_worker_signal_handlers", set_then_send)
    with deferred_interrupt() as flag:
        batches = evaluation_batches(shapes_source(0, 8, 24).val, (16,), 4, 2)
        assert sum(len(batch.labels) for batch in batches) == 24
        assert not flag.asked


def test_a_signal_while_workers_start_reaches_the_parent(monkeypatch):
    with deferred_interrupt() as flag:
        batches = evaluation_batches(shapes_source(0, 8, 24).val, (16,), 4, 2)
        make = batches._loader

        def make_and_send(*arguments):
            send(signal.SIGTERM)
            return make(*arguments)

        monkeypatch.setattr(batches, "_loader", make_and_send)
        assert sum(len(batch.labels) for batch in batches) == 24
        assert flag.asked


def children():
    import multiprocessing

    return [child.pid for child in multiprocessing.active_children()]
