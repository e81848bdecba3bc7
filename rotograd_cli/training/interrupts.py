"""Ctrl-C, and the signals that end a job, never lost.

Libraries swallow ``KeyboardInterrupt`` while they are imported (a bare ``except`` around an
optional import is enough), and a checkpoint that is being written turns it into another error. So
an interrupt ends the process at once as long as nothing has begun; while a run is under way it is
remembered, and raised between two batches, where the run saves itself. SIGTERM, SIGUSR1 and
SIGUSR2, with which schedulers announce that they take a job's machine away, are treated alike, and
so is SIGHUP, which tells of a lost terminal.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

EXIT_CODE = 130
_ONE_CTRL_C_S = 1.0
_requested: int | None = None
_late: int | None = None
"""What came after the last :func:`check` of a run that ended well."""


class StopRequested(KeyboardInterrupt):
    """A signal that was held back, raised where stopping is safe.

    Args:
        signum: The signal.

    Attributes:
        is_reported: Whether the user has been told what was stopped.
    """

    is_reported = False

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def exit_code(error: KeyboardInterrupt) -> int:
    """Return the exit code after an interrupt: 128 and the number of the signal."""
    return 128 + getattr(error, "signum", signal.SIGINT)


@contextmanager
def quitting(farewell: Callable[[], None]) -> Iterator[None]:
    """Inside, an interrupt calls ``farewell`` and ends the process with exit code 130.

    Args:
        farewell: Leaves things tidy and tells the user.
    """

    def handle(signum: int, frame: FrameType | None) -> None:
        del signum, frame
        farewell()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_CODE)

    with _handling({signal.SIGINT: handle}):
        yield


@contextmanager
def deferring() -> Iterator[None]:
    """Inside, an interrupt waits for :func:`check`; a second Ctrl-C raises at once.

    One that follows within a second does not count: torchrun passes on what the terminal has sent
    to all processes already.

    A handler of SIGUSR1 or SIGUSR2 that was there before (a launcher's, which puts the job back
    into its queue) is called when the run has stopped; one of SIGTERM or SIGHUP is left in its
    place: ``nohup`` goes on to ignore SIGHUP.
    """
    global _requested, _late
    first = 0.0
    _late = None

    def handle(signum: int, frame: FrameType | None) -> None:
        global _requested
        nonlocal first
        del frame
        if _requested is None:
            first = time.monotonic()
        elif signum == signal.SIGINT and time.monotonic() - first > _ONE_CTRL_C_S:
            raise KeyboardInterrupt
        _requested = signum

    held = [signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2]
    ending = (signal.SIGTERM, signal.SIGHUP)
    held += [signum for signum in ending if signal.getsignal(signum) == signal.SIG_DFL]
    try:
        with _handling(dict.fromkeys(held, handle)):
            yield
        _late = _requested
    finally:
        _requested = None


def hand_on(error: StopRequested) -> None:
    """Deliver a signal again to the handler that a launcher had for it; do nothing without.

    Args:
        error: What :func:`check` raised, outside of :func:`deferring`.
    """
    if error.signum != signal.SIGINT and callable(signal.getsignal(error.signum)):
        signal.raise_signal(error.signum)


def request() -> None:
    """Do what one Ctrl-C does inside :func:`deferring`; any thread may call it."""
    global _requested
    _requested = signal.SIGINT


def requested() -> int:
    """Return the number of the signal that :func:`deferring` holds back; 0 if there is none."""
    return _requested or 0


def check() -> None:
    """Raise the interrupt that :func:`deferring` holds back; call it where stopping is safe.

    Raises:
        StopRequested: If an interrupt came.
    """
    if _requested is not None:
        raise StopRequested(_requested)


def check_late() -> None:
    """Raise the interrupt that came at the end of a run, so that the next one does not begin.

    Raises:
        StopRequested: If an interrupt came between the run's last :func:`check` and its end.
    """
    global _late
    signum = _late
    _late = None
    if signum is not None:
        raise StopRequested(signum)


@contextmanager
def _handling(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only it may set handlers
        yield
        return
    before = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
